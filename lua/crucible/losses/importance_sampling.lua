-- Policy gradient with importance weights: −Σ exp(log p − log q) · A over supervised targets, where q is the policy
-- that the answer was sampled from; its slope at p = q is REINFORCE's. Fields of a datum or of its metadata:
--   sampling_logprobs  T numbers: log q of the targets
--   advantages         T numbers, or one for the whole answer
-- What the sum is divided by is named: normalisation "tokens", "sequences" or "constant" (losses/rows.lua).
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"
local tally = require "crucible.losses.tally"

local options = schema.new('loss "importance_sampling"', rows.normalisation_options)

local function compute(chosen)
  return function(predictions, targets)
    local scalars, reports = {}, {}
    for i, target in ipairs(targets) do
      local gap = (predictions.logprobs[i] - rows.per_target("importance_sampling", target, "sampling_logprobs"))
        * rows.mask(target)
      local advantages = rows.per_target("importance_sampling", target, "advantages") * target.weights
      scalars[i] = rows.normalise(chosen, -(gap:exp() * advantages):sum(), target.datum)
      tally.add(reports, "log_ratio", gap:sum():item(), rows.supervised(target.datum))
    end
    return tally.result(scalars, reports)
  end
end

--- The loss with its options: normalisation ("tokens"), constant (512).
---@param given { normalisation: string?, constant: number? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  return {
    name = "importance_sampling", outputs = { "logprobs" }, count = rows.count(chosen), compute = compute(chosen),
    requires = { "sampling_logprobs", "advantages" }, options = chosen,
  }
end
