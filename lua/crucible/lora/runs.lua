-- The runs of a folder: listed, found, compared, deleted. What is known of each is its manifest and its
-- checkpoints; nothing else is written.
local checkpoints = require "crucible.lora.checkpoints"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local runs = {}

---@class crucible.lora.RunSummary
---@field id string            experiment_id
---@field name string?         of the experiment it belongs to
---@field tags string[]
---@field path string
---@field status string        "finished", "stopped", "interrupted", "failed"; "running" of one that goes on or was killed
---@field started_at string?   UTC
---@field finished_at string?
---@field base_model string?
---@field dataset string?
---@field steps integer        done
---@field total_steps integer? planned
---@field checkpoints integer
---@field best table?          name, step, metric, value
---@field metrics table<string, number>  mean_loss, …, and those of the last evaluation
---@field config table
---@field manifest table       all of it

local DEFAULT_FOLDER = "runs"

local function read_manifest(path)
  local file = paths.join(path, "manifest.json")
  if not paths.is_file(file) then return errors.failure("not_found", "%s is not the folder of a run", path) end
  local bytes, message, code = fs.read_file(file)
  if not bytes then return nil, message, code end
  local manifest
  manifest, message, code = json.decode(bytes)
  if code then return errors.failure("format", "%s: %s", file, message) end
  if type(manifest) ~= "table" then
    return errors.failure("format", "%s: expected an object, got %s", file, schema.show(manifest))
  end
  return manifest
end

local function numbers(into, from)
  for name, value in pairs(type(from) == "table" and from or {}) do
    if type(value) == "number" then into[name] = value end
  end
  return into
end

