-- A run folder as data for its report: what is there, in order, and what is wrong with the rest. Nothing in
-- the folder is trusted: values of another kind than expected are left out and counted as problems.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local jsonl = require "crucible.jsonl"
local order = require "crucible.hooks.order"
local paths = require "crucible.paths"
local run_records = require "crucible.lora.run_records"
local series = require "crucible.report.series"

local run_data = {}

local finite = series.finite
local MOST_LAYERS, MOST_COMPONENTS, MOST_ISSUES = 256, 48, 200

---@class crucible.report.Run
---@field path string
---@field name string
---@field manifest table
---@field steps table[]        one record a step, rising: step, epoch, loss, …, components, layers, ratios, histogram
---@field components string[]  names, sorted
---@field issues table[]       { layer, status, first, last, count }
---@field actions table[]      { step, text }
---@field evaluations table[]
---@field samples table[]
---@field checkpoints table[]
---@field problems string[]    what could not be read, one sentence each

-- ---- telemetry -----------------------------------------------------------------------------

local function table_or_empty(value) return type(value) == "table" and value or {} end

local function numbers_by_name(given, most)
  local kept, count = {}, 0
  for name, value in pairs(table_or_empty(given)) do
    if type(name) == "string" and finite(value) and count < most then kept[name], count = value, count + 1 end
  end
  return kept
end

