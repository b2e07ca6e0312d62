-- Direct preference optimisation: −log σ(β (Δ_chosen − Δ_rejected)), Δ = log p(answer) − log p_reference(answer), sums
-- over supervised targets; Rafailov et al. 2023, equation 7. A pair counts 1. With label_smoothing ε:
-- (1 − ε) of it and ε of the pair turned round (Mitchell 2023, "cDPO"). loss = "ipo": (margin − 1/(2β))² of the
-- means over targets (Azar et al. 2023, equation 17).
--
-- The reference is the base with the lora left out, which is right where training began there: margins are 0
-- at first and the loss ln 2. For training that goes on from another lora, reference = "stored" takes the field
-- `reference_logprobs` of each datum, T numbers of a frozen copy; dpo.store(session, datums) writes them.
local errors = require "crucible.errors"
local preference = require "crucible.losses.preference"
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"
local tally = require "crucible.losses.tally"

local options = schema.new('loss "dpo"', {
  { name = "beta", default = 0.1, check = schema.number { above = 0 }, doc = "how far to go from the reference" },
  { name = "label_smoothing", default = 0, check = schema.number { min = 0, below = 0.5 },
    doc = "share of pairs taken to be the wrong way round" },
  { name = "loss", default = "sigmoid", check = schema.one_of { "sigmoid", "ipo" }, doc = "of the margin" },
  { name = "reference", default = "base", check = schema.one_of { "base", "stored" }, doc = "whose log-probabilities" },
})

local function reference_of(chosen, predictions, target, i)
  if chosen.reference == "base" then return predictions.base_logprobs[i] end
  return rows.per_target("dpo", target, "reference_logprobs")
end

-- −log σ(x)
local function penalty(x) return (-x):softplus() end

local function pair_loss(chosen, margin)
  if chosen.loss == "ipo" then return (margin - 1 / (2 * chosen.beta)) ^ 2 end
  local e, x = chosen.label_smoothing, chosen.beta * margin
  if e == 0 then return penalty(x) end
  return (1 - e) * penalty(x) + e * penalty(-x)
end

local function compute(chosen)
  local reduce = chosen.loss == "ipo" and preference.mean or preference.sum
  return function(predictions, targets)
    local function gain(i)
      local target = targets[i]
      return reduce(predictions.logprobs[i] - reference_of(chosen, predictions, target, i), target)
    end
    local scalars, reports = {}, {}
    for k, pair in ipairs(preference.pairs("dpo", targets)) do
      local better, worse = gain(pair.chosen), gain(pair.rejected)
      local margin = better - worse
      scalars[k] = pair_loss(chosen, margin)
      tally.add(reports, "margin", chosen.beta * margin:item())
      tally.add(reports, "accuracy", margin:item() > 0 and 1 or 0)
      tally.add(reports, "chosen_reward", chosen.beta * better:item())
      tally.add(reports, "rejected_reward", chosen.beta * worse:item())
    end
    return tally.result(scalars, reports)
  end
end

local function configure(_, given)
  local chosen = options:resolve(given)
  local stored = chosen.reference == "stored"
  return {
    name = "dpo", outputs = stored and { "logprobs" } or { "logprobs", "base_logprobs" }, count = preference.count,
    compute = compute(chosen), options = chosen,
    requires = { "group", "choice", stored and "reference_logprobs" or nil },
  }
end

local dpo = {}

--- Writes `reference_logprobs` into datums: the log-probabilities of their targets under a session as it is now.
---@param session crucible.Session
---@param datums crucible.core.Datum[]
---@return true? ok, string? message, string? code
function dpo.store(session, datums)
  if type(datums) ~= "table" then errors.raise("dpo.store: expected a list of datums, got %s", schema.show(datums)) end
  local found, message, code = session:forward(datums)
  if not found then return nil, message, code end
  for i, datum in ipairs(datums) do
    local list = {}
    for t, value in ipairs(found.logprobs[i]) do list[t] = value == value and value or 0 end -- NaN: weight 0
    datum.reference_logprobs = list
  end
  return true
end

--- Calling the module gives the loss with its options: beta (0.1), label_smoothing (0), loss "sigmoid" or "ipo",
--- reference "base" or "stored".
return setmetatable(dpo, { __call = configure })
