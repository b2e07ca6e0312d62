-- Checkpoint folders: written whole or not at all, sealed with digests, listed, found, pruned, refused
-- when incomplete.
--
--     <folder>/step_000100/  adapter_model.safetensors, adapter_config.json,
--                            optimizer.safetensors, trainer_state.json
--
-- trainer_state.json is written last and holds the SHA-256 of the others; a folder without it is
-- not a checkpoint. Names that begin with a dot are work in progress.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local selection = require "crucible.lora.selection"

local checkpoints = {}

checkpoints.state_file = "trainer_state.json"
checkpoints.optimizer_file = "optimizer.safetensors"

local FORMAT = 1

--- Raises where a name cannot be that of a checkpoint's folder.
---@param caller string  for the error
---@param name string
function checkpoints.check_name(caller, name)
  if type(name) ~= "string" or not name:find "^[%w_%-][%w_%-%.]*$" then
    errors.raise("%s: a name is letters, digits, '_', '-' and '.', got %s", caller, schema.show(name))
  end
end

-- ---- writing -------------------------------------------------------------------------------

local function seal(folder, state)
  local names, message, code = fs.list(folder)
  if not names then return nil, message, code end
  state.format, state.files = FORMAT, {}
  for _, name in ipairs(names) do
    local digest
    digest, message, code = fs.sha256 { file = paths.join(folder, name) }
    if not digest then return nil, message, code end
    state.files[name] = digest
  end
  return fs.write_file(paths.join(folder, checkpoints.state_file), json.encode_pretty(state))
end

local function remove_if_there(path)
  if not paths.stat(path) then return true end
  return fs.remove_tree(path)
end

-- Puts `from` at `to`. A folder already there is kept aside until the new one stands, so that a
-- kill between the two renames loses nothing: `recover` puts it back. One that was left aside by a save
-- that failed after its own stood is older than both.
local function replace(from, to, aside)
  local steps = {
    function() return fs.rename(from, to) end,
    function() return fs.sync_folder(paths.dirname(to)) end,
    function() return remove_if_there(aside) end,
  }
  if paths.stat(to) then
    table.insert(steps, 1, function() return remove_if_there(aside) end)
    table.insert(steps, 2, function() return fs.rename(to, aside) end)
  end
  return errors.in_order(steps)
end

--- Writes a checkpoint: `fill(folder)` writes its files into a folder that no reader looks at,
--- which then takes the name in one rename.
---@param folder string
---@param name string
---@param state table  becomes trainer_state.json
---@param fill fun(folder: string): true?, string?, string?
---@return string? path, string? message, string? code
function checkpoints.write(folder, name, state, fill)
  local draft = paths.join(folder, ".writing-" .. name)
  local final = paths.join(folder, name)
  local ok, message, code = errors.in_order {
    function() return fs.make_folder(folder) end,
    function() return remove_if_there(draft) end,
    function() return fs.make_folder(draft) end,
    function() return fill(draft) end,
    function() return seal(draft, state) end,
    function() return fs.sync_folder(draft) end,
    function() return replace(draft, final, paths.join(folder, ".replaced-" .. name)) end,
  }
  if ok then return final end
  remove_if_there(draft)
  return nil, message, code
end

--- Cleans up after a run that was killed: drafts and what was being pruned go, and a checkpoint that
--- was being replaced comes back when its successor never took its place.
---@param folder string
---@return true? ok, string? message, string? code
function checkpoints.recover(folder)
  if not paths.is_folder(folder) then return true end
  local names, message, code = fs.list(folder)
  if not names then return nil, message, code end
  for _, name in ipairs(names) do
    local aside = name:match("^%.replaced%-(.+)$")
    local path, ok = paths.join(folder, name), true
    if aside and not paths.stat(paths.join(folder, aside)) then
      ok, message, code = fs.rename(path, paths.join(folder, aside))
    elseif aside or name:find("^%.writing%-") or name:find("^%.pruned%-") then
      ok, message, code = fs.remove_tree(path)
    end
    if not ok then return nil, message, code end
  end
  return true