local function number_list(given, most)
  local list = {}
  for i = 1, math.min(#table_or_empty(given), most) do list[i] = finite(given[i]) or false end
  return list
end

-- Norms by depth out of norms of matrices, for telemetry that was kept in full.
local function layers_of(norms)
  local squares, most = {}, 0
  for name, norm in pairs(norms) do
    local depth = order.place(name).depth
    if depth >= 1 and depth <= MOST_LAYERS then
      squares[depth], most = (squares[depth] or 0) + norm ^ 2, math.max(most, depth)
    end
  end
  local list = {}
  for depth = 1, most do list[depth] = squares[depth] and math.sqrt(squares[depth]) or false end
  return list
end

local function histogram_of(given)
  local least, counts = finite(table_or_empty(given).least), table_or_empty(given).counts
  if not least or math.abs(least) > 2000 or type(counts) ~= "table" then return nil end
  return { least = math.floor(least), counts = number_list(counts, 512) }
end

local function hook_fields(record, hooks)
  record.layers = number_list(hooks.layers, MOST_LAYERS)
  if #record.layers == 0 then record.layers = layers_of(numbers_by_name(hooks.gradient_norms, 1e5)) end
  record.ratios = number_list(hooks.ratios, MOST_LAYERS)
  record.histogram = histogram_of(hooks.histogram)
  record.cosine, record.noise_scale = finite(hooks.gradient_cosine), finite(hooks.gradient_noise_scale)
  record.update_ratio, record.clipped_share = finite(hooks.update_ratio), finite(hooks.clipped_share)
end

local figures = { "loss", "lr", "grad_norm", "update_norm", "tokens", "supervised", "seconds", "tokens_per_s" }

-- A step's record; nil when the line is none.
local function record_of(row)
  local step = type(row) == "table" and finite(row.step) and math.tointeger(row.step)
  if not step or step < 0 then return nil end
  local record = { step = step, epoch = finite(row.epoch), skipped = row.skipped == true }
  for _, name in ipairs(figures) do record[name] = finite(row[name]) end
  record.components = numbers_by_name(row.components, MOST_COMPONENTS)
  if type(row.hooks) == "table" then hook_fields(record, row.hooks) end
  return record
end

local function note_issues(run, record, hooks)
  for _, issue in ipairs(table_or_empty(hooks.gradient_issues)) do
    local layer, status = tostring(table_or_empty(issue).layer), tostring(table_or_empty(issue).status)
    local key = layer .. "\0" .. status
    local known = run.issue_by_key[key]
    if not known and #run.issues < MOST_ISSUES then
      known = { layer = layer, status = status, first = record.step, count = 0 }
      run.issue_by_key[key], run.issues[#run.issues + 1] = known, known
    end
    if known then known.count, known.last = known.count + 1, record.step end
  end
end

local function note_actions(run, record, hooks)
  for _, action in ipairs(table_or_empty(hooks.actions)) do
    if type(action) == "table" and #run.actions < MOST_ISSUES then
      run.actions[#run.actions + 1] = { step = record.step, action = tostring(action.action),
        hook = tostring(action.hook), point = tostring(action.point) }
    end
  end
end

-- Steps in order; of a step that comes twice (a run that went on after a kill) the later line counts.
local function in_order(records)
  local by_step, list = {}, {}
  for _, record in ipairs(records) do
    if not by_step[record.step] then list[#list + 1] = record.step end
    by_step[record.step] = record
  end
  table.sort(list)
  for i, step in ipairs(list) do list[i] = by_step[step] end
  return list
end

local function component_names(steps)
  local known, names = {}, {}
  for _, record in ipairs(steps) do
    for name in pairs(record.components) do
      if not known[name] and #names < MOST_COMPONENTS then
        known[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names
end

local function complain(run, format, ...) run.problems[#run.problems + 1] = format:format(...) end

local function read_telemetry(run)
  local path = paths.join(run.path, "telemetry.jsonl")
  if not paths.is_file(path) then return complain(run, "there is no telemetry.jsonl: no curves") end
  local next_row, message = jsonl.reader(path)
  if not next_row then return complain(run, "%s", message) end
  local records, strange = {}, 0
  while true do
    local row, line, code = next_row()
    if code then
      complain(run, "telemetry ends at a damaged line: %s", line)
      break
    end
    if row == nil then break end
    local record = record_of(row)
    if record then
      records[#records + 1] = record
      note_issues(run, record, table_or_empty(row.hooks))
      note_actions(run, record, table_or_empty(row.hooks))
    else
      strange = strange + 1
    end
  end
  if strange > 0 then complain(run, "%d lines of telemetry.jsonl are no steps and were left out", strange) end
  run.steps = in_order(records)
  run.components = component_names(run.steps)
end

-- ---- the rest ------------------------------------------------------------------------------

-- JSON null as a missing value, all the way down.
local function without_null(value)
  if value == json.null then return nil end
  if type(value) ~= "table" then return value end
  for key, inner in pairs(value) do value[key] = without_null(inner) end
  return value
end

local function read_manifest(run)
  local path = paths.join(run.path, "manifest.json")
  if not paths.is_file(path) then return complain(run, "there is no manifest.json: no configuration") end
  local bytes, message = fs.read_file(path)
  if not bytes then return complain(run, "manifest.json cannot be read: %s", message) end
  local value
  value, message = json.decode(bytes)
  if message or type(value) ~= "table" then
    return complain(run, "manifest.json cannot be read: %s", message or "it is not an object")
  end
  run.manifest = without_null(value)
end

local function read_records(run, kind)
  local rows, problem = run_records.read(run.path, kind)
  if problem then complain(run, "%s", problem) end
  for i, row in ipairs(rows) do rows[i] = without_null(row) end
  run[kind] = rows
end

-- Checkpoints as the manifest has them; a run that was killed has none there.
local function read_checkpoints(run)
  local results = table_or_empty(run.manifest.results)
  local best = type(results.best_checkpoint) == "string" and paths.basename(results.best_checkpoint)
  for _, checkpoint in ipairs(table_or_empty(results.checkpoints)) do
    if type(checkpoint) == "table" and type(checkpoint.name) == "string" then
      run.checkpoints[#run.checkpoints + 1] = {
        name = checkpoint.name, step = finite(checkpoint.step), mean_loss = finite(checkpoint.mean_loss),
        best = checkpoint.name == best,
      }
    end
  end
end

-- Evaluations of older run folders stand in the manifest alone.
local function evaluations_of_manifest(run)
  if #run.evaluations > 0 then return end
  for _, row in ipairs(table_or_empty(table_or_empty(run.manifest.results).evaluations)) do
    if type(row) == "table" and type(row.metrics) == "table" then
      run.evaluations[#run.evaluations + 1] = { step = row.step, epoch = row.epoch, metrics = row.metrics,
        moment = "training" }
    end
  end
end

-- Evaluations in the order of training: base model, steps, then what was evaluated afterwards.
local moments = { before = 1, training = 2, best = 3, last = 4 }

local function sort_evaluations(list)
  local place = {}
  for i, row in ipairs(list) do place[row] = i end
  table.sort(list, function(a, b)
    local first, second = moments[a.moment] or 2, moments[b.moment] or 2
    if first ~= second then return first < second end
    local step_a, step_b = finite(a.step) or 0, finite(b.step) or 0
    if step_a ~= step_b then return step_a < step_b end
    return place[a] < place[b]
  end)
end

local function new_run(path)
  return {
    path = path, name = paths.basename(path), manifest = {}, steps = {}, components = {}, issues = {}, actions = {},
    evaluations = {}, samples = {}, checkpoints = {}, problems = {}, issue_by_key = {},
  }
end

--- Reads a run folder. What is missing or damaged in it is named in `problems`; a folder that is not there, or
--- holds neither a manifest nor telemetry, is a failure.
---@param path string
---@return crucible.report.Run? run, string? message, string? code
function run_data.read(path)
  if not paths.is_folder(path) then
    return errors.failure("not_found", "%s: %s", path, paths.stat(path) and "not a folder" or "no such run folder")
  end
  local has_manifest = paths.is_file(paths.join(path, "manifest.json"))
  if not has_manifest and not paths.is_file(paths.join(path, "telemetry.jsonl")) then
    return errors.failure("format", "%s is no run folder: it has neither manifest.json nor telemetry.jsonl", path)
  end
  local run = new_run(path)
  read_manifest(run)
  read_telemetry(run)
  read_records(run, "evaluations")
  read_records(run, "samples")
  read_checkpoints(run)
  evaluations_of_manifest(run)
  sort_evaluations(run.evaluations)
  if type(run.manifest.experiment_id) == "string" then run.name = run.manifest.experiment_id end
  return run
end

return run_data
