-- How far thesis and antithesis lie apart: the two Fisher–Rao distances and the score that upstream's
-- metrics make of one (North-Shore-AI, cns, lib/cns/metrics/chirality.ex).
local errors = require "crucible.errors"

local chirality = {}

local function check_lengths(what, a, b)
  if #a ~= #b or #a == 0 then
    errors.raise("metrics.chirality: %s must be two lists of the same length, got %d and %d values", what, #a, #b)
  end
end

--- Distance of two distributions over the same outcomes: 2·acos Σ √(p q), from 0 to π.
---@param p number[]  shares that sum to 1
---@param q number[]
---@return number
function chirality.of_distributions(p, q)
  check_lengths("distributions", p, q)
  local affinity = 0
  for i = 1, #p do affinity = affinity + math.sqrt(p[i] * q[i]) end
  return 2 * math.acos(math.min(1, affinity))
end

local VARIANCE_FLOOR = 1e-6

--- Distance of two embeddings under a diagonal metric: √ Σ (a − b)² / (variance + 1e-6).
---@param a number[]
---@param b number[]
---@param variance number[]
---@return number
function chirality.of_embeddings(a, b, variance)
  check_lengths("embeddings", a, b)
  check_lengths("embedding and variance", a, variance)
  local sum = 0
  for i = 1, #a do sum = sum + (a[i] - b[i]) ^ 2 / (variance[i] + VARIANCE_FLOOR) end
  return math.sqrt(sum)
end

--- 0.6·d/(d + 1) + 0.2·(1 − evidence_overlap) + 0.25 with a polarity conflict, at most 1.
---@param distance number
---@param evidence_overlap number  from 0 to 1
---@param conflict boolean
---@return number
function chirality.score(distance, evidence_overlap, conflict)
  return math.min(1, 0.6 * distance / (distance + 1) + 0.2 * (1 - evidence_overlap) + (conflict and 0.25 or 0))
end

return chirality
