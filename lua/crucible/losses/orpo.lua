-- Odds ratio preference optimisation: −log p̄(chosen) − λ log σ( log odds(chosen) − log odds(rejected) ), where p̄ is
-- exp of the mean log-probability of the supervised targets and odds = p̄ / (1 − p̄); Hong et al. 2024,
-- equations 4 to 7. Needs no reference. A pair counts 1.
local preference = require "crucible.losses.preference"
local schema = require "crucible.schema"
local tally = require "crucible.losses.tally"

local options = schema.new('loss "orpo"', {
  { name = "lambda", default = 0.1, check = schema.number { min = 0 }, doc = "weight of the odds ratio" },
})

-- log(p / (1 − p)); from p = 1 − 1e-7 on the slope ends.
local function log_odds(mean)
  local safe = mean:clamp(nil, -1e-7)
  return safe - (-safe:expm1()):log()
end

local function compute(lambda)
  return function(predictions, targets)
    local scalars, reports = {}, {}
    for k, pair in ipairs(preference.pairs("orpo", targets)) do
      local better = preference.mean(predictions.logprobs[pair.chosen], targets[pair.chosen])
      local worse = preference.mean(predictions.logprobs[pair.rejected], targets[pair.rejected])
      local ratio = log_odds(better) - log_odds(worse)
      scalars[k] = -better + lambda * (-ratio):softplus()
      tally.add(reports, "log_odds_ratio", ratio:item())
      tally.add(reports, "accuracy", ratio:item() > 0 and 1 or 0)
    end
    return tally.result(scalars, reports)
  end
end

--- The loss with its options: lambda (0.1).
---@param given { lambda: number? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  return {
    name = "orpo", outputs = { "logprobs" }, count = preference.count, compute = compute(chosen.lambda),
    requires = { "group", "choice" }, options = chosen,
  }
end
