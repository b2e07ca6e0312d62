-- The clipped surrogate that PPO and GRPO share.
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"
local tally = require "crucible.losses.tally"

local surrogate = {}

surrogate.options = {
  { name = "clip_low", default = 0.2, check = schema.number { min = 0, max = 1 }, doc = "r is kept above 1 less this" },
  { name = "clip_high", default = 0.2, check = schema.number { min = 0 }, doc = "r is kept below 1 and this" },
}

--- −min(r A, clip(r) A) at each target: [T]. Reports clipped, the share of supervised targets whose slope the
--- clip takes away.
---@param chosen { clip_low: number, clip_high: number }
---@param logprobs crucible.Tensor
---@param old crucible.Tensor|nil  of the policy that sampled; nil: this one, as it is now
---@param advantages crucible.Tensor
---@param target crucible.lora.Target
---@param reports table
---@return crucible.Tensor
function surrogate.terms(chosen, logprobs, old, advantages, target, reports)
  local mask = rows.mask(target)
  local ratio = ((logprobs - (old or logprobs:detach())) * mask):exp()
  local free = ratio * advantages
  local kept = ratio:clamp(1 - chosen.clip_low, 1 + chosen.clip_high) * advantages
  tally.add(reports, "clipped", (kept:lt(free:detach()) * mask):sum():item(), rows.supervised(target.datum))
  return -free:minimum(kept)
end

return surrogate
