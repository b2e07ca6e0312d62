-- Evaluation of outputs that are claims and relations: verdicts for the metrics of labels, the stages of
-- metrics/claims.lua with their scorers, the expected outputs as a ceiling, and the report of issues.
local claim_issues = require "crucible.metrics.claim_issues"
local claims = require "crucible.metrics.claims"
local classification = require "crucible.metrics.classification"
local errors = require "crucible.errors"
local judge = require "crucible.lora.judge"
local measure = require "crucible.metrics.measure"
local metrics = require "crucible.metrics"
local parser = require "crucible.domain.parser"
local schema = require "crucible.schema"
local scorers = require "crucible.metrics.scorers"

local evaluation_claims = {}

--- Options of evaluate that only outputs of claims and relations need.
evaluation_claims.entries = {
  { name = "entailment", check = scorers.check "entailment",
    doc = 'scorer: "overlap", "lm" or "encoder"; default: by what is given, else "overlap"' },
  { name = "similarity", check = scorers.check "similarity",
    doc = 'scorer: "overlap", "encoder" or "hidden"; default: "overlap"' },
  { name = "entailment_encoder", check = schema.nonempty_string,
    doc = "folder of a cross-encoder for natural language inference" },
  { name = "similarity_encoder", check = schema.nonempty_string,
    doc = "name or folder of an encoder of sentences; default: all-minilm-l6-v2" },
  { name = "judge", check = schema.nonempty_string,
    doc = "run folder or checkpoint of a judge of entailment (examples/train_judge.lua)" },
  { name = "ceiling", default = true, check = schema.boolean, doc = "score the expected outputs too" },
  { name = "issues", check = schema.nonempty_string,
    doc = "JSONL file for the issues found; a Markdown table is written beside it" },
}

-- ---- what the rows are ---------------------------------------------------------------------

local function has_root(text)
  for _, claim in ipairs(parser.parse(text).claims) do
    if claim.id == "c1" then return true end
  end
  return false
end

--- Whether all outputs are claims and relations.
---@param rows crucible.lora.Row[]
---@return boolean
function evaluation_claims.are_claims(rows)
  for _, row in ipairs(rows) do
    if not has_root(row.output) then return false end
  end
  return true
end

local default_metrics = {
  "accuracy", "f1", "precision", "recall", "schema_compliance", "citation_accuracy", "mean_entailment",
  "overall_pass_rate",
}

local function verdict_of(text) return claims.verdict(parser.parse(text)) end

