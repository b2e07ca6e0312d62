-- Datums as rows of a request, checked before anything is sent: servers take bad ids, wrong lengths and NaN without
-- a word and the adapter is spoilt from then on.
local errors = require "crucible.errors"
local predictions = require "crucible.lora.predictions"
local schema = require "crucible.schema"

local rows = {}

local function check_ids(what, ids, vocabulary)
  if type(ids) ~= "table" or #ids == 0 then
    errors.raise("%s must be a list of token ids, got %s", what, schema.show(ids))
  end
  for i, id in ipairs(ids) do
    if math.type(id) ~= "integer" then errors.raise("%s[%d] must be a token id, got %s", what, i, schema.show(id)) end
    if id < 0 or id >= vocabulary then
      return errors.failure("argument", "%s[%d] is %d; ids are 0 to %d", what, i, id, vocabulary - 1)
    end
  end
  return true
end

-- `what` is "batch[3]".
local function read_ids(what, datum, session)
  local vocabulary = session.tokenizer.size
  if type(datum) ~= "table" then errors.raise("%s must be a datum, got %s", what, schema.show(datum)) end
  local ok, message, code = check_ids(what .. ".tokens", datum.tokens, vocabulary)
  if ok and datum.targets then ok, message, code = check_ids(what .. ".targets", datum.targets, vocabulary) end
  if not ok then return nil, message, code end
  if datum.targets and #datum.targets ~= #datum.tokens then
    errors.raise("%s: %d tokens and %d targets", what, #datum.tokens, #datum.targets)
  end
  local length = predictions.length(datum)
  if length == 0 then errors.raise("%s has one token: there is nothing to predict", what) end
  if length > session.context then
    return errors.failure("context_overflow", "%s has %d positions, and the context is %d", what, length,
      session.context)
  end
  if datum.targets then return { tokens = datum.tokens, targets = datum.targets } end
  return {
    tokens = table.move(datum.tokens, 1, length, 1, {}), targets = table.move(datum.tokens, 2, length + 1, 1, {}),
  }
end

local function check_weights(what, datum)
  local length = predictions.length(datum)
  if datum.weights == nil then return end
  if type(datum.weights) ~= "table" or #datum.weights ~= length then
    errors.raise("%s: %d targets and %s weights", what, length,
      type(datum.weights) == "table" and #datum.weights or schema.show(datum.weights))
  end
  for t, weight in ipairs(datum.weights) do
    if type(weight) ~= "number" or weight ~= weight or weight == math.huge or weight == -math.huge then
      errors.raise("%s.weights[%d] must be a finite number, got %s", what, t, schema.show(weight))
    end
  end
end

--- Checks a batch and gives its datums' ids: { tokens, targets } each. Raises on misuse; ids outside the vocabulary
--- and rows longer than the context give nil, message, code.
---@param caller string  "session:forward"
---@param session table  tokenizer, context, known_rows
---@param batch crucible.core.Datum[]
---@return { tokens: integer[], targets: integer[] }[]? list, string? message, string? code
function rows.read(caller, session, batch)
  if type(batch) ~= "table" or #batch == 0 then
    errors.raise("%s: a batch is a list of datums with at least one, got %s", caller, schema.show(batch))
  end
  -- Inputs and targets of a datum, kept while the datum lives: an epoch sends them again.
  local list, known = {}, session.known_rows
  for i, datum in ipairs(batch) do
    local what, ids = ("%s: batch[%d]"):format(caller, i), type(datum) == "table" and known[datum] or nil
    if not ids or ids.of ~= datum.tokens then
      local message, code
      ids, message, code = read_ids(what, datum, session)
      if not ids then return nil, message, code end
      ids.of, known[datum] = datum.tokens, ids
    end
    check_weights(what, datum)
    list[i] = ids
  end
  return list
end

--- A datum's weight at each target.
---@param datum crucible.core.Datum
---@return fun(t: integer): number
function rows.weight_of(datum)
  local weights = datum.weights
  if not weights then return function() return 1 end end
  return function(t) return weights[t] end
end

--- Rows that bring weights of their own; index says of which datum.
---@param list { tokens: integer[], targets: integer[] }[]
---@param weights number[][]
---@return crucible.tinker.Row[]
function rows.with(list, weights)
  local made = {}
  for i, ids in ipairs(list) do
    made[i] = { tokens = ids.tokens, targets = ids.targets, weights = weights[i], index = i }
  end
  return made
end

--- The same with weight 1 everywhere: for passes whose loss nobody asks for. Log-probabilities are wanted where the
--- batch has weight, or everywhere.
---@param list { tokens: integer[], targets: integer[] }[]
---@param batch crucible.core.Datum[]
---@param everywhere boolean?
---@return crucible.tinker.Row[]
function rows.plain(list, batch, everywhere)
  local weights = {}
  for i, ids in ipairs(list) do
    weights[i] = {}
    for t = 1, #ids.targets do weights[i][t] = 1 end
  end
  local made = rows.with(list, weights)
  for i, row in ipairs(made) do row.needed = not everywhere and batch[i].weights or nil end
  return made
end

return rows
