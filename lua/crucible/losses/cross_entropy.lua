-- Cross-entropy: Σ weight · −log p(target) over supervised targets. With label smoothing ε (Szegedy et al. 2016) the
-- target's share is 1 − ε and ε is spread evenly over the vocabulary, as PyTorch's cross_entropy has it.
--
-- reduction says what it is divided by: "mean" the supervised targets of the whole step, "sequence_mean" each row's
-- by its own number first and then by the number of rows, "sum" nothing.
local schema = require "crucible.schema"
local supervised = require "crucible.losses.supervised"

local options = schema.new('loss "cross_entropy"', {
  { name = "reduction", default = "mean", check = schema.one_of { "mean", "sequence_mean", "sum" },
    doc = "what the sum is divided by" },
  { name = "label_smoothing", default = 0, check = schema.number { min = 0, max = 1 },
    doc = "share of each target that is spread over the vocabulary" },
})

local function any_supervised(datum) return supervised(datum) > 0 and 1 or 0 end

local function compute(chosen)
  local smoothing, by_row = chosen.label_smoothing, chosen.reduction == "sequence_mean"
  return function(predictions, targets)
    local loss = 0
    for i, target in ipairs(targets) do
      local logprobs = predictions.logprobs[i]
      if smoothing > 0 then logprobs = logprobs * (1 - smoothing) + predictions.mean_logprobs[i] * smoothing end
      local row = (logprobs * target.weights):sum()
      if by_row then row = row / math.max(1, supervised(target.datum)) end
      loss = loss - row
    end
    return { loss = loss }
  end
end

--- The loss with its options: reduction ("mean"), label_smoothing (0).
---@param given { reduction: "mean"|"sequence_mean"|"sum"|nil, label_smoothing: number? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  local smoothed = chosen.label_smoothing > 0
  local count = chosen.reduction == "sequence_mean" and any_supervised or supervised
  return {
    name = "cross_entropy", type = "builtin", count = count, compute = compute(chosen), options = chosen,
    outputs = smoothed and { "logprobs", "mean_logprobs" } or { "logprobs" },
    fused = chosen.reduction == "mean" and not smoothed, divide = chosen.reduction ~= "sum",
  }
end
