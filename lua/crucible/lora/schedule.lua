-- The learning rate of each step. Steps count from 1. Warm-up is step / warmup_steps, so that the first step has
-- a rate above 0; after it every schedule has the value of transformers' schedule of that name (of
-- cosine_with_min_lr where min_lr_ratio is above 0; polynomial with lr_end 0) at the same number of steps done.
local schedule = {}

-- Share of the steps after warm-up that is done, at most 1.
local function progress(done, warmup, total)
  return math.min(1, (done - warmup) / math.max(1, total - warmup))
end

local function half_cosine(share) return 0.5 * (1 + math.cos(math.pi * share)) end

local WITHOUT_WARMUP = 10000 -- steps over which inverse_sqrt falls to 0.71 without warm-up, as transformers has it

local shapes = {
  constant = function() return 1 end,
  linear = function(config, done, total) return 1 - progress(done, config.warmup_steps, total) end,
  cosine = function(config, done, total)
    local least = config.min_lr_ratio
    return least + (1 - least) * half_cosine(progress(done, config.warmup_steps, total))
  end,
  cosine_with_restarts = function(config, done, total)
    local share = progress(done, config.warmup_steps, total)
    return share >= 1 and 0 or half_cosine(config.schedule_cycles * share % 1)
  end,
  polynomial = function(config, done, total)
    return (1 - progress(done, config.warmup_steps, total)) ^ config.schedule_power
  end,
  inverse_sqrt = function(config, done)
    local scale = config.warmup_steps > 0 and config.warmup_steps or WITHOUT_WARMUP
    return ((done + scale - config.warmup_steps) / scale) ^ -0.5
  end,
}

--- Names of the schedules.
schedule.names = { "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt" }

--- The rate of a step.
---@param config crucible.lora.Config
---@param step integer   from 1
---@param total integer  steps of the whole run
---@return number
function schedule.learning_rate(config, step, total)
  local warmup = config.warmup_steps
  if step <= warmup then return config.learning_rate * step / warmup end
  return config.learning_rate * shapes[config.schedule](config, step - 1, total)
end

return schedule
