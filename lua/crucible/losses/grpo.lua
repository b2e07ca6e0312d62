-- Group relative policy optimisation: PPO's clipped surrogate with advantages made of the rewards of several answers to
-- one prompt, A = (reward − mean) / (deviation + 1e-4); Shao et al. 2024, equations 3 and 4. Deviation with n − 1
-- below; scale = "none" leaves it out (Liu et al. 2025, "Dr. GRPO"). A group whose rewards are all alike has
-- advantages of 0. With kl > 0 the estimate exp(log π₀ − log p) − (log π₀ − log p) − 1 against the base
-- with the lora left out is added at each target.
--
-- Fields of a datum or of its metadata: group, reward; sampling_logprobs where the policy has moved since it sampled.
-- Normalisation "tokens" divides by all supervised targets of the step (DAPO); "sequences" is the paper's; see
-- losses/rows.lua.
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"
local surrogate = require "crucible.losses.surrogate"
local tally = require "crucible.losses.tally"
local tensor = require "crucible.tensor"

local entries = {
  { name = "scale", default = "group", check = schema.one_of { "group", "none" },
    doc = "whether advantages are divided by the group's deviation" },
  { name = "kl", default = 0, check = schema.number { min = 0 }, doc = "weight of the distance to the base" },
}
for _, list in ipairs { rows.normalisation_options, surrogate.options } do
  table.move(list, 1, #list, #entries + 1, entries)
end
local options = schema.new('loss "grpo"', entries)

local function moments(rewards)
  local mean, squares = 0, 0
  for _, reward in ipairs(rewards) do mean = mean + reward / #rewards end
  for _, reward in ipairs(rewards) do squares = squares + (reward - mean) ^ 2 end
  return mean, #rewards > 1 and math.sqrt(squares / (#rewards - 1)) or 0
end

-- The advantage of each datum.
local function advantages_of(chosen, targets)
  local advantages = {}
  for _, places in ipairs(rows.groups("grpo", targets)) do
    local rewards = {}
    for k, i in ipairs(places) do rewards[k] = rows.needed("grpo", targets[i].datum, "reward") end
    local mean, deviation = moments(rewards)
    local by = chosen.scale == "group" and deviation + 1e-4 or 1
    for k, i in ipairs(places) do advantages[i] = (rewards[k] - mean) / by end
  end
  return advantages
end

local function compute(chosen)
  return function(predictions, targets)
    local scalars, reports, advantages = {}, {}, advantages_of(chosen, targets)
    for i, target in ipairs(targets) do
      local logprobs, old = predictions.logprobs[i], nil
      if rows.field(target.datum, "sampling_logprobs") ~= nil then
        old = rows.per_target("grpo", target, "sampling_logprobs")
      end
      local terms = surrogate.terms(chosen, logprobs, old, tensor.full(target.length, advantages[i]), target, reports)
      if chosen.kl > 0 then
        local gap = (predictions.base_logprobs[i] - logprobs) * rows.mask(target)
        local distance = gap:exp() - gap - 1
        tally.add(reports, "kl", (distance * rows.mask(target)):sum():item(), rows.supervised(target.datum))
        terms = terms + chosen.kl * distance
      end
      scalars[i] = rows.normalise(chosen, (terms * target.weights):sum(), target.datum)
      tally.add(reports, "reward", rows.needed("grpo", target.datum, "reward"))
    end
    return tally.result(scalars, reports)
  end
end

--- The loss with its options: scale ("group"), kl (0), clip_low, clip_high (0.2), normalisation ("tokens"), constant (512).
---@param given table?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  return {
    name = "grpo", outputs = chosen.kl > 0 and { "logprobs", "base_logprobs" } or { "logprobs" },
    count = rows.count(chosen), compute = compute(chosen), requires = { "group", "reward" }, options = chosen,
  }
end
