-- Hooks on gradients: functions that look at every gradient of every trained matrix within a step, add
-- what they find to the step's record, and may act.
--
-- A hook is `function(info) → fields, or nil`. `info` is one table for the whole step:
--
--     point        "after_backward" (before clipping), "after_clipping", "after_update"
--     step, epoch, loss, components, lr, supervised, tokens
--     gradients    name → view: :norm() :stats() :histogram() :shape() :totable() :tensor()
--                  :scale(x) :add_(other, factor) :zero_() :dot(other); gone after the update
--     session      with :freeze(names), :updates(), :spectrum(name), …
--     grad_norm, max_grad_norm, clip_scale    from "after_clipping" on
--     update_norm                             "after_update"
--
-- The fields it returns are merged into info, where later hooks, on_step_end and the telemetry find
-- them. The field `action` is not merged but done:
--
--     "skip"                   no update this step
--     "stop"                   the run ends after this step
--     { scale = x }            every gradient times x
--     { freeze = { names } }   from now on; a name may be a beginning up to a dot: "layers.3"
--     { thaw = { names } }     from the next step on
--
-- or a table with several of these. Hooks run in the order of their registration.
local errors = require "crucible.errors"
local gradient_report = require "crucible.lora.gradient_report"
local origin = require "crucible.origin"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local gradient_hooks = {}

--- Where in a step a hook can stand.
gradient_hooks.points = { "after_backward", "after_clipping", "after_update" }

--- Hooks that come with the library, by the name that registers them.
gradient_hooks.builtins = { "norm", "distribution", "flow", "health", "updates", "cosine", "noise", "spectrum" }

local function builtin(name) return require("crucible.hooks." .. name) end

--- The builtin hook "norm" (norms of all gradients), to be registered under a name of one's own.
function gradient_hooks.gradient_norm_hook() return builtin "norm"() end

--- The builtin hook "distribution": moments, extremes and zero share of all gradients.
function gradient_hooks.gradient_distribution_hook() return builtin "distribution"() end

--- The builtin hook "flow": magnitudes by depth.
function gradient_hooks.gradient_flow_hook() return builtin "flow"() end

--- The builtin hook "health": gradients that vanish, explode, are not finite or dead.
---@param thresholds table?  vanishing 1e-7, exploding 1e3, runaway 0.5, dead_after 20, clip_window 50, clip_share 0.95
function gradient_hooks.gradient_health_hook(thresholds) return builtin "health"(thresholds) end

---@class crucible.lora.GradientHooks
---@field experiment_id string?
---@field buffer_size integer
---@field on_error "stop"|"continue"
---@field history crucible.lora.GradientHistory
local Hooks = { __name = "crucible.gradient_hooks" }
Hooks.__index = Hooks

-- ---- registering ---------------------------------------------------------------------------

local known_points, known_builtins = {}, {}
for _, name in ipairs(gradient_hooks.points) do known_points[name] = true end
for _, name in ipairs(gradient_hooks.builtins) do known_builtins[name] = true end

local function check_points(list)
  if type(list) == "string" then list = { list } end
  if type(list) ~= "table" or #list == 0 then return false end
  for _, name in ipairs(list) do
    if not known_points[name] then
      local hint = suggest.phrase(tostring(name), gradient_hooks.points)
      return false, ("unknown point %s%s"):format(schema.show(name), hint)
    end
  end
  return true
end

local register_options = schema.new("gradient_hooks.register_hook", {
  { name = "points", check = schema.test("a list of points of a step", check_points),
    doc = "where it runs: " .. table.concat(gradient_hooks.points, ", ") .. '; default: "after_backward"' },
})

-- What a callback says of itself if it is one of crucible.hooks, or a table like those.
local function traits_of(callback, given)
  local own = type(callback) == "table" and callback or {}
  local points = given.points or own.points or { "after_backward" }
  if type(points) == "string" then points = { points } end
  local at = {}
  for _, point in ipairs(points) do at[point] = true end
  return { at = at, watch = own.watch or {}, distribution = own.distribution or false }
