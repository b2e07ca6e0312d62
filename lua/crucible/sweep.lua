-- One run after another over a table of configs, with a summary. A sweep lives in a folder of its own: the runs,
-- and sweep.json, which says what is done. Called again with the same points it goes on where it was: finished
-- runs are left alone, a run that was cut goes on from its latest checkpoint.
--
--     local sweep = assert(crucible.sweep {
--       folder = "runs/rank-and-rate", config = { base_model = "smollm2-135m-instruct" },
--       over = { lora_rank = { 4, 16 }, learning_rate = { 1e-4, 2e-4 } }, seeds = { 0, 1 },
--       dataset = "scifact", options = { epochs = 1, evaluate = { split = "dev" } }, metric = "loss",
--     })
--     print(sweep.text)
local config = require "crucible.lora.config"
local console = require "crucible.callbacks.console"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local selection = require "crucible.lora.selection"
local terminal = require "crucible.terminal"

local options = schema.new("crucible.sweep", {
  { name = "folder", required = true, check = schema.nonempty_string, doc = "of the sweep's runs; made if need be" },
  { name = "config", default = {}, check = schema.table, doc = "options of lora.config.new that all runs share" },
  { name = "over", default = {}, check = schema.table,
    doc = "name = { values … }: every combination; or a list of tables, one a run" },
  { name = "seeds", check = schema.list(schema.integer(), { nonempty = true }), doc = "each point once a seed" },
  { name = "dataset", check = schema.either(schema.nonempty_string, schema.table), doc = "of training_loop.run" },
  { name = "options", default = {}, check = schema.table, doc = "of training_loop.run" },
  { name = "train", check = schema.callable,
    doc = "(session, point, options) → what training_loop.run returns; default: that, with dataset and options" },
  { name = "metric", check = schema.nonempty_string,
    doc = "what runs are compared by; default: what their best checkpoints are chosen by" },
  { name = "direction", check = schema.one_of { "min", "max" }, doc = "default: by the metric's name" },
  { name = "adapter", check = schema.either(schema.string, schema.table), doc = "the engine" },
  { name = "signals", default = false, check = schema.boolean,
    doc = "SIGINT and SIGTERM end the run after its step, and the sweep" },
  { name = "report", default = false, check = schema.boolean, doc = "say on standard error what is done" },
})

---@class crucible.sweep.Point
---@field id string        name of its run folder
---@field changes table    to the shared config
---@field seed integer
---@field status string    "planned", then that of its run
---@field metric string?
---@field value number?    of the metric
---@field seconds number?
---@field run_dir string?
---@field best_checkpoint string?
---@field message string?  of one that failed

---@class crucible.sweep.Result
---@field points crucible.sweep.Point[]
---@field best crucible.sweep.Point?
---@field status "finished"|"interrupted"
---@field exit_code integer
---@field text string      a table for the terminal

-- ---- points --------------------------------------------------------------------------------

local function sorted_keys(object)
  local names = {}
  for name in pairs(object) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function with(changes, name, value)
  local copy = {}
  for key, kept in pairs(changes) do copy[key] = kept end
  copy[name] = value
  return copy
end

