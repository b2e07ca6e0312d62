-- Proximal policy optimisation's clipped surrogate: −Σ min(r A, clip(r, 1 − ε_low, 1 + ε_high) A), r = exp(log p −
-- log q), over supervised targets; Schulman et al. 2017, equation 7. Fields and normalisation as in
-- losses/importance_sampling.lua.
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"
local surrogate = require "crucible.losses.surrogate"
local tally = require "crucible.losses.tally"

local entries = {}
for _, list in ipairs { rows.normalisation_options, surrogate.options } do
  table.move(list, 1, #list, #entries + 1, entries)
end
local options = schema.new('loss "ppo"', entries)

local function compute(chosen)
  return function(predictions, targets)
    local scalars, reports = {}, {}
    for i, target in ipairs(targets) do
      local advantages = rows.per_target("ppo", target, "advantages")
      local old = rows.per_target("ppo", target, "sampling_logprobs")
      local terms = surrogate.terms(chosen, predictions.logprobs[i], old, advantages, target, reports)
      scalars[i] = rows.normalise(chosen, (terms * target.weights):sum(), target.datum)
    end
    return tally.result(scalars, reports)
  end
end

--- The loss with its options: clip_low, clip_high (0.2), normalisation ("tokens"), constant (512).
---@param given table?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  return {
    name = "ppo", outputs = { "logprobs" }, count = rows.count(chosen), compute = compute(chosen),
    requires = { "sampling_logprobs", "advantages" }, options = chosen,
  }
end
