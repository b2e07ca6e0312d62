-- The evaluation within a run: the run's loss over held-out rows and, if metrics are asked for, what
-- evaluation.evaluate measures of generated or likeliest answers.
local dataset_integration = require "crucible.lora.dataset_integration"
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local evaluation = require "crucible.lora.evaluation"
local predictions = require "crucible.lora.predictions"
local schema = require "crucible.schema"

local validation = {}

local ROWS_AT_ONCE = 16

local own_options = schema.new("training_loop.run: evaluate", {
  { name = "dataset", check = schema.either(schema.nonempty_string, schema.table),
    doc = "held-out rows; default: the run's data set, in another split" },
  { name = "loss", default = true, check = schema.boolean,
    doc = "measure the run's loss, its terms by name, and perplexity" },
})

-- The split to read: "test" unless given, or what the data set has in its place.
local function split_of(dataset, asked)
  local known = dataset_integration.find(dataset)
  local split = asked or "test"
  return known and known.fallback and known.fallback[split] or split
end

local function load_datums(session, dataset, options)
  local asked = dataset_integration.row_options:pick(options)
  asked.split = split_of(dataset, options.split)
  local rows, info, code = dataset_integration.prepare_dataset(dataset, asked)
  if not rows then return nil, info, code end
  if #rows == 0 then return errors.failure("data", "%s: no rows to evaluate", info.source) end
  local limit = math.min(session.config.max_length or session.context, session.context)
  local formatted = require("crucible.lora").format_training_data(rows)
  for i, row in ipairs(rows) do formatted[i].metadata = row.metadata end
  return datums.build(session.tokenizer, formatted, {
    max_length = limit, truncation = session.config.truncation,
  })
end

-- Rows that are looked at together: about as many, never cutting a metadata.group.
local function pieces_of(list)
  local pieces, piece = {}, nil
  for i, datum in ipairs(list) do
    local group, before = datum.metadata and datum.metadata.group, list[i - 1]
    local together = group ~= nil and before and before.metadata and before.metadata.group == group
    if not piece or #piece >= ROWS_AT_ONCE and not together then
      piece = {}
      pieces[#pieces + 1] = piece
    end
    piece[#piece + 1] = datum
  end
  return pieces
end

-- Σ over supervised targets of weight · −log p.
local function cross_entropy_of(session, batch)
  local found, message, code = session:forward(batch)
  if not found then return nil, message, code end
  local sum = 0
  for d, datum in ipairs(batch) do
    for i, weight in ipairs(datum.weights) do
      if weight ~= 0 then sum = sum - weight * found.logprobs[d][i] end
    end
  end
  return sum
end

-- The sum that a loss written in Lua computes, without slopes.
local function computed(session, batch, loss)
  local found, message, code = session:forward(batch, {
    outputs = loss.outputs, request = loss.request, positions = loss.positions, comparisons = loss.comparisons,
  })
  if not found then return nil, message, code end
  local value = loss.compute(found, predictions.targets(batch)).loss
  return type(value) == "number" and value or value:item()
end

-- Mean of one term over its units in all datums; nil where there are none.
local function mean_of(session, list, loss)
  local sum, units = 0, predictions.counts(loss, list)[loss.name]
  for _, batch in ipairs(loss.scope == "batch" and { list } or pieces_of(list)) do
    if predictions.counts(loss, batch)[loss.name] > 0 then
      local part, message, code
      if loss.fused then
        part, message, code = cross_entropy_of(session, batch)
      else
        part, message, code = computed(session, batch, loss)
      end
      if not part then return nil, message, code end
      sum = sum + part
    end
  end
  if units == 0 then return 0 / 0 end
  return loss.divide == false and sum or sum / units
end

--- The mean of a loss over held-out datums, divided by units as in training; dropout is off. `loss` is the
--- weighted sum of the terms, the others are the terms by name; perplexity comes with cross_entropy.
---@param session crucible.Session
---@param list crucible.core.Datum[]
---@param loss crucible.lora.Loss
---@return table<string, number>? metrics, string? message, string? code
function validation.losses(session, list, loss)
  local metrics, total = {}, nil
  for _, term in ipairs(predictions.terms(loss)) do
    local value, message, code = mean_of(session, list, term.loss)
    if not value then return nil, message, code end
    metrics[term.name] = value
    if value == value then total = (total or 0) + term.weight * value end
  end
  metrics.loss = total or 0 / 0
  if metrics.cross_entropy then metrics.perplexity = math.exp(metrics.cross_entropy) end
  return metrics
end

-- Options of evaluation.evaluate among those of `evaluate`, checked; nil when no metrics are asked for.
local function generated_options(given)
  local options = {}
  for name, value in pairs(given) do
    if not own_options.by_name[name] then options[name] = value end
  end
  local checked = evaluation.check(options) -- now, not after an epoch
  return given.metrics and options or nil, checked
end

-- The options with the run's own way of reading rows where they bring none.
local function inheriting(given, inherited)
  local merged = { transform = inherited.transform, formatter = inherited.formatter }
  for name, value in pairs(given) do merged[name] = value end
  return merged
end

--- The evaluator of a run: `(session, event) → { metrics, … }`. Raises on unknown options and metrics.
--- Without `metrics` the loss alone is measured.
---@param given table      dataset, loss, and options of evaluation.evaluate
---@param dataset string|table[]  the run's
---@param inherited { transform: function?, formatter: string? }  the run's, for the run's data set
---@return fun(session: crucible.Session, event: table, loss: crucible.lora.Loss): table?, string?, string?
function validation.new(given, dataset, inherited)
  if not given.dataset then given = inheriting(given, inherited) end
  local own = own_options:resolve(own_options:pick(given))
  local options, checked = generated_options(given)
  local held_out = own.dataset or dataset
  local loaded
  return function(session, _, loss)
    local result, message, code = { metrics = {} }, nil, nil
    if options then
      result, message, code = evaluation.evaluate(session, held_out, options)
      if not result then return nil, message, code end
    end
    if own.loss then
      if not loaded then loaded, message, code = load_datums(session, held_out, checked) end
      if not loaded then return nil, message, code end
      local losses
      losses, message, code = validation.losses(session, loaded, loss)
      if not losses then return nil, message, code end
      for name, value in pairs(losses) do result.metrics[name] = value end
    end
    return result
  end
end

--- The options of `evaluate` beside those of evaluation.evaluate, as text.
---@return string
function validation.help() return own_options:help() end

return validation
