-- The learning rate of each step. Steps count from 1; warm-up is step / warmup_steps, so that
-- the first step has a rate above 0. After warm-up, linear and cosine have the values of
-- transformers' schedules of those names at the same number of steps done.
local schedule = {}

local function progress(done, warmup, total)
  return (done - warmup) / math.max(1, total - warmup)
end

local shapes = {
  constant = function() return 1 end,
  linear = function(done, warmup, total) return math.max(0, 1 - progress(done, warmup, total)) end,
  cosine = function(done, warmup, total)
    return math.max(0, 0.5 * (1 + math.cos(math.pi * math.min(1, progress(done, warmup, total)))))
  end,
}

--- The rate of a step.
---@param config crucible.lora.Config
---@param step integer   from 1
---@param total integer  steps of the whole run
---@return number
function schedule.learning_rate(config, step, total)
  local warmup = config.warmup_steps
  if step <= warmup then return config.learning_rate * step / warmup end
  return config.learning_rate * shapes[config.schedule](step - 1, warmup, total)
end

return schedule
