-- Events of training, for whoever wants to listen: terminals, files, dashboards, hosts.
--
--     local subscription = telemetry.attach(function(name, measurements, metadata)
--       if name == "step.stop" then print(metadata.step, measurements.loss) end
--     end)
--     …
--     subscription:detach()
--
-- `measurements` are numbers by name, `metadata` is everything else; `metadata.run` says which run it
-- is: experiment_id, run_dir, adapter_name. Both tables are the listeners' alone from then on; a
-- listener must not change them. Nobody listens: nothing is built, nothing is spent.
--
-- What is attached here hears the runs of this Lua state. A reporter for one run is a table with
-- `on_event(name, measurements, metadata)` among that run's callbacks. An observer must not harm what it
-- observes: an attached function that raises is detached, and "telemetry.detached" tells the others. A
-- reporter among the callbacks ends its run, as every callback does.
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local telemetry = {}

---@class crucible.telemetry.Event
---@field name string
---@field measurements string  numbers
---@field metadata string      besides `run`

--- Every event, in the order of a run.
---@type crucible.telemetry.Event[]
telemetry.events = {
  { name = "training.start",
    measurements = "total_steps, steps_per_epoch, epochs, rows, step (done before, by an earlier run)",
    metadata = "manifest, config, dataset, gate, options, resumed (boolean)" },
  { name = "epoch.start", measurements = "", metadata = "epoch" },
  { name = "step.start", measurements = "", metadata = "step, epoch" },
  { name = "step.stop",
    measurements = "loss, lr, grad_norm, update_norm, tokens, supervised, seconds, tokens_per_s, memory (peak, bytes)",
    metadata = "step, epoch, total_steps, skipped, components (numbers by loss), event (what on_step_end is given: "
      .. "with gradient hooks also gradients, gradient_norms, gradient_stats, gradient_flow, gradient_health, "
      .. "gradient_issues), row (the step's line of telemetry.jsonl)" },
  { name = "epoch.stop", measurements = "mean_loss", metadata = "epoch, step, metrics" },
  { name = "evaluation.start", measurements = "", metadata = "step, epoch" },
  { name = "evaluation.stop", measurements = "seconds, and every metric that is a number",
    metadata = "step, epoch, metrics, result (all that the evaluation returned)" },
  { name = "samples.stop", measurements = "seconds",
    metadata = "step, epoch, moment (before, training, last, best), samples ({ prompt, text } each)" },
  { name = "checkpoint.saved", measurements = "seconds",
    metadata = "name, path, step, epoch, metrics, best (boolean)" },
  { name = "checkpoint.failed", measurements = "seconds", metadata = "name, step, epoch, message, code" },
  { name = "checkpoint.pruned", measurements = "", metadata = "name, path, step" },
  { name = "telemetry.failed", measurements = "", metadata = "step, message, code: a record could not be written" },
  { name = "telemetry.detached", measurements = "", metadata = "event, message: an attached function raised" },
  { name = "training.exception", measurements = "", metadata = "step, what, message" },
  { name = "training.stop", measurements = "total_steps, skipped_steps, seconds",
    metadata = "status, reason, results" },
}

local names = {}
for i, event in ipairs(telemetry.events) do names[i] = event.name end

local known = {}
for _, name in ipairs(names) do
  known[name], known[name:match "^[^.]+" .. ".*"] = true, true
end

---@class crucible.telemetry.Subscription
local Subscription = { __name = "crucible.telemetry.subscription" }
Subscription.__index = Subscription

local attached = {} ---@type crucible.telemetry.Subscription[]

local function check_events(value)
  if type(value) == "string" then value = { value } end
  if type(value) ~= "table" or #value == 0 then return false end
  for _, name in ipairs(value) do
    if not known[name] then
      return false, ("unknown event %s%s"):format(schema.show(name), suggest.phrase(tostring(name), names))
    end
  end
  return true
end

local attach_options = schema.new("telemetry.attach", {
  { name = "events", check = schema.test('a list of events ("step.stop", "checkpoint.*")', check_events),
    doc = "the ones to hear; default: all" },
  { name = "experiment_id", check = schema.nonempty_string, doc = "the run to hear; default: all" },
})