end

-- ---- reading -------------------------------------------------------------------------------

--- The state of a checkpoint folder. Fails with "not_found" when there is none and with "format"
--- when it is incomplete or damaged, saying why.
---@param path string
---@return table? state, string? message, string? code
function checkpoints.read(path)
  if not paths.is_folder(path) then return errors.failure("not_found", "%s: no such checkpoint", path) end
  local file = paths.join(path, checkpoints.state_file)
  if not paths.is_file(file) then
    return errors.failure("format", "%s is not a complete checkpoint: %s is missing", path, checkpoints.state_file)
  end
  local bytes, message, code = fs.read_file(file)
  if not bytes then return nil, message, code end
  local state
  state, message, code = json.decode(bytes)
  if code then return errors.failure("format", "%s: %s", file, message) end
  if type(state) ~= "table" or state.format ~= FORMAT or type(state.files) ~= "table" then
    return errors.failure("format", "%s: expected a checkpoint of format %d", file, FORMAT)
  end
  return state
end

--- Checks every file of a checkpoint against its digest.
---@param path string
---@param state table  of checkpoints.read
---@return true? ok, string? message, string? code
function checkpoints.verify(path, state)
  for name, digest in pairs(state.files) do
    local file = paths.join(path, name)
    if not paths.is_file(file) then
      return errors.failure("format", "%s is not a complete checkpoint: %s is missing", path, name)
    end
    local found, message, code = fs.sha256 { file = file }
    if not found then return nil, message, code end
    if found ~= digest then
      return errors.failure("format", "%s is damaged: its digest is not the one recorded", file)
    end
  end
  return true
end

---@class crucible.lora.Checkpoint
---@field name string
---@field path string
---@field step integer       optimiser steps of the run
---@field epoch integer?
---@field mean_loss number?  of training since the checkpoint before
---@field metrics table<string, number>  mean_loss, and those of an evaluation at this step
---@field remote string?     name of the state on the server that trained it

--- What a state says about its checkpoint.
---@param name string
---@param path string
---@param state table
---@return crucible.lora.Checkpoint
function checkpoints.summary(name, path, state)
  local loop = state.loop or {}
  return {
    name = name, path = path, step = loop.step or state.step, epoch = loop.epoch, mean_loss = loop.mean_loss,
    metrics = loop.metrics or { mean_loss = loop.mean_loss }, remote = state.remote and state.remote.state,
  }
end