--- What metrics need to know of such outputs; the labels are the verdicts that occur.
---@param rows crucible.lora.Row[]
---@return table
function evaluation_claims.context(rows)
  local verdicts = {}
  for _, row in ipairs(rows) do verdicts[#verdicts + 1] = verdict_of(row.output) end
  local labels = classification.labels_in(verdicts)
  return {
    claims = true, labels = labels, numbering = classification.numbering(labels), metrics = default_metrics,
    read = function(value) return value end,
  }
end

-- ---- verdicts ------------------------------------------------------------------------------

local NONE = "no verdict" -- is no label, so that it never counts as right

--- Gives each prediction expected_label and predicted_label; a text without a verdict is wrong.
---@param predictions table[]  changed
function evaluation_claims.add_verdicts(predictions)
  for _, prediction in ipairs(predictions) do
    prediction.expected_label = verdict_of(prediction.expected) or NONE
    prediction.predicted_label = verdict_of(prediction.predicted) or ""
    prediction.correct = prediction.expected_label == prediction.predicted_label
  end
end

--- Gives all predictions the verdict that `choose` takes from those expected; returns it.
---@param predictions table[]  changed
---@param choose fun(labels: string[]): string
---@return string
function evaluation_claims.give_verdict(predictions, choose)
  local expected = {}
  for i, prediction in ipairs(predictions) do expected[i] = prediction.expected_label end
  local label = choose(expected)
  for _, prediction in ipairs(predictions) do
    prediction.predicted_label, prediction.correct = label, prediction.expected_label == label
  end
  return label
end

-- ---- assessment ----------------------------------------------------------------------------

-- Raises where an option belongs to a scorer that is not the one asked for.
local function check_fits(kind, chosen, option, scorer, options)
  if not options[option] or chosen == scorer then return end
  errors.raise('evaluation.evaluate: %s is for %s = "%s", which is %s', option, kind, scorer, schema.show(chosen))
end

-- Which scorers options mean.
local function chosen_scorers(options)
  local entailment = options.entailment or options.judge and "lm" or options.entailment_encoder and "encoder"
    or "overlap"
  local similarity = options.similarity or options.similarity_encoder and "encoder" or "overlap"
  check_fits("entailment", entailment, "judge", "lm", options)
  check_fits("entailment", entailment, "entailment_encoder", "encoder", options)
  check_fits("similarity", similarity, "similarity_encoder", "encoder", options)
  return entailment, similarity
end

-- Scorers, and everything they hold open.
local Opened = {}
Opened.__index = Opened

function Opened:__close()
  if self.judge then self.judge.session:close() end
  for _, scorer in pairs(self.scorers) do
    if scorer.close then scorer.close() end
  end
end

local function fill(opened, session, options, entailment, similarity)
  local message, code
  if options.judge then
    opened.judge, message, code = judge.open(session, options.judge)
    if not opened.judge then return nil, message, code end
  end
  local needs = { judge = opened.judge, entailment_encoder = options.entailment_encoder,
    similarity_encoder = options.similarity_encoder }
  opened.scorers.entailment, message, code = scorers.make("entailment", entailment, session, needs)
  if not opened.scorers.entailment then return nil, message, code end
  opened.scorers.similarity, message, code = scorers.make("similarity", similarity, session, needs)
  if not opened.scorers.similarity then return nil, message, code end
  return true
end

-- The expected outputs as if they were predictions.
local function ceiling_of(predictions)
  local list = {}
  for i, prediction in ipairs(predictions) do
    list[i] = { input = prediction.input, expected = prediction.expected, predicted = prediction.expected,
      metadata = prediction.metadata }
  end
  return list
end

local function begin_all(list, assessments)
  for _, prediction in ipairs(list) do
    prediction.assessment = claims.begin(prediction.predicted, claims.expectation(prediction))
    assessments[#assessments + 1] = prediction.assessment
  end
end

--- Opens what scores entailment and similarity, before the model runs, and gives the context its scorers.
---@param session crucible.Session
---@param options table
---@param context table  changed
---@return table? opened, string? message, string? code  to be closed when the evaluation ends
function evaluation_claims.prepare(session, options, context)
  local entailment, similarity = chosen_scorers(options)
  local opened = setmetatable({ scorers = {} }, Opened)
  local ok, message, code = fill(opened, session, options, entailment, similarity)
  context.scorers = opened.scorers
  if ok then return opened end
  opened:__close()
  return nil, message, code
end

--- Gives each prediction its assessment, and the context the ceiling's predictions.
---@param predictions table[]  changed
---@param options table
---@param context table        changed
---@return true? ok, string? message, string? code
function evaluation_claims.assess(predictions, options, context)
  local assessments = {}
  begin_all(predictions, assessments)
  if options.ceiling then
    context.ceiling = ceiling_of(predictions)
    begin_all(context.ceiling, assessments)
  end
  return claims.complete(assessments, context.scorers)
end

-- ---- report --------------------------------------------------------------------------------

local function of_claims(names)
  local kept = {}
  for _, name in ipairs(names) do
    if metrics.find(name).needs == "claims" then kept[#kept + 1] = name end
  end
  return kept
end

local function about(scorer) return { name = scorer.name, about = scorer.about } end

--- Adds scorers, ceiling and issues to a result, and writes the issues where asked.
---@param result table  changed
---@param names string[]
---@param options table
---@param context table
---@return true? ok, string? message, string? code
function evaluation_claims.report(result, names, options, context)
  result.scorers = {
    entailment = about(context.scorers.entailment), similarity = about(context.scorers.similarity),
  }
  if context.ceiling then
    result.ceiling = { metrics = measure.values(context.ceiling, of_claims(names), context).values }
  end
  result.issues = claim_issues.list(result.predictions)
  if not options.issues then return true end
  return claim_issues.write(options.issues, result.issues, #result.predictions)
end

return evaluation_claims
