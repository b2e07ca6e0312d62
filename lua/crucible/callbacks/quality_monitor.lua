-- Watches quality targets while a run trains: says when an evaluation falls short of one, when citations
-- are invalid in training, when the loss has not settled in time. Attach it among the callbacks:
--
--     local monitor = quality_monitor.new { targets = config.quality_targets }
--     lora.training_loop.run(session, data, { callbacks = { monitor, … }, evaluate = … })
--     for _, finding in ipairs(monitor.findings) do print(finding.text) end
--
-- A figure within 0.1 short of its target is a warning, one beyond that a failure. Nothing is stopped by it
-- unless `stop_on_failure` is set.
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local selection = require "crucible.lora.selection"

local quality_monitor = {}

--- How far short of its target a figure may fall and still be a warning.
quality_monitor.margin = 0.1

local ROUNDING = 1e-12

local function check_targets(value)
  if type(value) ~= "table" then return false end
  for name, target in pairs(value) do
    if type(name) ~= "string" or type(target) ~= "number" or target ~= target then return false end
  end
  return true
end

local options = schema.new("callbacks.quality_monitor.new", {
  { name = "targets", default = {}, check = schema.test("a table of numbers by metric", check_targets),
    doc = "of an evaluation's metrics, as config.quality_targets: least values, or most where less is better" },
  { name = "citation_invalid_rate", default = 0, check = schema.number { min = 0, max = 1 },
    doc = "most of it in training, where the loss reports it; a mean over `window` steps" },
  { name = "convergence_steps", default = 500, check = schema.integer { min = 1 },
    doc = "steps by which the loss should have settled" },
  { name = "window", default = 20, check = schema.integer { min = 1 }, doc = "steps that a mean of training is over" },
  { name = "tolerance", default = 0.02, check = schema.number { min = 0 },
    doc = "the loss has settled when its mean is within this share of the mean one window before" },
  { name = "on_finding", check = schema.callable, doc = "(finding) for each; default: a line to standard error" },
  { name = "stop_on_failure", default = false, check = schema.boolean, doc = "end the run at a failure" },
})

---@class crucible.callbacks.QualityFinding
---@field step integer
---@field metric string
---@field status "met"|"warning"|"failed"
---@field actual number
---@field target number
---@field text string

---@class crucible.callbacks.QualityMonitor
---@field findings crucible.callbacks.QualityFinding[]  changes of status, in order
---@field status table<string, string>  of each metric now
---@field converged_at integer?         step

-- "met", "warning" or "failed" by how far short a figure falls.
local function status_by(shortfall)
  if shortfall <= ROUNDING then return "met" end
  return shortfall <= quality_monitor.margin + ROUNDING and "warning" or "failed"
end

local function write_line(finding)
  if io then io.stderr:write("quality: ", finding.text, "\n") end
end

-- Keeps and tells a status that is not what it was; a target met from the start is no news.
local function note(self, finding)
  local before = self.status[finding.metric]
  self.status[finding.metric] = finding.status
  if finding.status == before or (before == nil and finding.status == "met") then return end
  finding.text = ("step %d: %s %s: %s"):format(finding.step, finding.metric, finding.status, finding.text)
  self.findings[#self.findings + 1] = finding
  self.options.on_finding(finding)
  if finding.status == "failed" and self.options.stop_on_failure then return "stop" end
end

-- ---- evaluations ---------------------------------------------------------------------------

local function sorted_names(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function evaluated(self, event)
  local answer
  for _, name in ipairs(sorted_names(self.options.targets)) do
    local actual, target = event.metrics[name], self.options.targets[name]
    if type(actual) == "number" and actual == actual then
      local most = selection.direction(name) == "min"
      answer = note(self, {
        step = event.step, metric = name, actual = actual, target = target,
        status = status_by(most and actual - target or target - actual),
        text = ("%.3f, target at %s %.3f"):format(actual, most and "most" or "least", target),
      }) or answer
    end
  end
  return answer
end

-- ---- training ------------------------------------------------------------------------------

-- The invalid rate of citations that a step reports, whatever loss it came from.
local function invalid_rate(event)
  if event.citation_invalid_rate then return event.citation_invalid_rate end
  for name, value in pairs(event.components or {}) do
    if type(value) == "table" and value.invalid_rate then return value.invalid_rate end
    if type(value) == "number" and name:find "%f[%w_]invalid_rate$" then return value end
  end
end

local function push(list, value, most)
  list[#list + 1] = value
  if #list > most then table.remove(list, 1) end
end

local function mean(list, first, last)
  local sum = 0
  for i = first, last do sum = sum + list[i] end
  return sum / (last - first + 1)
end

local function watch_citations(self, event)
  local rate = invalid_rate(event)
  if not rate then return end
  local window, target = self.options.window, self.options.citation_invalid_rate
  push(self.rates, rate, window)
  if #self.rates < window then return end
  local actual = mean(self.rates, 1, window)
  return note(self, {
    step = event.step, metric = "citation_invalid_rate", actual = actual, target = target,
    status = status_by(actual - target), text = ("%.3f, target at most %.3f"):format(actual, target),
  })
end

local function has_settled(self)
  local window = self.options.window
  if #self.losses < 2 * window then return false end
  local before, now = mean(self.losses, 1, window), mean(self.losses, window + 1, 2 * window)
  return math.abs(now - before) <= self.options.tolerance * math.abs(before)
end

local function watch_convergence(self, event)
  if self.converged_at or event.skipped then return end
  push(self.losses, event.loss, 2 * self.options.window)
  if has_settled(self) then
    self.converged_at = event.step
  elseif event.step < self.options.convergence_steps then
    return
  end
  return note(self, {
    step = event.step, metric = "convergence", actual = event.step, target = self.options.convergence_steps,
    status = event.step <= self.options.convergence_steps and self.converged_at and "met" or "failed",
    text = self.converged_at and "the loss has settled" or "the loss has not settled",
  })
end

local function stepped(self, event)
  local citations, convergence = watch_citations(self, event), watch_convergence(self, event)
  return citations or convergence
end

-- ---- the callback --------------------------------------------------------------------------

local kept = { "status", "rates", "losses", "converged_at", "findings" }

local function state(self)
  local copy = {}
  for _, name in ipairs(kept) do copy[name] = schema.copy(self[name]) end
  return copy
end

local function restore(self, data)
  if type(data) ~= "table" then
    errors.raise("callbacks.quality_monitor: expected the state of a checkpoint, a table, got %s", schema.show(data))
  end
  for _, name in ipairs(kept) do self[name] = data[name] or (name ~= "converged_at" and {} or nil) end
end

--- A monitor to put among the callbacks of training_loop.run.
---@param given table?
---@return crucible.callbacks.QualityMonitor
function quality_monitor.new(given)
  local self = { options = options:resolve(given), findings = {}, status = {}, rates = {}, losses = {} }
  self.options.on_finding = self.options.on_finding or write_line
  -- The loop looks for functions by event and knows nothing else of the table it is given.
  local callbacks = {
    on_evaluate = function(event) return evaluated(self, event) end,
    on_step_end = function(event) return stepped(self, event) end,
    state = function() return state(self) end,
    restore = function(data) return restore(self, data) end,
  }
  return setmetatable(callbacks, { __index = self })
end

--- The options of new, as text.
---@return string
function quality_monitor.help() return options:help() end

return quality_monitor