end

local function find(self, name)
  for index, registered in ipairs(self.list) do
    if registered.name == name then return index end
  end
end

--- Registers a function under a name. Raises when the name is taken.
---@param name string
---@param callback fun(info: table): table?
---@param options { points: string|string[]? }?
---@return crucible.lora.GradientHooks self
function Hooks:register_hook(name, callback, options)
  local given = register_options:resolve(options)
  if type(name) ~= "string" or name == "" then
    errors.raise("gradient_hooks.register_hook: a hook needs a name, got %s", schema.show(name))
  end
  if not schema.callable.read(callback) then
    errors.raise('gradient_hooks.register_hook: hook "%s" must be a function, got %s', name, schema.show(callback))
  end
  if find(self, name) then
    errors.raise('gradient_hooks.register_hook: "%s" is registered already, expected another name', name)
  end
  local registered = traits_of(callback, given)
  registered.name, registered.callback = name, callback
  self.list[#self.list + 1] = registered
  return self
end

--- Takes a hook out. Raises when there is none of that name.
---@param name string
---@return crucible.lora.GradientHooks self
function Hooks:unregister_hook(name)
  local index = find(self, name)
  if not index then
    errors.raise("gradient_hooks.unregister_hook: no hook is named %s%s", schema.show(name),
      suggest.phrase(tostring(name), self:names()))
  end
  table.remove(self.list, index)
  return self
end

--- Names of the registered hooks, in order.
---@return string[]
function Hooks:names()
  local names = {}
  for i, registered in ipairs(self.list) do names[i] = registered.name end
  return names
end

local function add_builtin(self, name, options)
  if not known_builtins[name] then
    errors.raise("gradient_hooks: no hook is named %s%s", schema.show(name),
      suggest.phrase(name, gradient_hooks.builtins))
  end
  self:register_hook(name, builtin(name)(options))
end

-- A specification: "norm", { "health", { vanishing = … } }, { name, fn, points = … }.
local function add(self, spec, place)
  if type(spec) == "string" then return add_builtin(self, spec) end
  local name, what = nil, nil
  if type(spec) == "table" then name, what = spec[1], spec[2] end
  if type(name) ~= "string" then
    errors.raise('gradient_hooks: hook %d: expected a name, { name, options } or { name, function }, got %s', place,
      schema.show(spec))
  end
  if schema.callable.read(what) then return self:register_hook(name, what, { points = spec.points }) end
  if spec.points then errors.raise('gradient_hooks: hook "%s" has its points already', name) end
  return add_builtin(self, name, what)
end

-- ---- running -------------------------------------------------------------------------------

-- Fields of a step that no hook replaces.
local own_fields = {
  point = true, step = true, epoch = true, gradients = true, session = true, actions = true, action = true,
}

local actions = {}

function actions.skip(info) info.skip = true end
function actions.stop(info) info.stop = true end

function actions.scale(info, factor)
  if type(factor) ~= "number" or factor ~= factor or math.abs(factor) == math.huge then
    errors.raise("scale must be a finite number, got %s", schema.show(factor))
  end
  if info.point == "after_update" then errors.raise "there is no gradient to scale after the update" end
  info.session:scale_gradients(factor)
  return { factor = factor }
end

local function listed(names) return type(names) == "table" and names or { names } end

function actions.freeze(info, names) return { names = info.session:freeze(names), asked = listed(names) } end

-- This step's gradient reads zero already: an update now would move weights by their moments alone.
function actions.thaw(info, names)
  info.thaw = info.thaw or {}
  table.move(listed(names), 1, #listed(names), #info.thaw + 1, info.thaw)
  return { names = listed(names), asked = listed(names) }
end

local action_names = { "freeze", "scale", "skip", "stop", "thaw" }

local function act(registered, info, name, argument)
  if not actions[name] then
    errors.raise("unknown action %s%s", schema.show(name), suggest.phrase(tostring(name), action_names))
  end
  if name == "skip" and info.point == "after_update" then
    errors.raise "the update is made: there is nothing to skip"
  end
  if not info.session and name ~= "skip" and name ~= "stop" then errors.raise("%s needs a session in info", name) end
  local done = actions[name](info, argument) or {}
  done.hook, done.point, done.action = registered.name, info.point, name
  info.actions[#info.actions + 1] = done
end

local function act_on(registered, info, action)
  if type(action) == "string" then return act(registered, info, action) end
  if type(action) ~= "table" then
    errors.raise('action must be "skip", "stop" or a table, got %s', schema.show(action))
  end
  for key in pairs(action) do
    if not actions[key] then act(registered, info, key) end
  end
  for _, name in ipairs(action_names) do
    if action[name] then act(registered, info, name, action[name]) end
  end
end

local function run_hook(registered, info)
  local result = registered.callback(info)
  if result == nil then return end
  if type(result) ~= "table" then errors.raise("it must return a table or nil, got %s", schema.show(result)) end
  local action = result.action
  if result ~= info then
    for key, value in pairs(result) do
      if not own_fields[key] then info[key] = value end
    end
  end
  info.action = nil
  if action ~= nil then act_on(registered, info, action) end
end

local function note_failure(self, registered, info, trace)
  info.hook_errors = info.hook_errors or {}
  info.hook_errors[#info.hook_errors + 1] = { hook = registered.name, point = info.point, message = trace }
  if self.on_error == "stop" then
    self:keep(info)
    error(('gradient hook "%s" failed at step %s (%s): %s'):format(registered.name, tostring(info.step), info.point,
      trace), 0)
  end
end

local function prepare(self, info)
  info.point = info.point or "after_backward"
  info.actions = info.actions or {}
  if info.point ~= "after_backward" or not info.session then return end
  local distribution = false
  for _, registered in ipairs(self.list) do distribution = distribution or registered.distribution end
  info.session:measure_gradients(distribution)
end

--- Runs the hooks of info.point (default "after_backward") and returns info. With info.session, their
--- actions are done at once; info.actions lists them. A hook that raises ends this call with an
--- error that names it and the step or, with on_error = "continue", is listed in info.hook_errors.
---@param info table
---@return table info
function Hooks:run_hooks(info)
  if type(info) ~= "table" or type(info.gradients) ~= "table" then
    errors.raise("gradient_hooks.run_hooks: expected a table with gradients, got %s", schema.show(info))
  end
  prepare(self, info)
  for _, registered in ipairs(table.move(self.list, 1, #self.list, 1, {})) do
    if registered.at[info.point] then
      local ok, trace = xpcall(run_hook, errors.traceback, registered, info)
      if not ok then note_failure(self, registered, info, trace) end
    end
  end
  self:keep(info)
  return info
end

--- Whether any hook runs at a point.
---@param point string
---@return boolean
function Hooks:stands_at(point)
  for _, registered in ipairs(self.list) do
    if registered.at[point] then return true end
  end
  return false
end

--- What the session must watch for the hooks.
---@return string[]
function Hooks:watched()
  local list, known = {}, {}
  for _, registered in ipairs(self.list) do
    for _, what in ipairs(registered.watch) do
      if not known[what] then list[#list + 1] = what end
      known[what] = true
    end
  end
  return list
end

-- ---- state ---------------------------------------------------------------------------------

--- What the hooks keep across an interruption, by name: of those that are tables with state() and restore(data).
---@return table<string, any>
function Hooks:state()
  local states = {}
  for _, registered in ipairs(self.list) do
    local callback = registered.callback
    if type(callback) == "table" and callback.state then states[registered.name] = callback.state() end
  end
  return states
end

--- Gives them back what an earlier run's hooks of those names had kept.
---@param states table<string, any>
function Hooks:restore(states)
  for _, registered in ipairs(self.list) do
    local callback, kept = registered.callback, states[registered.name]
    if type(callback) == "table" and callback.restore and kept ~= nil then callback.restore(kept) end
  end
end

-- ---- remembering ---------------------------------------------------------------------------

local transient = {
  gradients = true, session = true, point = true, measured = true, skip = true, stop = true, thaw = true,
  failure = true,
}

--- The fields of a step that outlive it.
---@param info table
---@return table
function gradient_hooks.lasting(info)
  local kept = {}
  for key, value in pairs(info) do
    if not transient[key] then kept[key] = value end
  end
  return kept
end

-- Puts the step's record into the buffer and the history, in the place of what was known of the same step
-- before.
function Hooks:keep(info)
  local kept = gradient_hooks.lasting(info)
  if self.newest.info ~= info then
    self.kept = self.kept + 1
    self.newest.info = info
  end
  if self.buffer_size > 0 then self.ring[(self.kept - 1) % self.buffer_size + 1] = kept end
  self.history:note(self.kept, kept)
end

--- The records of the last steps, oldest first.
---@return table[]
function Hooks:buffer()
  local list = {}
  for number = math.max(1, self.kept - self.buffer_size + 1), self.kept do
    list[#list + 1] = self.ring[(number - 1) % self.buffer_size + 1]
  end
  return list
end

--- A table for the terminal: layers and projections with small bars, then what was found and done.
---@param options { width: integer? }?
---@return string
function Hooks:report(options) return gradient_report.text(self, options) end

--- Data for a page or a picture: steps, layers, norms and update ratios by layer and step, histograms.
---@return crucible.lora.GradientData
function Hooks:data() return self.history:data() end

--- A picture of them as SVG: heat maps by layer and step.
---@param options { title: string? }?
---@return string
function Hooks:picture(options) return require("crucible.lora.gradient_picture").svg(self:data(), options) end

function Hooks:__tostring()
  return ("crucible.gradient_hooks(%s; %d steps seen)"):format(table.concat(self:names(), ", "), self.kept)
end

-- ---- making --------------------------------------------------------------------------------

local new_options = schema.new("gradient_hooks.new", {
  { name = "experiment_id", check = schema.nonempty_string, doc = "of the experiment they belong to" },
  { name = "hooks", default = {}, check = schema.table, doc = '"norm", { "health", { … } }, { name, function } …' },
  { name = "buffer_size", default = 100, check = schema.integer { min = 0 }, doc = "steps whose records are kept" },
  { name = "on_error", default = "stop", check = schema.one_of { "stop", "continue" }, doc = "when a hook raises" },
  { name = "telemetry", default = "summary", check = schema.one_of { "summary", "full" },
    doc = "what telemetry.jsonl keeps: layers and issues, or every figure of every matrix" },
})

--- Hooks that stand ready to run.
---@param options { experiment_id: string?, hooks: table?, buffer_size: integer?, on_error: string?, telemetry: string? }?
---@return crucible.lora.GradientHooks
function gradient_hooks.new(options)
  local self = setmetatable(new_options:resolve(options), Hooks)
  local specs = self.hooks
  self.hooks, self.list, self.ring, self.kept = nil, {}, {}, 0
  self.newest = setmetatable({}, { __mode = "v" }) -- a step's info holds its session
  self.history = gradient_report.history()
  for place, spec in ipairs(specs) do add(self, spec, place) end
  return self
end

--- Whether a value is what `new` returns.
---@param value any
---@return boolean
function gradient_hooks.is(value) return getmetatable(value) == Hooks end

--- The same as methods: gradient_hooks.register_hook(hooks, name, callback), …
for _, name in ipairs { "register_hook", "unregister_hook", "run_hooks" } do
  gradient_hooks[name] = function(hooks, ...)
    if not gradient_hooks.is(hooks) then
      errors.raise("gradient_hooks.%s: expected what gradient_hooks.new returns, got %s", name, schema.show(hooks))
    end
    return hooks[name](hooks, ...)
  end
  origin[gradient_hooks[name]] = Hooks[name]
end

--- The options of new, as text.
---@return string
function gradient_hooks.help() return new_options:help() end

return gradient_hooks