local function combinations(over)
  local list = { {} }
  for _, name in ipairs(sorted_keys(over)) do
    if type(over[name]) ~= "table" or #over[name] == 0 then
      errors.raise("crucible.sweep: over.%s must be a list of values, got %s", name, schema.show(over[name]))
    end
    local longer = {}
    for _, changes in ipairs(list) do
      for _, value in ipairs(over[name]) do longer[#longer + 1] = with(changes, name, value) end
    end
    list = longer
  end
  return list
end

local function changes_of(over)
  if #over == 0 then return combinations(over) end
  for i, changes in ipairs(over) do
    if type(changes) ~= "table" then
      errors.raise("crucible.sweep: over[%d] must be a table of options, got %s", i, schema.show(changes))
    end
  end
  return over
end

local function merged(shared, changes)
  local copy = {}
  for name, value in pairs(shared) do copy[name] = value end
  for name, value in pairs(changes) do copy[name] = value end
  return copy
end

-- Every config is checked here, before the first run.
local function points_of(given)
  local points = {}
  for _, changes in ipairs(changes_of(given.over)) do
    local made = config.new(merged(given.config, changes))
    for _, seed in ipairs(given.seeds or { made.seed }) do
      points[#points + 1] = {
        id = ("%03d"):format(#points + 1), changes = changes, seed = seed, status = "planned", config = made,
      }
    end
  end
  return points
end

-- ---- sweep.json ----------------------------------------------------------------------------

local kept_fields = { "id", "changes", "seed", "status", "metric", "value", "seconds", "run_dir", "best_checkpoint",
  "message" }

local function plain(points)
  local list = json.array {}
  for i, point in ipairs(points) do
    list[i] = {}
    for _, field in ipairs(kept_fields) do list[i][field] = point[field] end
  end
  return list
end

-- What must be the same for a sweep to go on: its points.
local function identity(points)
  local parts = {}
  for i, point in ipairs(points) do
    parts[i] = json.encode { config = config.plain(point.config), changes = point.changes, seed = point.seed }
  end
  return fs.sha256(table.concat(parts, "\n"))
end

local function write(self)
  return fs.write_file(self.file, json.encode_pretty {
    format = 1, sha256 = self.identity, metric = self.given.metric, points = plain(self.points),
  })
end

-- Takes over what an earlier call has done.
local function take_over(self)
  if not paths.is_file(self.file) then return true end
  local bytes, message, code = fs.read_file(self.file)
  if not bytes then return nil, message, code end
  local before, _, broken = json.decode(bytes)
  if broken or type(before) ~= "table" or before.format ~= 1 then
    return errors.failure("format", "%s: expected the record of a sweep, an object of format 1", self.file)
  end
  if before.sha256 ~= self.identity then
    return errors.failure("data", "%s holds a sweep over other points; choose another folder", self.given.folder)
  end
  for i, done in ipairs(before.points) do
    for _, field in ipairs(kept_fields) do self.points[i][field] = done[field] end
  end
  return true
end

-- ---- runs ----------------------------------------------------------------------------------

local function value_of(results, metric)
  local best = results.best
  metric = metric or best and best.metric or selection.training_loss
  if best and best.metric == metric then return metric, best.value end
  local last = results.evaluations[#results.evaluations]
  return metric, last and last.metrics[metric] or results.metrics[metric]
end

local function default_train(given)
  return function(session, _, run_options)
    return require("crucible.lora").training_loop.run(session, given.dataset, run_options)
  end
end

local function options_of(self)
  local run_options = { resume = "auto", signals = self.watcher }
  for name, value in pairs(self.given.options) do run_options[name] = value end
  if self.given.report then run_options.callbacks = { run_options.callbacks or {}, console.new() } end
  return run_options
end

-- Trains one point; notes what came of it.
local function run_point(self, point)
  local lora = require "crucible.lora"
  local session, problem, kind = lora.create_session {
    config = point.config, seed = point.seed, experiment_id = point.id, runs = self.given.folder,
    adapter = self.given.adapter,
  }
  if not session then return nil, problem, kind end
  local guard <close> = session
  local results, message, code = self.train(guard, point, options_of(self))
  if not results then return nil, message, code end
  point.status, point.seconds, point.run_dir = results.status, results.seconds, results.run_dir
  point.best_checkpoint = results.best_checkpoint
  point.metric, point.value = value_of(results, self.given.metric)
  return true
end

local function attempt(self, point)
  local ok, done, message, code = xpcall(run_point, errors.traceback, self, point)
  if ok and done then
    point.message = nil
  else
    point.status, point.message = code == "cancelled" and "interrupted" or "failed", ok and message or done
  end
end

-- ---- summary -------------------------------------------------------------------------------

local function better(self, a, b)
  return selection.better(a.value, b and b.value, self.given.direction or selection.direction(a.metric))
end

local function best_of(self)
  local best
  for _, point in ipairs(self.points) do
    if type(point.value) == "number" and better(self, point, best) then best = point end
  end
  return best
end

local function shown(value)
  if type(value) == "table" then return table.concat(value, " ") end
  return math.type(value) == "float" and ("%g"):format(value) or tostring(value)
end

local function text_of(self, best)
  local swept = {}
  for _, point in ipairs(self.points) do
    for name in pairs(point.changes) do swept[name] = true end
  end
  local names = sorted_keys(swept)
  local header = { "run" }
  table.move(names, 1, #names, 2, header)
  table.move({ "seed", best and best.metric or "value", "status", "time" }, 1, 4, #header + 1, header)
  local rows = {}
  for r, point in ipairs(self.points) do
    local row = { (point == best and "*" or " ") .. point.id }
    for _, name in ipairs(names) do row[#row + 1] = point.changes[name] == nil and "" or shown(point.changes[name]) end
    row[#row + 1] = tostring(point.seed)
    row[#row + 1] = type(point.value) == "number" and ("%.6g"):format(point.value) or ""
    row[#row + 1] = point.status
    row[#row + 1] = point.seconds and terminal.duration(point.seconds) or ""
    rows[r] = row
  end
  return terminal.table(header, rows)
end

local function result_of(self, status)
  local best = best_of(self)
  return {
    points = self.points, best = best, status = status, exit_code = status == "interrupted" and 130 or 0,
    text = text_of(self, best),
  }
end

-- ---- the sweep -----------------------------------------------------------------------------

local finished = { finished = true, stopped = true }

local function run_all(self)
  for _, point in ipairs(self.points) do
    if not finished[point.status] then
      attempt(self, point)
      local ok, message, code = write(self)
      if not ok then return nil, message, code end
      if point.status == "interrupted" then return result_of(self, "interrupted") end
    end
  end
  return result_of(self, "finished")
end

--- Runs a sweep to its end. A run that fails is noted and the next one begins; an interruption ends the sweep.
--- Raises on misuse, also in any point's config, before the first run.
---@param given table  options: see above
---@return crucible.sweep.Result? result, string? message, string? code
local function sweep(given)
  local resolved = options:resolve(given)
  if not resolved.train and resolved.dataset == nil then errors.raise "crucible.sweep: give dataset, or train" end
  local self = {
    given = resolved, points = points_of(resolved), train = resolved.train or default_train(resolved),
    file = paths.join(resolved.folder, "sweep.json"),
  }
  self.identity = identity(self.points)
  local ok, message, code = fs.make_folder(resolved.folder)
  if ok then ok, message, code = take_over(self) end
  if ok then ok, message, code = write(self) end
  if not ok then return nil, message, code end
  if not resolved.signals then return run_all(self) end
  self.watcher, message, code = require("crucible.signals").install()
  if not self.watcher then return nil, message, code end
  local guard <close> = self.watcher -- luacheck: ignore 211
  return run_all(self)
end

return sweep
