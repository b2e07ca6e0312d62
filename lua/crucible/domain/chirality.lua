-- How far two sides are apart: Fisher-Rao distances, and the chirality score of North-Shore-AI/cns
-- (lib/cns/metrics/chirality.ex).
local errors = require "crucible.errors"

local chirality = {}

local function check_lengths(what, a, b)
  if #a ~= #b then errors.raise("%s: lists of %d and %d numbers, expected the same length", what, #a, #b) end
end

--- The Fisher-Rao distance of two distributions on the same events, 2·acos Σ √(p q), 0 to π.
---@param p number[]
---@param q number[]
---@return number
function chirality.distribution_distance(p, q)
  check_lengths("chirality.distribution_distance", p, q)
  local sum = 0
  for k = 1, #p do sum = sum + math.sqrt(p[k] * q[k]) end
  return 2 * math.acos(math.max(-1, math.min(1, sum)))
end

--- The diagonal Fisher-Rao distance of two embeddings, √Σ (a−b)²/(variance + 1e-6).
---@param a number[]
---@param b number[]
---@param variance number[]
---@return number
function chirality.embedding_distance(a, b, variance)
  check_lengths("chirality.embedding_distance", a, b)
  check_lengths("chirality.embedding_distance", a, variance)
  local sum = 0
  for k = 1, #a do sum = sum + (a[k] - b[k]) ^ 2 / (variance[k] + 1e-6) end
  return math.sqrt(sum)
end

--- 0.6·d/(d+1) + 0.2·(1 − evidence overlap) + 0.25·[polarity conflict], at most 1. Without an overlap its term is
--- dropped.
---@param distance number
---@param evidence_overlap number?  0 to 1
---@param polarity_conflict boolean
---@return number
function chirality.score(distance, evidence_overlap, polarity_conflict)
  local score = 0.6 * distance / (distance + 1)
  if evidence_overlap then score = score + 0.2 * (1 - evidence_overlap) end
  if polarity_conflict then score = score + 0.25 end
  return math.min(1, score)
end

return chirality
