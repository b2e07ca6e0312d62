-- Pairs of answers to one prompt: rows of one metadata.group, one with metadata.choice "chosen", one "rejected", as
-- the formatter "preference" makes them.
local errors = require "crucible.errors"
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"

local preference = {}

--- Units of a datum: a pair counts where its better answer stands.
---@param datum crucible.core.Datum
---@return integer
function preference.count(datum) return rows.field(datum, "choice") == "chosen" and 1 or 0 end

--- Places of the chosen and the rejected datum of each pair. Raises for a group that is no pair.
---@param loss string
---@param targets crucible.lora.Target[]
---@return { chosen: integer, rejected: integer }[]
function preference.pairs(loss, targets)
  local list = {}
  for g, places in ipairs(rows.groups(loss, targets)) do
    local pair = {}
    for _, i in ipairs(places) do
      local choice = rows.field(targets[i].datum, "choice")
      if choice ~= "chosen" and choice ~= "rejected" or pair[choice] then
        errors.raise('loss "%s": the two datums of a group have choice "chosen" and "rejected", got %s', loss,
          pair[choice] and schema.show(choice) .. " twice" or schema.show(choice))
      end
      pair[choice] = i
    end
    if not pair.chosen or not pair.rejected then
      errors.raise('loss "%s": group %s has no "%s" datum', loss,
        schema.show(rows.field(targets[places[1]].datum, "group")), pair.chosen and "rejected" or "chosen")
    end
    list[g] = pair
  end
  return list
end

--- Σ log p of the supervised targets.
---@param logprobs crucible.Tensor  [T]
---@param target crucible.lora.Target
---@return crucible.Tensor
function preference.sum(logprobs, target) return (logprobs * rows.mask(target)):sum() end

--- Their mean.
---@param logprobs crucible.Tensor  [T]
---@param target crucible.lora.Target
---@return crucible.Tensor
function preference.mean(logprobs, target)
  return preference.sum(logprobs, target) / math.max(1, rows.supervised(target.datum))
end

return preference
