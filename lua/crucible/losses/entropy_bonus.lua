-- −Σ H of the predictive distributions at supervised targets: in a composite with a small weight it keeps a
-- policy from becoming certain too soon (Williams and Peng 1991). Its value is below 0.
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"

local options = schema.new('loss "entropy_bonus"', {})

local function compute(predictions, targets)
  local total
  for i, target in ipairs(targets) do
    local loss = -(predictions.entropy[i] * rows.mask(target)):sum()
    total = total and total + loss or loss
  end
  return { loss = total }
end

--- The loss; it has no options.
---@param given table?
---@return table loss
return function(given)
  options:resolve(given)
  return { name = "entropy_bonus", outputs = { "entropy" }, count = rows.supervised, compute = compute }
end
