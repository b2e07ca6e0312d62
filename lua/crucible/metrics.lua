-- Metrics by name. A metric belongs to a family, which looks at each row once (`observe`) and sums
-- up any list of rows (`summarise`); the metric is a number out of that summary. Rows drawn again
-- for an interval are then summed up, not looked at, again.
--
-- A metric of one's own is a function of predictions:
--
--     metrics.register("short", function(predictions) … return number end)
--
-- or, to be looked at row by row, { observe = function(prediction) … end, reduce = function(items) … end }.
local bleu = require "crucible.metrics.bleu"
local claims = require "crucible.metrics.claims"
local classification = require "crucible.metrics.classification"
local errors = require "crucible.errors"
local likelihood = require "crucible.metrics.likelihood"
local numeric = require "crucible.metrics.numeric"
local overlap = require "crucible.metrics.overlap"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local metrics = {}

---@class crucible.metrics.Family
---@field name string
---@field observe fun(prediction: table, context: table): any  once a row; nil leaves the row out of this family
---@field summarise fun(items: any[], context: table): any    of at least one item

---@class crucible.metrics.Metric
---@field name string
---@field doc string
---@field family crucible.metrics.Family
---@field value fun(summary: any, context: table): number?
---@field needs "label scores"|"likelihood"|"claims"|nil  what rows must carry beside expected and predicted
---@field lower boolean?  the lower the better
---@field registered boolean?  by a user

---@type table<string, crucible.metrics.Metric>
local known = {}

local function identity(summary) return summary end

local function add(metric) known[metric.name] = metric end

local function mean(items)
  local sum = 0
  for i = 1, #items do sum = sum + items[i] end
  return sum / #items
end

-- ---- the library's own ---------------------------------------------------------------------

local averages = { macro = "mean over classes", micro = "over all rows at once", weighted = "mean weighted by support" }
local measures = { precision = "precision", recall = "recall", f1 = "F1" }

local function add_classification()
  local docs = { accuracy = "share of rows that are right" }
  for name, what in pairs(measures) do
    docs[name] = what .. ", mean over classes"
    for kind, how in pairs(averages) do docs[name .. "_" .. kind] = ("%s, %s"):format(what, how) end
  end
  for name, value in pairs(classification.metrics) do
    add { name = name, doc = docs[name], family = classification.family, value = value }
  end
end

-- A metric that is the mean of score(expected, predicted).
local function add_mean(name, doc, score)
  add { name = name, doc = doc, value = identity, family = {
    name = name, summarise = mean,
    observe = function(prediction) return score(prediction.expected, prediction.predicted) end,
  } }
end

local function add_texts()
  add_mean("exact_match", "share of predictions that are the expected text", overlap.exact_match)
  add_mean("token_f1", "F1 over words, as SQuAD's script", overlap.token_f1)
  add_mean("rouge_l", "ROUGE-L, as rouge_score", overlap.rouge_l)
  for n = 1, 2 do
    add_mean("rouge_" .. n, ("ROUGE-%d, as rouge_score"):format(n), function(expected, predicted)
      return overlap.rouge_n(expected, predicted, n)
    end)
  end
  add_mean("gsm8k", "share of right numbers: after ####, else the last of the text", numeric.gsm8k)
  add_mean("gsm8k_strict", "the same by the data set's script: after #### alone", numeric.gsm8k_strict)
  add { name = "contains", doc = "share of completions that hold the expected text", value = identity, family = {
    name = "contains", summarise = mean,
    observe = function(prediction)
      return overlap.contains(prediction.expected, prediction.text or prediction.predicted)
    end,
  } }
  add { name = "bleu", doc = "BLEU of the corpus, 0 to 100, as sacreBLEU", value = identity, family = {
    name = "bleu", summarise = bleu.score,
    observe = function(prediction) return bleu.item(prediction.expected, prediction.predicted) end,
  } }
end

local likelihood_family = {
  name = "likelihood", summarise = identity,
  observe = function(prediction)
    return prediction.nll and { nll = prediction.nll, tokens = prediction.nll_tokens } or nil
  end,
}

local function confidence_of(prediction)
  if not prediction.scores then return nil end
  local shares = likelihood.softmax(prediction.scores)
  return { confidence = math.max(table.unpack(shares)), correct = prediction.correct and 1 or 0 }
end

