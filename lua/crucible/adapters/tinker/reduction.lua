-- From the coefficients that a step's gradient is to have to the weights that a server is sent.
--
-- What is wanted is always Σ c · ∇(−log p) over the targets of all calls of a step, with c = weight / count: that is
-- what a config means on the local engine. Servers divide what they are sent (profile.lua):
--
--     sum            weights = c
--     token_mean     weights = c, in requests whose Σ is at most 1, where the denominator is 1. A row whose own Σ is
--                    larger goes several times with an equal part each.
--     sequence_mean  a row's weights count only relative to each other and rows count alike: c can be had where it is
--                    not negative and sums to the same in each row of the step
local errors = require "crucible.errors"

local reduction = {}

local TOLERANCE = 1e-5 -- relative: what float32 sums differ by

local function sum_of(weights)
  local sum = 0
  for _, weight in ipairs(weights) do sum = sum + weight end
  return sum
end

local function has_negative(weights)
  for _, weight in ipairs(weights) do
    if weight < 0 then return true end
  end
  return false
end

local function has_any(weights)
  for _, weight in ipairs(weights) do
    if weight ~= 0 then return true end
  end
  return false
end

local function with_weights(row, weights)
  return { tokens = row.tokens, targets = row.targets, weights = weights, index = row.index, needed = row.needed }
end

local function scaled(weights, factor)
  local list = {}
  for i, weight in ipairs(weights) do list[i] = weight * factor end
  return list
end

-- ---- ways ------------------------------------------------------------------------------------

local ways = {}

function ways.sum(rows) return { rows } end

-- Requests of rows whose sums stay at most 1. A row may come out in several, each with a part.
function ways.token_mean(rows)
  local requests, current, filled = {}, nil, 0
  local function put(row, sum)
    if not current or filled + math.max(0, sum) > 1 + TOLERANCE then
      current, filled = {}, 0
      requests[#requests + 1] = current
    end
    current[#current + 1], filled = row, filled + math.max(0, sum)
  end
  for _, row in ipairs(rows) do
    local sum = sum_of(row.weights)
    local parts = math.max(1, math.ceil(sum - TOLERANCE))
    local part = parts == 1 and row or with_weights(row, scaled(row.weights, 1 / parts))
    for _ = 1, parts do put(part, sum / parts) end
  end
  return requests
end

-- What the server will make of a row cannot be changed by its scale; that it is what is wanted is checked over the
-- whole step.
function ways.sequence_mean(rows, step)
  local row_sum = step.row_sum or sum_of(rows[1].weights)
  for _, row in ipairs(rows) do
    if has_negative(row.weights) then
      errors.raise("session:forward_backward: %s", reduction.reason_negative)
    end
    if math.abs(sum_of(row.weights) - row_sum) > TOLERANCE * row_sum then
      errors.raise("session:forward_backward: %s", reduction.reason_uneven)
    end
  end
  step.row_sum, step.rows = row_sum, (step.rows or 0) + #rows
  return { rows }
end

reduction.reason_negative = "the server's cross-entropy divides each row by the sum of its weights, floored at 0: "
  .. "negative weights, and so losses of other slopes than cross-entropy's, cannot be had there; use the local "
  .. "engine, or a server whose cross-entropy is a sum"
reduction.reason_uneven = "the server's cross-entropy gives each row the same share, and this loss gives rows "
  .. "different ones (by their supervised tokens); loss_fn = { \"cross_entropy\", { reduction = \"sequence_mean\" } } "
  .. "means the same on both engines"

--- The requests, as lists of rows, that bring what the rows' weights say; `step` is a table that lasts until the
--- update. Rows without any weight are left out. Raises, with the reason, for what cannot be had.
---@param kind "sum"|"sequence_mean"|"token_mean"
---@param rows crucible.tinker.Row[]  weights are coefficients
---@param step table
---@return crucible.tinker.Row[][]
function reduction.requests(kind, rows, step)
  local weighted = {}
  for _, row in ipairs(rows) do
    if has_any(row.weights) then weighted[#weighted + 1] = row end
  end
  if #weighted == 0 then return {} end
  return ways[kind](weighted, step)
end

--- Before an update: raises where the rows since the last one are not what their coefficients were divided by.
---@param kind "sum"|"sequence_mean"|"token_mean"
---@param step table
function reduction.check_step(kind, step)
  if kind ~= "sequence_mean" or not step.rows then return end
  if math.abs(step.row_sum * step.rows - 1) <= 10 * TOLERANCE then return end
  errors.raise("session:optim_step: the server divides by the %d rows of the step, and the loss was divided by what "
    .. "makes them %.6g in all: give forward_backward the counts of the whole step", step.rows,
    step.row_sum * step.rows)
end

--- Whether the gradients of any slopes can be had.
---@param kind "sum"|"sequence_mean"|"token_mean"
---@return boolean
function reduction.takes_slopes(kind) return kind ~= "sequence_mean" end

return reduction