local function metrics_of(results, saved)
  local metrics = numbers({}, results.metrics)
  local evaluations = results.evaluations or {}
  local last = evaluations[#evaluations]
  if last then numbers(metrics, last.metrics) end
  if next(metrics) == nil and saved[1] then numbers(metrics, saved[#saved].metrics) end
  return metrics
end

local function object(value) return type(value) == "table" and value or {} end

--- What is known of the run in a folder. Fails with "not_found" when there is none.
---@param path string
---@return crucible.lora.RunSummary? summary, string? message, string? code
function runs.read(path)
  local manifest, message, code = read_manifest(path)
  if not manifest then return nil, message, code end
  local results, saved = object(manifest.results), checkpoints.list(paths.join(path, "checkpoints")) or {}
  local last, experiment = saved[#saved], object(manifest.experiment)
  return {
    id = manifest.experiment_id, name = experiment.name, tags = experiment.tags or {}, path = path,
    status = manifest.status, started_at = manifest.started_at, finished_at = manifest.finished_at,
    base_model = object(manifest.config).base_model, dataset = object(manifest.dataset).name,
    steps = results.total_steps or last and last.step or 0, total_steps = object(manifest.plan).total_steps,
    checkpoints = #saved, best = results.best, metrics = metrics_of(results, saved), config = object(manifest.config),
    manifest = manifest,
  }
end

local list_options = schema.new("lora.runs.list", {
  { name = "status", check = schema.nonempty_string, doc = "those of this status alone" },
  { name = "tag", check = schema.nonempty_string, doc = "those with this tag alone" },
})

local function wanted(summary, given)
  if given.status and summary.status ~= given.status then return false end
  if not given.tag then return true end
  for _, tag in ipairs(summary.tags) do
    if tag == given.tag then return true end
  end
  return false
end

--- The runs in a folder, the oldest first. Folders that are none are passed over.
---@param folder string?  default: "runs"
---@param options { status: string?, tag: string? }?
---@return crucible.lora.RunSummary[]? list, string? message, string? code
function runs.list(folder, options)
  local given = list_options:resolve(options)
  folder = folder or DEFAULT_FOLDER
  if not paths.is_folder(folder) then return {} end
  local names, message, code = fs.list(folder)
  if not names then return nil, message, code end
  local list = {}
  for _, name in ipairs(names) do
    local summary = name:sub(1, 1) ~= "." and runs.read(paths.join(folder, name))
    if summary and wanted(summary, given) then list[#list + 1] = summary end
  end
  table.sort(list, function(a, b)
    if a.started_at ~= b.started_at then return tostring(a.started_at) < tostring(b.started_at) end
    return a.path < b.path
  end)
  return list
end

--- A run by its path, or by its id or an unmistakable beginning of it.
---@param name string
---@param folder string?  default: "runs"
---@return crucible.lora.RunSummary? summary, string? message, string? code
function runs.find(name, folder)
  if paths.is_file(paths.join(name, "manifest.json")) then return runs.read(name) end
  folder = folder or DEFAULT_FOLDER
  if not name:find("/", 1, true) and paths.is_file(paths.join(folder, name, "manifest.json")) then
    return runs.read(paths.join(folder, name))
  end
  local list, message, code = runs.list(folder)
  if not list then return nil, message, code end
  local found = {}
  for _, summary in ipairs(list) do
    if paths.basename(summary.path):sub(1, #name) == name then found[#found + 1] = summary end
  end
  if #found == 1 then return found[1] end
  if #found == 0 then return errors.failure("not_found", "%s: no run begins like that in %s", name, folder) end
  return errors.failure("argument", "%s: %d runs begin like that in %s: %s, %s …", name, #found, folder,
    paths.basename(found[1].path), paths.basename(found[2].path))
end

-- ---- comparing -----------------------------------------------------------------------------

local function show(value)
  if type(value) == "table" then
    if #value > 0 then return table.concat(value, " ") end
    return json.encode(value)
  end
  return value
end

local function sorted_names(...)
  local set, names = {}, {}
  for _, tables in ipairs { ... } do
    for _, one in ipairs(tables) do
      for name in pairs(one) do set[name] = true end
    end
  end
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- Options of the runs in which they differ: { name, values by run }.
local function differences(summaries)
  local configs, found = {}, {}
  for i, summary in ipairs(summaries) do
    configs[i] = { seed_of_session = summary.manifest.seed, dataset = summary.dataset }
    for name, value in pairs(summary.config) do configs[i][name] = value end
    for name, value in pairs(object(summary.manifest.plan)) do configs[i]["plan." .. name] = value end
  end
  for _, name in ipairs(sorted_names(configs)) do
    local values, differs = {}, false
    for i, config in ipairs(configs) do
      values[i] = show(config[name])
      if values[i] == nil then values[i] = "-" end
      differs = differs or values[i] ~= values[1]
    end
    if differs then found[#found + 1] = { name = name, values = values } end
  end
  return found
end

local function metrics_beside(summaries)
  local all, found = {}, {}
  for i, summary in ipairs(summaries) do all[i] = summary.metrics end
  for _, name in ipairs(sorted_names(all)) do
    local values = {}
    for i, metrics in ipairs(all) do values[i] = metrics[name] or "-" end
    found[#found + 1] = { name = name, values = values }
  end
  return found
end

local function add_rows(rows, entries)
  for _, entry in ipairs(entries) do
    local row = { entry.name }
    for i, value in ipairs(entry.values) do
      row[i + 1] = math.type(value) == "float" and ("%.6g"):format(value) or tostring(value)
    end
    rows[#rows + 1] = row
  end
end

---@class crucible.lora.RunComparison
---@field runs crucible.lora.RunSummary[]
---@field options { name: string, values: any[] }[]  in which the runs differ
---@field metrics { name: string, values: (number|string)[] }[]  "-" where a run has none
---@field text string  a table for the terminal

--- Runs beside each other: the options in which they differ, and their metrics.
---@param names string[]  paths, ids or their beginnings
---@param folder string?  default: "runs"
---@return crucible.lora.RunComparison? comparison, string? message, string? code
function runs.compare(names, folder)
  if type(names) ~= "table" or #names < 2 then
    errors.raise("lora.runs.compare: expected at least two runs, got %s", schema.show(names))
  end
  local summaries, header, rows = {}, { "" }, {}
  for i, name in ipairs(names) do
    local message, code
    summaries[i], message, code = runs.find(name, folder)
    if not summaries[i] then return nil, message, code end
    header[i + 1] = paths.basename(summaries[i].path)
  end
  local options, metrics = differences(summaries), metrics_beside(summaries)
  add_rows(rows, options)
  add_rows(rows, metrics)
  return { runs = summaries, options = options, metrics = metrics, text = terminal.table(header, rows) }
end

--- Runs as a table for the terminal.
---@param list crucible.lora.RunSummary[]
---@return string
function runs.text(list)
  local rows = {}
  for i, summary in ipairs(list) do
    local best = summary.best
    rows[i] = {
      paths.basename(summary.path), summary.name or "", tostring(summary.status), tostring(summary.started_at or ""),
      ("%d/%s"):format(summary.steps, summary.total_steps or "?"), summary.dataset or "",
      best and ("%s %.4g at %d"):format(best.metric, best.value, best.step) or "",
    }
  end
  return terminal.table({ "run", "experiment", "status", "started", "steps", "data", "best" }, rows)
end

-- ---- deleting ------------------------------------------------------------------------------

local delete_options = schema.new("lora.runs.delete", {
  { name = "folder", check = schema.nonempty_string, doc = 'of runs; default: "runs"' },
  { name = "running", default = false, check = schema.boolean, doc = "also one whose manifest says it is running" },
})

--- Removes a run with everything in its folder. One that says it is running (it may have been killed) must be
--- asked for. Returns its path.
---@param name string  path, id, or an unmistakable beginning of it
---@param options { folder: string?, running: boolean? }?
---@return string? path, string? message, string? code
function runs.delete(name, options)
  local given = delete_options:resolve(options)
  local summary, message, code = runs.find(name, given.folder)
  if not summary then return nil, message, code end
  if summary.status == "running" and not given.running then
    return errors.failure("argument", "%s says it is running; running = true deletes it all the same", summary.path)
  end
  -- Its name goes first, so that a kill leaves no half of a run under it.
  local aside = paths.join(paths.dirname(summary.path), ".deleted-" .. paths.basename(summary.path))
  local ok
  ok, message, code = fs.rename(summary.path, aside)
  if ok then ok, message, code = fs.remove_tree(aside) end
  if not ok then return nil, message, code end
  return summary.path
end

return runs
