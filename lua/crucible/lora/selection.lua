-- Which of a run's states is the best, and when to stop for want of a better one. Both watch one number
-- each and are independent of each other; what they have seen is plain data that goes into checkpoints.
local errors = require "crucible.errors"
local metrics = require "crucible.metrics"
local schema = require "crucible.schema"

local selection = {}

--- What is watched without an evaluation: the mean training loss, since the checkpoint before for the
-- best checkpoint, of the epoch for early stopping.
selection.training_loss = "mean_loss"

local direction_check = schema.one_of { "min", "max" }

local best_options = schema.new("training_loop.run: best", {
  { name = "metric", required = true, check = schema.nonempty_string, doc = "name among the evaluation's metrics" },
  { name = "direction", check = direction_check, doc = '"min" for losses, perplexity and rates, else "max"' },
})

local stopping_options = schema.new("training_loop.run: early_stopping", {
  { name = "patience", required = true, check = schema.integer { min = 1 }, doc = "evaluations without a gain" },
  { name = "metric", check = schema.nonempty_string, doc = "default: what the best checkpoint is chosen by" },
  { name = "direction", check = direction_check, doc = '"min" for losses, perplexity and rates, else "max"' },
  { name = "min_delta", default = 0, check = schema.number { min = 0 }, doc = "what counts as a gain" },
})

--- What is better of a metric: what the metric itself says; else, by its name, less of a loss, a
--- perplexity, an error or a rate of invalid ones, more of everything else.
---@param metric string
---@return "min"|"max"
function selection.direction(metric)
  local known = metrics.direction(metric)
  if known then return known end
  for _, pattern in ipairs { "loss$", "^perplexity", "error", "invalid", "nll$" } do
    if metric:find(pattern) then return "min" end
  end
  return "max"
end

--- Whether a value is better than another by more than min_delta. NaN is better than nothing, never.
---@param value number
---@param than number?  nil: anything finite is better
---@param direction "min"|"max"
---@param min_delta number?
---@return boolean
function selection.better(value, than, direction, min_delta)
  if value ~= value then return false end
  if than == nil then return true end
  if direction == "min" then return value < than - (min_delta or 0) end
  return value > than + (min_delta or 0)
end

local function rule(given, default_metric)
  local metric = given.metric or default_metric
  return { metric = metric, direction = given.direction or selection.direction(metric), patience = given.patience,
    min_delta = given.min_delta }
end

---@class crucible.lora.Selection
---@field best { metric: string, direction: "min"|"max" }
---@field stopping { metric: string, direction: "min"|"max", patience: integer, min_delta: number }?

--- The rules of a run, from its options `best` (a metric's name or { metric, direction }) and
--- `early_stopping` (patience or a table). Raises when a metric is asked for that nothing measures.
---@param best string|table|nil
---@param early_stopping integer|table|nil
---@param evaluates boolean         the run has an evaluation
---@param default_metric string?    what the best is chosen by where `best` is nil
---@param trained string?           a metric that the steps themselves measure, beside the training loss
---@return crucible.lora.Selection
function selection.rules(best, early_stopping, evaluates, default_metric, trained)
  if type(best) == "string" then best = { metric = best } end
  if type(early_stopping) == "number" then early_stopping = { patience = early_stopping } end
  local chosen = rule(best and best_options:resolve(best) or {}, default_metric or selection.training_loss)
  local stopping = early_stopping and rule(stopping_options:resolve(early_stopping), chosen.metric) or nil
  if stopping and stopping.metric == chosen.metric and not early_stopping.direction then
    stopping.direction = chosen.direction
  end
  for name, asked in pairs { best = chosen, early_stopping = stopping } do
    local measured = evaluates or asked.metric == selection.training_loss or name == "best" and asked.metric == trained
    if not measured then
      errors.raise('training_loop.run: %s: nothing measures "%s"; give evaluate, or use "%s"', name, asked.metric,
        selection.training_loss)
    end
  end
  return { best = chosen, stopping = stopping }
end

--- Notes a value for early stopping; returns whether patience is at its end.
---@param stopping table  of the rules
---@param seen { value: number?, step: integer?, waited: integer }  changed
---@param value number
---@param step integer
---@return boolean
function selection.note(stopping, seen, value, step)
  if selection.better(value, seen.value, stopping.direction, stopping.min_delta) then
    seen.value, seen.step, seen.waited = value, step, 0
  else
    seen.waited = seen.waited + 1
  end
  return seen.waited >= stopping.patience
end

return selection
