-- The evaluation within a run: the mean loss over held-out rows and, if metrics are asked for, what
-- evaluation.evaluate measures of generated or likeliest answers.
local dataset_integration = require "crucible.lora.dataset_integration"
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local evaluation = require "crucible.lora.evaluation"
local schema = require "crucible.schema"

local validation = {}

local ROWS_AT_ONCE = 16

local own_options = schema.new("training_loop.run: evaluate", {
  { name = "dataset", check = schema.either(schema.nonempty_string, schema.table),
    doc = "held-out rows; default: the run's data set, in another split" },
  { name = "loss", default = true, check = schema.boolean,
    doc = "measure loss (mean cross-entropy of supervised tokens) and perplexity" },
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
  return datums.build(session.tokenizer, require("crucible.lora").format_training_data(rows), {
    max_length = limit, truncation = session.config.truncation,
  })
end

-- Adds −Σ weight · log p and the number of supervised targets of some datums.
local function add_losses(total, batch, logprobs)
  for d, datum in ipairs(batch) do
    for i, weight in ipairs(datum.weights) do
      if weight ~= 0 then
        total.sum, total.count = total.sum - weight * logprobs[d][i], total.count + 1
      end
    end
  end
end

--- Mean cross-entropy over the supervised targets of all datums, weighted by them as training is; dropout is
--- off. NaN when nothing is supervised.
---@param session crucible.Session
---@param list crucible.core.Datum[]
---@return number? loss, string? message, string? code
function validation.loss(session, list)
  local total = { sum = 0, count = 0 }
  for first = 1, #list, ROWS_AT_ONCE do
    local batch = table.move(list, first, math.min(first + ROWS_AT_ONCE - 1, #list), 1, {})
    local found, message, code = session:forward(batch)
    if not found then return nil, message, code end
    add_losses(total, batch, found.logprobs)
  end
  return total.sum / total.count
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
---@return fun(session: crucible.Session): table?, string?, string?
function validation.new(given, dataset, inherited)
  if not given.dataset then given = inheriting(given, inherited) end
  local own = own_options:resolve(own_options:pick(given))
  local options, checked = generated_options(given)
  local held_out = own.dataset or dataset
  local loaded
  return function(session)
    local result, message, code = { metrics = {} }, nil, nil
    if options then
      result, message, code = evaluation.evaluate(session, held_out, options)
      if not result then return nil, message, code end
    end
    if own.loss then
      if not loaded then loaded, message, code = load_datums(session, held_out, checked) end
      if not loaded then return nil, message, code end
      result.metrics.loss, message, code = validation.loss(session, loaded)
      if not result.metrics.loss then return nil, message, code end
      result.metrics.perplexity = math.exp(result.metrics.loss)
    end
    return result
  end
end

--- The options of `evaluate` beside those of evaluation.evaluate, as text.
---@return string
function validation.help() return own_options:help() end

return validation