-- The set of names that a list of names and groups ("step.*") stands for; nil = all.
local function wanted_set(events)
  if events == nil then return nil end
  local set = {}
  for _, wanted in ipairs(type(events) == "string" and { events } or events) do
    for _, name in ipairs(names) do
      if name == wanted or name:match "^[^.]+" .. ".*" == wanted then set[name] = true end
    end
  end
  return set
end

--- Calls a function for each event of every run of this Lua state until it is detached.
---@param listener fun(name: string, measurements: table<string, number>, metadata: table)
---@param options { events: string|string[]?, experiment_id: string? }?
---@return crucible.telemetry.Subscription
function telemetry.attach(listener, options)
  if not schema.callable.read(listener) then
    errors.raise("telemetry.attach: expected a function, got %s", schema.show(listener))
  end
  local given = attach_options:resolve(options)
  local subscription = setmetatable({
    listener = listener, events = wanted_set(given.events), experiment_id = given.experiment_id,
  }, Subscription)
  attached[#attached + 1] = subscription
  return subscription
end

--- Ends a subscription. Safe to call twice.
function Subscription:detach()
  for i, subscription in ipairs(attached) do
    if subscription == self then
      table.remove(attached, i)
      return
    end
  end
end

Subscription.__close = Subscription.detach

Subscription.__tostring = function() return Subscription.__name end

--- Whether an event has a listener here.
---@param name string
---@return boolean
function telemetry.listened(name)
  for _, subscription in ipairs(attached) do
    if not subscription.events or subscription.events[name] then return true end
  end
  return false
end

local function hears(subscription, name, metadata)
  if subscription.events and not subscription.events[name] then return false end
  local id = metadata.run and metadata.run.experiment_id
  return not subscription.experiment_id or subscription.experiment_id == id
end

--- Tells the attached functions of an event.
---@param name string
---@param measurements table<string, number>
---@param metadata table
function telemetry.emit(name, measurements, metadata)
  if #attached == 0 then return end
  for _, subscription in ipairs(table.move(attached, 1, #attached, 1, {})) do
    if hears(subscription, name, metadata) then
      local ok, trace = xpcall(subscription.listener, errors.traceback, name, measurements, metadata)
      if not ok then
        subscription:detach()
        telemetry.emit("telemetry.detached", {}, { event = name, message = trace, run = metadata.run })
      end
    end
  end
end

-- ---- one run -------------------------------------------------------------------------------

---@class crucible.telemetry.Channel
---@field run { experiment_id: string, run_dir: string, adapter_name: string }
---@field reporters table[]
local Channel = {}
Channel.__index = Channel

--- The events of one run: to its reporters, then to what is attached.
---@param run { experiment_id: string, run_dir: string, adapter_name: string }
---@param reporters { on_event: fun(name: string, measurements: table, metadata: table) }[]
---@return crucible.telemetry.Channel
function telemetry.channel(run, reporters)
  return setmetatable({ run = run, reporters = reporters }, Channel)
end

--- Whether anyone would hear an event.
---@param name string
---@return boolean
function Channel:listened(name) return #self.reporters > 0 or telemetry.listened(name) end

--- Tells of an event; an error of a reporter comes through.
---@param name string
---@param measurements table<string, number>
---@param metadata table
function Channel:emit(name, measurements, metadata)
  metadata.run = self.run
  for _, reporter in ipairs(self.reporters) do reporter.on_event(name, measurements, metadata) end
  telemetry.emit(name, measurements, metadata)
end

--- Every event with its measurements and metadata, as text.
---@return string
function telemetry.help()
  local lines = {}
  for _, event in ipairs(telemetry.events) do
    lines[#lines + 1] = event.name
    if event.measurements ~= "" then lines[#lines + 1] = "    measurements: " .. event.measurements end
    lines[#lines + 1] = "    metadata: run, " .. event.metadata
  end
  return table.concat(lines, "\n") .. "\n"
end

return telemetry