--- The complete checkpoints of a folder, by step.
---@param folder string
---@return crucible.lora.Checkpoint[]? list, string? message, string? code
function checkpoints.list(folder)
  if not paths.is_folder(folder) then return {} end
  local names, message, code = fs.list(folder)
  if not names then return nil, message, code end
  local list = {}
  for _, name in ipairs(names) do
    local path = paths.join(folder, name)
    local state = name:sub(1, 1) ~= "." and checkpoints.read(path)
    if state then list[#list + 1] = checkpoints.summary(name, path, state) end
  end
  table.sort(list, function(a, b)
    if a.step ~= b.step then return a.step < b.step end
    return a.name < b.name
  end)
  return list
end

--- The newest complete checkpoint; nil when there is none.
---@param folder string
---@return crucible.lora.Checkpoint? checkpoint, string? message, string? code
function checkpoints.latest(folder)
  local list, message, code = checkpoints.list(folder)
  if not list then return nil, message, code end
  return list[#list]
end

-- A metric noted in a checkpoint; nil where it was not measured, or not finite.
local function noted(checkpoint, metric)
  local value = checkpoint.metrics[metric]
  return type(value) == "number" and value or nil
end

-- From the best to the worst by a metric; those without it come last, the newest first.
local function ranked(list, metric, direction)
  local order = table.move(list, 1, #list, 1, {})
  table.sort(order, function(a, b)
    local x, y = noted(a, metric), noted(b, metric)
    if x and y and x ~= y then return selection.better(x, y, direction) end
    if (x == nil) ~= (y == nil) then return x ~= nil end
    return a.step > b.step
  end)
  return order
end

--- The best complete checkpoint by a metric that was noted in it; nil when none has it.
---@param folder string
---@param metric string?  default: "mean_loss"
---@param direction "min"|"max"|nil  default: by the metric's name
---@return crucible.lora.Checkpoint? checkpoint, string? message, string? code
function checkpoints.best(folder, metric, direction)
  local list, message, code = checkpoints.list(folder)
  if not list then return nil, message, code end
  metric = metric or selection.training_loss
  local first = ranked(list, metric, direction or selection.direction(metric))[1]
  return first and noted(first, metric) and first or nil
end

local prune_options = schema.new("checkpoints.prune", {
  { name = "keep_last", check = schema.integer { min = 1 }, doc = "newest ones to keep" },
  { name = "keep_best", check = schema.integer { min = 1 }, doc = "best ones to keep" },
  { name = "metric", default = selection.training_loss, check = schema.nonempty_string, doc = "what is best" },
  { name = "direction", check = schema.one_of { "min", "max" }, doc = "default: by the metric's name" },
  { name = "keep", default = {}, check = schema.list(schema.string), doc = "names that stay in any case" },
})

local function kept_names(list, given)
  local kept = {}
  for _, name in ipairs(given.keep) do kept[name] = true end
  for i = math.max(1, #list - (given.keep_last or 1) + 1), #list do kept[list[i].name] = true end
  local order = ranked(list, given.metric, given.direction or selection.direction(given.metric))
  for i = 1, math.min(given.keep_best or 1, #order) do kept[order[i].name] = true end
  return kept
end

local function remove(folder, checkpoint)
  local aside = paths.join(folder, ".pruned-" .. checkpoint.name)
  return errors.in_order {
    function() return remove_if_there(aside) end,
    function() return fs.rename(checkpoint.path, aside) end,
    function() return fs.remove_tree(aside) end,
  }
end

--- Removes checkpoints that are neither among the newest nor among the best; the newest and the best
--- always stay. A checkpoint loses its name before its files, so that a kill leaves no half of one.
--- Returns those removed.
---@param folder string
---@param options { keep_last: integer?, keep_best: integer?, metric: string?, direction: string?, keep: string[]? }?
---@return crucible.lora.Checkpoint[]? removed, string? message, string? code
function checkpoints.prune(folder, options)
  local given = prune_options:resolve(options)
  local list, message, code = checkpoints.list(folder)
  if not list then return nil, message, code end
  local kept, removed = kept_names(list, given), {}
  for _, checkpoint in ipairs(list) do
    if not kept[checkpoint.name] then
      local ok
      ok, message, code = remove(folder, checkpoint)
      if not ok then return nil, message, code end
      removed[#removed + 1] = checkpoint
    end
  end
  return removed
end

local by_word = {
  latest = checkpoints.latest,
  best = function(folder)
    local latest = checkpoints.latest(folder)
    local state = latest and checkpoints.read(latest.path)
    local best = state and state.loop and state.loop.best
    if best and paths.is_folder(paths.join(folder, best.name)) then return { path = paths.join(folder, best.name) } end
    return checkpoints.best(folder)
  end,
}

--- Where a checkpoint given by name or path lies: a name is looked for in `folder`. "latest" is the newest
--- complete one, "best" the one that its run found best.
---@param folder string
---@param name_or_path string
---@return string
function checkpoints.locate(folder, name_or_path)
  local named = paths.join(folder, name_or_path)
  if not name_or_path:find("/", 1, true) and paths.is_folder(named) then return named end
  local found = by_word[name_or_path] and by_word[name_or_path](folder)
  if found then return found.path end
  if paths.is_folder(name_or_path) then return name_or_path end
  return name_or_path:find("/", 1, true) and name_or_path or named
end

return checkpoints
