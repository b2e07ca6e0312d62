-- Measures of the probabilities that a model gives: perplexity of the expected outputs, and how far
-- its confidence in labels is from how often it is right.
local likelihood = {}

--- Mean negative log-probability of a token of the expected outputs (their end tokens included).
---@param items { nll: number, tokens: integer }[]
---@return number?
function likelihood.loss(items)
  local nll, tokens = 0, 0
  for _, item in ipairs(items) do nll, tokens = nll + item.nll, tokens + item.tokens end
  if tokens > 0 then return nll / tokens end
end

--- exp of that.
---@param items { nll: number, tokens: integer }[]
---@return number?
function likelihood.perplexity(items)
  local loss = likelihood.loss(items)
  return loss and math.exp(loss)
end

--- The shares of labels by their log-probabilities.
---@param scores number[]
---@return number[]
function likelihood.softmax(scores)
  local most, sum, shares = math.max(table.unpack(scores)), 0, {}
  for c, score in ipairs(scores) do
    shares[c] = most > -math.huge and math.exp(score - most) or 1
    sum = sum + shares[c]
  end
  for c = 1, #shares do shares[c] = shares[c] / sum end
  return shares
end

local BINS = 10

-- The bin of a confidence: (0, 0.1], (0.1, 0.2] …
local function bin_of(confidence) return math.max(1, math.min(BINS, math.ceil(confidence * BINS))) end

---@class crucible.metrics.Bin
---@field count integer
---@field confidence number  mean
---@field accuracy number

--- Rows by confidence in ten equal bins; empty ones are left out.
---@param items { confidence: number, correct: integer }[]
---@return crucible.metrics.Bin[]
function likelihood.bins(items)
  local bins = {}
  for b = 1, BINS do bins[b] = { count = 0, confidence = 0, accuracy = 0 } end
  for _, item in ipairs(items) do
    local bin = bins[bin_of(item.confidence)]
    bin.count, bin.confidence = bin.count + 1, bin.confidence + item.confidence
    bin.accuracy = bin.accuracy + item.correct
  end
  local filled = {}
  for _, bin in ipairs(bins) do
    if bin.count > 0 then
      bin.confidence, bin.accuracy = bin.confidence / bin.count, bin.accuracy / bin.count
      filled[#filled + 1] = bin
    end
  end
  return filled
end

--- Expected calibration error (Naeini et al. 2015; Guo et al. 2017, eq. 3): mean distance of
--- confidence and accuracy over ten equal bins, weighted by their rows.
---@param items { confidence: number, correct: integer }[]
---@return number
function likelihood.calibration_error(items)
  local sum = 0
  for _, bin in ipairs(likelihood.bins(items)) do
    sum = sum + bin.count * math.abs(bin.confidence - bin.accuracy)
  end
  return sum / #items
end

return likelihood