local function add_likelihoods()
  add { name = "loss", doc = "mean negative log-probability of a token of the expected outputs", lower = true,
    needs = "likelihood", family = likelihood_family, value = likelihood.loss }
  add { name = "perplexity", doc = "exp of loss", lower = true, needs = "likelihood", family = likelihood_family,
    value = likelihood.perplexity }
  add { name = "calibration_error", doc = "distance of confidence and accuracy over ten bins", lower = true,
    needs = "label scores", value = identity,
    family = { name = "calibration", observe = confidence_of, summarise = likelihood.calibration_error } }
end

local function add_claims()
  for _, entry in ipairs(claims.measures) do
    add { name = entry.name, doc = entry.doc, lower = entry.lower, needs = "claims", value = identity, family = {
      name = entry.name, summarise = mean,
      observe = function(prediction) return prediction.assessment and entry.value(prediction.assessment) or nil end,
    } }
  end
end

add_classification()
add_texts()
add_likelihoods()
add_claims()

-- ---- looking up ----------------------------------------------------------------------------

--- Names of all metrics, sorted. Beside them "f1:LABEL", "precision:LABEL" and "recall:LABEL" are
--- those of one class.
---@return string[]
function metrics.names()
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function class_named(summary, label)
  for _, class in ipairs(summary.classes) do
    if class.label == label then return class end
  end
end

-- "f1:SUPPORT" and its like.
local function of_one_class(name)
  local measure, label = name:match "^(%w+):(.+)$"
  if not measures[measure] then return nil end
  return {
    name = name, doc = ("%s of the class %s"):format(measures[measure], label), family = classification.family,
    value = function(summary)
      local class = class_named(summary, label)
      if not class then error(("no label is %q"):format(label), 0) end
      return class[measure]
    end,
  }
end

--- The metric of a name; raises on an unknown one, with the nearest.
---@param name string
---@return crucible.metrics.Metric
function metrics.find(name)
  local metric = known[name] or type(name) == "string" and of_one_class(name)
  if not metric then
    errors.raise('unknown metric "%s"%s', tostring(name), suggest.phrase(tostring(name), metrics.names()))
  end
  return metric
end

--- Raises when a name is no metric.
---@param names string[]
function metrics.check_names(names)
  for _, name in ipairs(names) do metrics.find(name) end
end

--- Whether `value` of a metric is better than `other`. A value that is nil or NaN is never better,
--- any number is better than it.
---@param name string
---@param value number?
---@param other number?
---@return boolean
function metrics.better(name, value, other)
  local metric = metrics.find(name)
  if value == nil or value ~= value then return false end
  if other == nil or other ~= other then return true end
  if metric.lower then return value < other end
  return value > other
end

--- Which way a metric is better; nil for a name that is no metric.
---@param name string
---@return "min"|"max"|nil
function metrics.direction(name)
  local metric = known[name] or of_one_class(name)
  if metric then return metric.lower and "min" or "max" end
end

-- ---- registering ---------------------------------------------------------------------------

local metric_options = schema.new("register_metric", {
  { name = "observe", check = schema.callable,
    doc = "(prediction, context) → what reduce needs of a row; nil: leave it out" },
  { name = "reduce", required = true, check = schema.callable, doc = "(list of observations) → number" },
  { name = "doc", default = "", check = schema.string, doc = "one line" },
  { name = "lower", default = false, check = schema.boolean, doc = "the lower the better" },
})

--- Registers a metric: a function of a list of predictions that returns a number, or a table with
--- reduce, observe, doc, lower. Predictions have input, expected, predicted, correct, metadata and
--- what their mode adds (text, scores). Raises when the name is taken or not letters, digits, '_'.
---@param name string
---@param given function|table
function metrics.register(name, given)
  if type(name) ~= "string" or not name:find "^[%w_]+$" then
    errors.raise("register_metric: a name is letters, digits and '_', got %s", schema.show(name))
  end
  if known[name] then errors.raise('register_metric: "%s" is registered already, expected another name', name) end
  if schema.callable.read(given) then given = { reduce = given } end
  local spec = metric_options:resolve(given)
  add {
    name = name, doc = spec.doc, lower = spec.lower, value = identity,
    registered = true, family = { name = name, observe = spec.observe or identity, summarise = spec.reduce },
  }
end

--- Takes a registered metric back. Raises on a name that register was not given.
---@param name string
function metrics.unregister(name)
  if not metrics.find(name).registered then errors.raise('unregister_metric: "%s" is the library\'s own', name) end
  known[name] = nil
end

--- One line a metric: name and what it is.
---@return string
function metrics.help()
  local lines = {}
  for _, name in ipairs(metrics.names()) do lines[#lines + 1] = ("  %-20s %s\n"):format(name, known[name].doc) end
  return table.concat(lines)
end

return metrics
