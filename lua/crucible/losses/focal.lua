-- Focal loss: −(1 − p)^γ log p of each supervised target, so that tokens which are known already count less; Lin
-- et al. 2017 ("Focal Loss for Dense Object Detection"), equation 4. γ = 0 is cross-entropy.
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"

local options = schema.new('loss "focal"', {
  { name = "gamma", default = 2, check = schema.number { min = 0 }, doc = "how much less" },
})

local function compute(gamma)
  return function(predictions, targets)
    local total
    for i, target in ipairs(targets) do
      local logprobs = predictions.logprobs[i]
      -- 1 − p without cancellation; 1e-12 keeps the slope of a power below 1 finite at p = 1.
      local doubt = (-logprobs:expm1()):clamp(1e-12)
      local loss = -(doubt ^ gamma * logprobs * target.weights):sum()
      total = total and total + loss or loss
    end
    return { loss = total }
  end
end

--- The loss with its options: gamma (2).
---@param given { gamma: number? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  return { name = "focal", outputs = { "logprobs" }, count = rows.supervised, compute = compute(chosen.gamma),
    options = chosen }
end
