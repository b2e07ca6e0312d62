-- The registry of losses. A loss is a table that lora/predictions.lua describes: `name`, `count(datum)`,
-- the number of units it is a mean over, `outputs` and `compute`; or `terms`. Those of type "builtin" are
-- computed by the engine under that name where they stand alone.
local errors = require "crucible.errors"
local predictions = require "crucible.lora.predictions"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local loss_functions = {}

---@class crucible.lora.Loss
---@field name string
---@field type "builtin"?
---@field count fun(datum: crucible.core.Datum): number
---@field outputs string[]
---@field compute fun(predictions: crucible.lora.Predictions, targets: crucible.lora.Target[]): table
---@field request (fun(datum: crucible.core.Datum): crucible.lora.Request)?
---@field positions "supervised"|"all"|nil
---@field scope "datum"|"batch"|nil
---@field metric_only boolean?
---@field terms { loss: crucible.lora.Loss, weight: number|fun(step: integer): number|nil, name: string? }[]?

--- Number of targets of weight other than 0.
---@param datum crucible.core.Datum
---@return integer
local function supervised_targets(datum)
  if not datum.weights then return datum.targets and #datum.targets or #datum.tokens - 1 end
  local count = 0
  for _, weight in ipairs(datum.weights) do
    if weight ~= 0 then count = count + 1 end
  end
  return count
end

-- Σ weight · −log p(target).
local function cross_entropy(seen, targets)
  local loss = 0
  for i, target in ipairs(targets) do loss = loss - (seen.logprobs[i] * target.weights):sum() end
  return { loss = loss }
end

local registry = {
  cross_entropy = {
    name = "cross_entropy", type = "builtin", count = supervised_targets, outputs = { "logprobs" },
    compute = cross_entropy,
  },
}

local loss_options = schema.new("lora.loss_functions.register", {
  { name = "type", required = true, check = schema.one_of { "builtin" }, doc = "who computes it" },
  { name = "name", required = true, check = schema.nonempty_string, doc = "the engine's name of it" },
  { name = "count", required = true, check = schema.callable, doc = "(datum) → units that the loss is a mean over" },
})

--- Registers a loss under a name of one's own. Raises when the name is taken.
---@param name string
---@param loss crucible.lora.Loss
function loss_functions.register(name, loss)
  if type(name) ~= "string" or name == "" then
    errors.raise("lora.loss_functions.register: a loss needs a name, got %s", schema.show(name))
  end
  if registry[name] then errors.raise('lora.loss_functions.register: "%s" is registered already', name) end
  if type(loss) == "table" and (loss.compute or loss.terms) then
    registry[name] = predictions.check(loss)
    return
  end
  registry[name] = loss_options:resolve(loss)
end

--- The loss of a name; nil, "not_found" for an unknown one.
---@param name string
---@return crucible.lora.Loss? loss, string? code
function loss_functions.get(name)
  local loss = registry[name]
  if not loss then return nil, "not_found" end
  return loss
end

--- Names of all losses, sorted.
---@return string[]
function loss_functions.list()
  local names = {}
  for name in pairs(registry) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The units of a loss in some datums, by the name of the loss: what forward_backward takes as
--- `counts` once they are added up over an optimiser step.
---@param loss crucible.lora.Loss
---@param batch crucible.core.Datum[]
---@return table<string, integer>
function loss_functions.counts(loss, batch) return predictions.counts(loss, batch) end

--- A loss given as a name or as what `get` returns. Raises on anything else, listing the names.
---@param loss_fn string|crucible.lora.Loss
---@return crucible.lora.Loss
function loss_functions.resolve(loss_fn)
  if type(loss_fn) == "table" and (loss_fn.type == "builtin" or loss_fn.compute or loss_fn.terms) then
    return predictions.check(loss_fn)
  end
  if type(loss_fn) ~= "string" then
    errors.raise("a loss is a name, a table from lora.loss_functions.get or one with compute, got %s",
      schema.show(loss_fn))
  end
  local loss = loss_functions.get(loss_fn)
  if loss then return loss end
  local names = loss_functions.list()
  local hint = suggest.nearest(loss_fn, names)
  return errors.raise('unknown loss "%s"%s; known: %s', loss_fn, hint and ('; did you mean "%s"?'):format(hint) or "",
    table.concat(names, ", "))
end

return loss_functions
