-- The three points of a training step where gradient hooks stand, and what becomes of their actions:
-- between a loop, which knows steps and epochs, and a session, which has gradients.
--
--     backward → [after_backward] → clip → [after_clipping] → update → [after_update]
--
-- A step that is skipped ends at the point where that was decided. Gradients are clipped where they lie
-- only if a hook stands after clipping; the update's bytes are the same either way.
local adapter = require "crucible.lora.adapter"
local errors = require "crucible.errors"
local gradient_hooks = require "crucible.lora.gradient_hooks"
local gradient_report = require "crucible.lora.gradient_report"

local gradient_points = {}

---@class crucible.lora.GradientPoints
---@field hooks crucible.lora.GradientHooks
---@field session crucible.Session
local Points = {}
Points.__index = Points

local function hooks_of(session, specs, options)
  if gradient_hooks.is(specs) then return specs end
  return gradient_hooks.new {
    hooks = specs, experiment_id = session.experiment_id, on_error = options and options.on_hook_error,
  }
end

--- The points of a session's steps; specs as gradient_hooks.new takes them, or what it returned. Raises for
--- an engine without gradients.
---@param session crucible.Session
---@param specs table|crucible.lora.GradientHooks
---@param options { on_hook_error: string? }?
---@return crucible.lora.GradientPoints? points, string? message, string? code
function gradient_points.new(session, specs, options)
  local able, reason = adapter.check_gradients(session)
  if not able then errors.raise("%s", reason) end
  local hooks = hooks_of(session, specs, options)
  local ok, message, code = session:watch(hooks:watched())
  if not ok then return nil, message, code end
  return setmetatable({ hooks = hooks, session = session }, Points)
end

-- Runs the hooks of a point. When one raises and the run is to end, the failure is noted in `info`.
local function visit(self, info, point)
  if not self.hooks:stands_at(point) then return true end
  info.point = point
  local ok, message = pcall(self.hooks.run_hooks, self.hooks, info)
  if ok then return true end
  info.failure = info.hook_errors and info.hook_errors[#info.hook_errors] or error(message, 0)
  return false
end

local function skipped(self, norm)
  self.session:zero_gradients()
  return { grad_norm = norm, update_norm = 0, skipped = true }
end

-- Clips in the open for hooks that want to see it; `params` becomes those of an update that does not clip.
local function clip(self, info, params)
  info.grad_norm, info.clip_scale = self.session:clip_gradients(params.max_grad_norm)
  params.max_grad_norm = 0
  return visit(self, info, "after_clipping")
end

local function finish(self, info, update)
  info.grad_norm, info.update_norm = info.grad_norm or update.grad_norm, update.update_norm
  update.grad_norm = info.grad_norm
  if not update.skipped then visit(self, info, "after_update") end
  return update
end

--- From gradients to the update, past all points. `info` holds what the loop knows of the step and receives
--- what the hooks found; info.failure is set when a hook raised and the run is to end.
---@param info table
---@param params table  of lora.config.adam_params
---@param usable boolean  false: the loss is not finite, so nothing is updated
---@return table? update, string? message, string? code
function Points:update(info, params, usable)
  info.session, info.gradients, info.max_grad_norm = self.session, self.session:gradients(), params.max_grad_norm
  local going = visit(self, info, "after_backward")
  info.measured = info.gradient_stats or self.session:measured_gradients()
  if not usable then return skipped(self, 0 / 0) end
  if not going or info.skip then return skipped(self, (self.session:clip_gradients(0))) end
  if self.hooks:stands_at "after_clipping" then
    going = clip(self, info, params)
    if not going or info.skip then return skipped(self, info.grad_norm) end
  end
  local update, message, code = self.session:optim_step(params)
  if not update then return nil, message, code end
  return finish(self, info, update)
end

--- Ends a step: what hooks found goes into the loop's event, what they asked for the next step is done.
---@param info table
---@param event table
function Points:finish(info, event)
  if info.thaw then self.session:thaw(info.thaw) end
  local record = gradient_hooks.lasting(info)
  for key, value in pairs(record) do
    if event[key] == nil then event[key] = value end
  end
  event.gradients, event.gradient_issues = info.measured, info.gradient_issues or {}
  event.actions = info.actions and #info.actions > 0 and info.actions or nil
  event.hook_record = record
end

--- What telemetry keeps of a step.
---@param event table
---@return table
function Points:telemetry(event)
  return gradient_report.telemetry(event.hook_record, self.hooks.telemetry == "full")
end

--- Ends the session's watch for the hooks.
function Points:close()
  if not self.session.closed then self.session:watch {} end
end

--- The hook that asked for the run's end, or skipped the step, by action.
---@param event table
---@param action "stop"|"skip"
---@return string? name
function gradient_points.by(event, action)
  for _, done in ipairs(event.actions or {}) do
    if done.action == action then return done.hook end
  end
end

return gradient_points
