-- What losses read of rows: fields that stand in a datum or in its metadata, and how a sum over tokens
-- becomes a mean.
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local supervised = require "crucible.losses.supervised"
local tensor = require "crucible.tensor"

local rows = {}

--- A field of a datum or of its metadata.
---@param datum crucible.core.Datum
---@param name string
---@return any
function rows.field(datum, name)
  if datum[name] ~= nil then return datum[name] end
  return datum.metadata and datum.metadata[name]
end

--- The same, which must be there.
---@param loss string
---@param datum crucible.core.Datum
---@param name string
---@return any
function rows.needed(loss, datum, name)
  local value = rows.field(datum, name)
  if value == nil then
    errors.raise('loss "%s": a datum%s has no %s: it is a field of the datum or of its metadata', loss,
      datum.row and (" (row %s)"):format(datum.row) or "", name)
  end
  return value
end

--- A number for each target: a list of T numbers, or one number for all of them.
---@param loss string
---@param target crucible.lora.Target
---@param name string
---@return crucible.Tensor  [T]
function rows.per_target(loss, target, name)
  local value = rows.needed(loss, target.datum, name)
  if type(value) == "number" then return tensor.full(target.length, value) end
  if type(value) ~= "table" or #value ~= target.length then
    errors.raise('loss "%s": %s must be a number or %d numbers, one a target, got %s', loss, name, target.length,
      type(value) == "table" and ("%d"):format(#value) or schema.show(value))
  end
  return tensor.new(value)
end

--- 1 where a target has weight, 0 elsewhere: [T].
---@param target crucible.lora.Target
---@return crucible.Tensor
function rows.mask(target) return target.weights:ne(0) end

--- Number of targets with weight.
---@param datum crucible.core.Datum
---@return integer
rows.supervised = supervised

--- Datums of each metadata.group, as lists of places, in the order in which groups begin.
---@param loss string
---@param targets crucible.lora.Target[]
---@return integer[][]
function rows.groups(loss, targets)
  local list, of = {}, {}
  for i, target in ipairs(targets) do
    local group = rows.needed(loss, target.datum, "group")
    if not of[group] then
      of[group] = {}
      list[#list + 1] = of[group]
    end
    table.insert(of[group], i)
  end
  return list
end

-- ---- normalisation -------------------------------------------------------------------------------

--- How a loss of tokens is averaged over an optimiser step, whatever batches it is made of:
---   "tokens"     Σ over all tokens of the step / their number: long answers weigh more (DAPO)
---   "sequences"  the mean of the answers' own means: every answer weighs alike, a token of a long one less
---   "constant"   Σ over an answer's tokens / `constant`, averaged over answers: no bias by length (Dr. GRPO)
rows.normalisation_options = {
  { name = "normalisation", default = "tokens", check = schema.one_of { "tokens", "sequences", "constant" },
    doc = "what a sum over tokens is divided by" },
  { name = "constant", default = 512, check = schema.number { above = 0 }, doc = 'of normalisation "constant"' },
}

--- Units of a datum under a normalisation.
---@param chosen { normalisation: string }
---@return fun(datum: crucible.core.Datum): integer
function rows.count(chosen)
  if chosen.normalisation == "tokens" then return rows.supervised end
  return function(datum) return rows.supervised(datum) > 0 and 1 or 0 end
end

--- A datum's part of the sum over units.
---@param chosen { normalisation: string, constant: number }
---@param sum crucible.Tensor  over the datum's tokens
---@param datum crucible.core.Datum
---@return crucible.Tensor
function rows.normalise(chosen, sum, datum)
  if chosen.normalisation == "tokens" then return sum end
  if chosen.normalisation == "sequences" then return sum / math.max(1, rows.supervised(datum)) end
  return sum / chosen.constant
end

return rows
