-- Evaluation: what a session answers to the prompts of a data set, and how that compares with the
-- outputs. Two modes: "generate" lets the model write and takes the first line; "likelihood" asks
-- which of the labels the model finds likeliest; "both" does both in one run of the prompts.
--
-- Outputs are labels (the data set's, those given, or a few that occur again and again), texts of claims
-- and relations, or free texts; precision, recall and F1 are measured of labels, which are the verdicts
-- where outputs are claims and relations.
local answers = require "crucible.lora.evaluation_answers"
local classification = require "crucible.metrics.classification"
local dataset_integration = require "crucible.lora.dataset_integration"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local json = require "crucible.json"
local label_reading = require "crucible.metrics.labels"
local measure = require "crucible.metrics.measure"
local metrics = require "crucible.metrics"
local evaluation_claims = require "crucible.lora.evaluation_claims"
local evaluation_table = require "crucible.lora.evaluation_table"
local schema = require "crucible.schema"

local evaluation = {}

local MOST_CLASSES = 100 -- more different outputs than this are free texts

local entries = {
  { name = "checkpoint", check = schema.nonempty_string,
    doc = 'name, "best" or path; default: the session as it is' },
  { name = "base", default = false, check = schema.boolean,
    doc = "leave the lora out: the base model, for comparison" },
  { name = "mode", default = "generate", check = schema.one_of { "generate", "likelihood", "both" },
    doc = "how answers come about" },
  { name = "metrics", check = schema.list(schema.string),
    doc = "names; default: accuracy, f1, precision, recall of labels, exact_match and token_f1 of texts" },
  { name = "labels", check = schema.either(schema.list(schema.nonempty_string, { nonempty = true }),
    dataset_integration.row_options.by_name.labels.check),
    doc = "what outputs can be (default: the data set's, else those that occur); or which rows of scifact" },
  { name = "aliases", check = schema.table, doc = "other words for labels: { Supported = \"SUPPORT\" }" },
  { name = "normalise", default = "label",
    check = schema.either(schema.one_of { "label", "exact" }, schema.callable),
    doc = '"label": regardless of case and punctuation at the ends; "exact"; or (text) → text' },
  { name = "truncation", default = "left", check = schema.one_of { "left", "drop", "refuse" },
    doc = "of prompts that do not fit: cut from the left, leave the row out, or fail" },
  { name = "resamples", default = 1000, check = schema.integer { min = 0 },
    doc = "draws of rows behind the intervals; 0 = none" },
  { name = "confidence", default = 0.95, check = schema.number { above = 0, below = 1 }, doc = "of the intervals" },
  { name = "on_metric_error", default = "stop", check = schema.one_of { "stop", "continue" },
    doc = "what a metric that raises does" },
  { name = "adapter_name", check = schema.nonempty_string, doc = "in the result; default: the session's" },
  { name = "predictions", check = schema.nonempty_string, doc = "JSONL file to write the predictions to" },
  { name = "progress", check = schema.callable, doc = "(done, total) as rows are answered" },
}

-- Entries of other schemas ride along, without their defaults; names that evaluation has itself
-- (base) stay its own.
local function take_along(more)
  local names = {}
  for _, entry in ipairs(entries) do names[entry.name] = true end
  for _, entry in ipairs(more) do
    if not names[entry.name] then
      entries[#entries + 1] = { name = entry.name, check = entry.check, doc = entry.doc }
    end
  end
end
table.move(evaluation_claims.entries, 1, #evaluation_claims.entries, #entries + 1, entries)
take_along(dataset_integration.row_options.entries)
take_along(experiment.sampling_options.entries)

local evaluation_options = schema.new("evaluation.evaluate", entries)

--- The options of evaluate, for programs that offer them as their own.
evaluation.options = evaluation_options

-- ---- rows ----------------------------------------------------------------------------------

-- The split that is read: "test" by default, or what the data set has instead.
local function choose_split(dataset, asked)
  local known = dataset_integration.find(dataset)
  local split = asked or "test"
  return known and known.fallback and known.fallback[split] or split
end

-- The labels that were given; nil when the option says which rows of scifact.
local function listed_labels(options) return type(options.labels) == "table" and options.labels or nil end

local function outputs_of(rows)
  local outputs = {}
  for i, row in ipairs(rows) do outputs[i] = row.output end
  return outputs
end

-- Rows without an expected output cannot be compared with anything.
local function check_outputs(rows, source)
  local count, first = 0, nil
  for i, row in ipairs(rows) do
    if not row.output:find "%S" then count, first = count + 1, first or i end
  end
  if count == 0 then return true end
  return errors.failure("data", "%s: %d of %d rows have no expected output (the first is row %d): evaluate a labelled "
    .. "split, or leave them out with filter", source, count, #rows, first)
end

local function load_rows(dataset, options)
  local row_options = dataset_integration.row_options:pick(options)
  row_options.split = choose_split(dataset, options.split)
  if listed_labels(options) then row_options.labels = nil end
  local rows, info, code = dataset_integration.prepare_dataset(dataset, row_options)
  if not rows then return nil, info, code end
  if #rows == 0 then return errors.failure("data", "%s: no rows to evaluate", info.source) end
  local ok, message
  ok, message, code = check_outputs(rows, info.source)
  if not ok then return nil, message, code end
  return rows, info
end

-- ---- what outputs are ----------------------------------------------------------------------

-- A function of the user's, which must give texts.
local function guarded(normalise)
  return function(value)
    local ok, normal = xpcall(normalise, errors.traceback, value)
    if ok and type(normal) == "string" then return normal end
    errors.raise("evaluation.evaluate: normalise failed on %s: %s", schema.show(value),
      ok and "it returned " .. schema.show(normal) .. ", expected a string" or normal)
  end
end

local function reader_of(options, labels, aliases)
  if options.normalise == "exact" or #labels == 0 and options.normalise == "label" then
    return function(value) return value end
  end
  if options.normalise ~= "label" then return guarded(options.normalise) end
  local label_of = label_reading.reader(labels, aliases)
  return function(value) return label_of(value) or value end
end

-- What metrics need to know of the outputs: labels, their numbers, how a text is read as one.
local function context_of(rows, info, options)
  if evaluation_claims.are_claims(rows) then return evaluation_claims.context(rows) end
  local labels = listed_labels(options) or info.labels
  local occurring = labels or classification.labels_in(outputs_of(rows))
  local free = #occurring > MOST_CLASSES and not labels
  return {
    labels = free and {} or occurring, numbering = classification.numbering(free and {} or occurring),
    aliases = options.aliases, short_answers = labels ~= nil, free_texts = free and #occurring or nil,
    read = reader_of(options, free and {} or occurring, options.aliases),
  }
end

local of_labels = { "accuracy", "f1", "precision", "recall" }
local of_texts = { "exact_match", "token_f1" }

local function metrics_of(options, context)
  return options.metrics or context.metrics or (context.free_texts and of_texts or of_labels)
end

-- What a metric would need and does not get here, in words; nil when it can be measured.
local function missing_for(metric, options, context)
  local classes = metric.family == classification.family and metric.name ~= "accuracy"
  if classes and context.free_texts then
    return ("labels, but the outputs are %d different texts; name others (exact_match, token_f1, gsm8k …), or give "
      .. "labels"):format(context.free_texts)
  end
  if metric.needs == "label scores" and options.mode == "generate" then
    return 'scores of labels: use mode = "likelihood" or "both"'
  end
  if metric.needs == "claims" and not context.claims then
    return 'outputs of claims and relations, as of the data set "scifact_cns"'
  end
end

-- Everything that can be refused before the model runs.
local function check_request(names, options, context)
  for _, name in ipairs(names) do
    local metric = metrics.find(name)
    local missing = missing_for(metric, options, context)
    if missing then return errors.failure("data", 'metric "%s" needs %s', name, missing) end
    local label = name:match "^%w+:(.+)$"
    if label and not context.numbering.index[label] then
      return errors.failure("data", 'metric "%s": no label is "%s"; the labels are: %s', name, label,
        table.concat(context.labels, ", "))
    end
  end
  if options.mode ~= "generate" and context.claims then
    return errors.failure("data", 'mode "%s" chooses among labels, but the outputs are claims and relations: use '
      .. 'mode = "generate"', options.mode)
  end
  if options.mode ~= "generate" and #context.labels == 0 then
    return errors.failure("data", 'mode "%s" chooses among labels, but the outputs are %d different texts: give '
      .. 'labels, or use mode = "generate"', options.mode, context.free_texts)
  end
  return true
end

-- ---- result --------------------------------------------------------------------------------

local function predictions_of(rows, given, context)
  local predictions = {}
  for i, row in ipairs(rows) do
    local answer, expected = given[i], context.read(row.output)
    local predicted = context.read(answer.predicted)
    predictions[i] = {
      input = row.input, expected = expected, predicted = predicted, text = answer.text, scores = answer.scores,
      finish = answer.finish, correct = expected == predicted, metadata = row.metadata,
    }
  end
  if context.claims then evaluation_claims.add_verdicts(predictions) end
  return predictions
end

local function write_predictions(path, predictions)
  local lines = {}
  for i, prediction in ipairs(predictions) do lines[i] = json.encode(prediction) .. "\n" end
  return fs.write_file(path, table.concat(lines))
end

local function raise_failures(failures, names)
  for _, name in ipairs(names) do
    if failures[name] then errors.raise('evaluation.evaluate: metric "%s" failed %s', name, failures[name]) end
  end
end

local function count_correct(predictions)
  local count = 0
  for _, prediction in ipairs(predictions) do count = count + (prediction.correct and 1 or 0) end
  return count
end

-- What comes of predictions.
local function assess(predictions, names, options, context)
  local measured = measure.values(predictions, names, context)
  if options.on_metric_error == "stop" then raise_failures(measured.failures, names) end
  local result = {
    metrics = measured.values, failed_metrics = measured.failures, predictions = predictions,
    intervals = measure.intervals(measured, names, context, {
      resamples = options.resamples, confidence = options.confidence, seed = options.seed or 0,
    }),
    confidence = options.confidence, correct = count_correct(predictions), labels = context.labels,
  }
  if #context.labels > 0 then
    local compared = classification.of_predictions(predictions, context)
    result.classes, result.confusion = compared.classes, compared.confusion
  end
  return result
end

-- The metrics that can be measured of answers without scores.
local function without_scores(names)
  local kept = {}
  for _, name in ipairs(names) do
    if metrics.find(name).needs ~= "label scores" then kept[#kept + 1] = name end
  end
  return kept
end

local function needs_likelihood(names)
  for _, name in ipairs(names) do
    if metrics.find(name).needs == "likelihood" then return true end
  end
  return false
end

-- The likelier labels that came along with generated answers.
local function assess_likelihood(prompts, names, options, context)
  local likelier = answers.by_scores(prompts.answers, context.labels)
  return assess(predictions_of(prompts.rows, likelier, context), names, options, context)
end

-- Predictions with all that the metrics need, written where asked.
local function predict(session, prompts, names, options, context)
  local predictions = predictions_of(prompts.rows, prompts.answers, context)
  local ok, message, code = true, nil, nil
  if needs_likelihood(names) then
    ok, message, code = answers.add_likelihoods(session, prompts.rows, predictions, options)
  end
  if ok and context.claims then ok, message, code = evaluation_claims.assess(predictions, options, context) end
  if ok and options.predictions then ok, message, code = write_predictions(options.predictions, predictions) end
  if not ok then return nil, message, code end
  return predictions
end

-- What a result prints as.
local Result = { __name = "crucible.evaluation" }

function Result.__tostring(result)
  local split = result.split and " " .. result.split or ""
  local name = ("%s%s, %d rows"):format(result.dataset or result.source or "rows", split, result.samples)
  return (evaluation_table.of_results({ { name = name, result = result } }):gsub("\n$", ""))
end

local function describe(result, session, options, info, prompts)
  local told = {
    experiment_id = session.experiment_id, adapter_name = options.adapter_name or session.adapter_name,
    samples = #prompts.rows, evaluated_at = experiment.now(), mode = options.mode, base = options.base,
    dataset = info.name, split = info.split, split_asked = options.split or "test", source = info.source,
    checkpoint = options.checkpoint, truncated = prompts.truncated, dropped = prompts.dropped,
    truncation = options.truncation, predictions_path = options.predictions,
  }
  for key, value in pairs(told) do result[key] = value end
  return setmetatable(result, Result)
end

-- What scores claims and relations, opened before the model runs; false where there is nothing to close.
local function prepare_scorers(session, options, context)
  if not context.claims then return false end
  return evaluation_claims.prepare(session, options, context)
end

local function evaluate_session(session, dataset, options)
  local rows, info, code = load_rows(dataset, options)
  if not rows then return nil, info, code end
  local context = context_of(rows, info, options)
  local names = metrics_of(options, context)
  local prompts, ok, message
  ok, message, code = check_request(names, options, context)
  if not ok then return nil, message, code end
  local opened <close>, problem, kind = prepare_scorers(session, options, context)
  if opened == nil then return nil, problem, kind end
  prompts, message, code = answers.all(session, rows, options, context)
  if not prompts then return nil, message, code end
  local predictions
  predictions, message, code = predict(session, prompts, names, options, context)
  if not predictions then return nil, message, code end
  local both = options.mode == "both"
  local result = assess(predictions, both and without_scores(names) or names, options, context)
  if both then result.likelihood = assess_likelihood(prompts, names, options, context) end
  if context.claims then
    ok, message, code = evaluation_claims.report(result, names, options, context)
    if not ok then return nil, message, code end
  end
  return describe(result, session, options, info, prompts)
end

---@class crucible.lora.EvaluationResult
---@field experiment_id string
---@field adapter_name string
---@field metrics table<string, number>
---@field intervals table<string, crucible.metrics.Interval>  low and high by metric
---@field failed_metrics table<string, string>  with on_metric_error = "continue": why
---@field samples integer
---@field correct integer      rows whose prediction is what was expected
---@field evaluated_at string  UTC
---@field mode "generate"|"likelihood"|"both"
---@field likelihood table?    mode "both": metrics, correct, classes, confusion, predictions by likelihood; the
--- fields above are by generation
---@field base boolean         the lora was left out
---@field split string?        read
---@field split_asked string   asked for; a data set may have another in its place
---@field truncated integer    prompts cut from the left to fit
---@field dropped integer      rows left out because their prompt did not fit
---@field labels string[]      empty where outputs are free texts
---@field classes table[]?     precision, recall, f1, support of each label
---@field confusion table?     labels, counts[expected][predicted], other
---@field predictions table[]  input, expected, predicted, correct, metadata; text or scores
---@field predictions_path string?
---@field scorers table?       of claims and relations: entailment and similarity, name and what else is known of them
---@field ceiling table?       of claims and relations: metrics of the expected outputs themselves
---@field issues table[]?      of claims and relations: row, issue, severity, detail

--- The options of evaluate with defaults; raises on unknown ones and on unknown metrics.
---@param options table?
---@return table
function evaluation.check(options)
  local given = evaluation_options:resolve(options)
  metrics.check_names(given.metrics or {})
  return given
end

--- Answers every row and compares. `split` is "test" unless given; a data set whose test split has
--- no labels says which it takes instead. With `checkpoint`, its weights are loaded beside the
--- session, which stays as it is; one of another base model is refused. Sampling options are those of
--- lora.sampling_params with temperature 0 unless given; where labels are known, max_tokens is the
--- longest label and its end. Unknown metrics are refused before any work, those that the outputs or
--- the mode cannot give before the model runs. Intervals are bootstraps over rows, the same for the
--- same seed. Predictions are written before metrics are measured. Fails with "data" on an empty split
--- and on rows without an expected output.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table?
---@return crucible.lora.EvaluationResult? result, string? message, string? code
function evaluation.evaluate(session, dataset, options)
  local given = evaluation.check(options)
  if not given.checkpoint then return evaluate_session(session, dataset, given) end
  if given.base then errors.raise("evaluation.evaluate: base leaves the lora out, so checkpoint has no meaning") end
  local other, message, code = session:open_checkpoint(given.checkpoint)
  if not other then return nil, message, code end
  local guard <close> = other
  return evaluate_session(guard, dataset, given)
end

-- ---- without a model -----------------------------------------------------------------------

local function most_frequent(values)
  local counts, best = {}, nil
  for _, value in ipairs(values) do counts[value] = (counts[value] or 0) + 1 end
  for _, value in ipairs(classification.labels_in(values)) do
    if not best or counts[value] > counts[best] then best = value end
  end
  return best
end

-- The metrics that a label alone can have.
local function of_a_label(names, context)
  local kept = {}
  for _, name in ipairs(without_scores(names)) do
    local metric = metrics.find(name)
    if not metric.needs and (not context.claims or metric.family == classification.family) then
      kept[#kept + 1] = name
    end
  end
  return kept
end

-- Predictions that all give the most frequent output, or, of claims and relations, verdict.
local function majority_predictions(rows, context)
  local constant, label = {}, most_frequent(outputs_of(rows))
  for i = 1, #rows do constant[i] = { predicted = context.claims and "" or label } end
  local predictions = predictions_of(rows, constant, context)
  if not context.claims then return predictions, context.read(label) end
  return predictions, evaluation_claims.give_verdict(predictions, most_frequent)
end

--- The result of always giving the most frequent output of the rows themselves: what any model has to
--- beat. Options are evaluate's; `label` of the result is that output, of claims and relations the
--- verdict.
---@param dataset string|table[]
---@param options table?
---@return crucible.lora.EvaluationResult? result, string? message, string? code
function evaluation.majority(dataset, options)
  local given = evaluation.check(options)
  local rows, info, code = load_rows(dataset, given)
  if not rows then return nil, info, code end
  local context = context_of(rows, info, given)
  local predictions, label = majority_predictions(rows, context)
  local result = assess(predictions, of_a_label(metrics_of(given, context), context), given, context)
  result.label, result.samples, result.dataset, result.split = label, #rows, info.name, info.split
  return result
end

--- Accuracy and macro-F1 of always answering the most frequent output of a data set.
---@param rows crucible.lora.Row[]
---@param labels string[]?
---@return { label: string, accuracy: number, f1: number }
function evaluation.majority_class(rows, labels)
  local predicted, best = {}, most_frequent(outputs_of(rows))
  for i = 1, #rows do predicted[i] = best end
  local compared = classification.compare(outputs_of(rows), predicted, labels)
  return { label = best, accuracy = compared.accuracy, f1 = compared.macro.f1 }
end

-- ---- two results ---------------------------------------------------------------------------

local compare_options = schema.new("evaluation.compare", {
  { name = "metrics", check = schema.list(schema.string), doc = "names; default: those that both results have" },
  { name = "resamples", default = 2000, check = schema.integer { min = 1 }, doc = "draws behind interval and test" },
  { name = "confidence", default = 0.95, check = schema.number { above = 0, below = 1 }, doc = "of the interval" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of the draws" },
})

local function check_same_rows(a, b)
  if #a.predictions ~= #b.predictions then
    errors.raise("evaluation.compare: the results have %d and %d rows; a paired test needs the same rows",
      #a.predictions, #b.predictions)
  end
  for i, prediction in ipairs(a.predictions) do
    local other = b.predictions[i]
    if prediction.input ~= other.input or prediction.expected ~= other.expected then
      errors.raise("evaluation.compare: row %d is not the same in both results; a paired test needs the same rows in "
        .. "the same order", i)
    end
  end
end

local function shared_metrics(a, b)
  local names = {}
  for name in pairs(a.metrics) do
    if b.metrics[name] then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- How result b differs from result a on the same rows, metric by metric: difference (b − a) with a
--- bootstrap interval, and p, the probability of a difference this large if the two were alike
--- (approximate randomisation, two-sided). Deterministic for a seed. Raises when the rows differ.
---@param a crucible.lora.EvaluationResult
---@param b crucible.lora.EvaluationResult
---@param options { metrics: string[]?, resamples: integer?, confidence: number?, seed: integer? }?
---@return table<string, crucible.metrics.Difference>
function evaluation.compare(a, b, options)
  local given = compare_options:resolve(options)
  check_same_rows(a, b)
  local names = given.metrics or shared_metrics(a, b)
  metrics.check_names(names)
  local context = { labels = a.labels, numbering = classification.numbering(a.labels) }
  local left, right = measure.values(a.predictions, names, context), measure.values(b.predictions, names, context)
  local differences = {}
  for _, name in ipairs(names) do differences[name] = measure.compare(name, left, right, context, given) end
  return differences
end

--- Results beside each other, as text: metrics with their intervals.
evaluation.table = evaluation_table.of_results

--- What compare found, as text.
evaluation.difference_table = evaluation_table.of_differences

-- ---- metrics -------------------------------------------------------------------------------

--- Adds a metric of one's own: see crucible.metrics.register.
evaluation.register_metric = metrics.register

--- Takes one back.
evaluation.unregister_metric = metrics.unregister

--- Names of all metrics, sorted.
evaluation.metrics = metrics.names

--- Whether a value of a metric is better than another: (name, value, other) → boolean.
evaluation.better = metrics.better

--- The options of evaluate and the metrics, as text.
---@return string
function evaluation.help() return evaluation_options:help() .. "metrics\n" .. metrics.help() end

return evaluation
