-- Evaluation: what a session answers to the prompts of a data set, and how that compares with the
-- outputs. Two modes: "generate" lets the model write and takes the first line; "likelihood" asks
-- which of the labels the model finds likeliest; "both" does both in one run of the prompts.
local classification = require "crucible.metrics.classification"
local dataset_integration = require "crucible.lora.dataset_integration"
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local json = require "crucible.json"
local schema = require "crucible.schema"

local evaluation = {}

local entries = {
  { name = "checkpoint", check = schema.nonempty_string, doc = "name or path; default: the session as it is" },
  { name = "base", default = false, check = schema.boolean,
    doc = "leave the lora out: the base model, for comparison" },
  { name = "mode", default = "generate", check = schema.one_of { "generate", "likelihood", "both" },
    doc = "how answers come about" },
  { name = "metrics", default = { "accuracy", "f1", "precision", "recall" }, check = schema.list(schema.string),
    doc = "names: " .. table.concat(classification.names(), ", ") },
  { name = "labels", check = schema.list(schema.nonempty_string, { nonempty = true }),
    doc = "what outputs can be; default: the data set's, else those that occur" },
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
take_along(dataset_integration.row_options.entries)
take_along(experiment.sampling_options.entries)

local evaluation_options = schema.new("evaluation.evaluate", entries)

-- ---- rows ----------------------------------------------------------------------------------

-- The split that is read: "test" by default, or what the data set has instead.
local function choose_split(dataset, asked)
  local known = dataset_integration.find(dataset)
  local split = asked or "test"
  return known and known.fallback and known.fallback[split] or split
end

local function load_rows(dataset, options)
  local row_options = dataset_integration.row_options:pick(options)
  row_options.split = choose_split(dataset, options.split)
  local rows, info, code = dataset_integration.prepare_dataset(dataset, row_options)
  if not rows then return nil, info, code end
  if #rows == 0 then return errors.failure("data", "%s: no rows to evaluate", info.source) end
  return rows, info
end

local function outputs_of(rows)
  local outputs = {}
  for i, row in ipairs(rows) do outputs[i] = row.output end
  return outputs
end

-- ---- prompts -------------------------------------------------------------------------------

-- Prompts as ids, cut from the left where they would not leave `room` tokens; how many were cut.
local function prompts_of(session, rows, room)
  local prompts, truncated = {}, 0
  local limit = math.min(session.config.max_length or session.context, session.context) - room
  for i, row in ipairs(rows) do
    local ids = session.tokenizer:prompt(row.input)
    if #ids > limit then
      if limit < 1 then
        return errors.failure("context_overflow", "answers of %d tokens leave no room for a prompt", room)
      end
      ids, truncated = datums.cut_left(session.tokenizer, ids, limit), truncated + 1
    end
    prompts[i] = ids
  end
  return prompts, truncated
end

-- Tokens of each label after each prompt, and the longest.
local function label_tokens(session, rows, labels)
  local all, longest = {}, 0
  for i, row in ipairs(rows) do
    all[i] = {}
    for c, label in ipairs(labels) do
      all[i][c] = session.tokenizer:answer(row.input, label)
      longest = math.max(longest, #all[i][c])
    end
  end
  return all, longest
end

-- ---- answers -------------------------------------------------------------------------------

-- The answer in a completion: its first line with anything on it, or all of it where answers have
-- several lines. The space that was added between prompt and answer is trimmed.
local function answer_in(text, expected)
  if not expected:find("\n", 1, true) then text = text:match("^%s*([^\r\n]*)") end
  return text:match("^%s*(.-)%s*$")
end

local function sampling_of(session, options, longest_label)
  local params = experiment.sampling_options:pick(options)
  params.temperature = params.temperature or 0
  -- A label and its end token; whatever is longer is no label. Without labels at most half the
  -- context, so that prompts have the other half.
  local most = experiment.sampling_params().max_tokens
  params.max_tokens = params.max_tokens or (longest_label and longest_label + 1) or math.min(most, session.context // 2)
  params.base = options.base
  return experiment.sampling_params(params)
end

-- With `scored`, the labels' scores come along (mode "both").
local function by_generation(session, rows, options, labels, scored)
  local choices, longest
  if labels then choices, longest = label_tokens(session, rows, labels) end
  local params = sampling_of(session, options, longest)
  local prompts, truncated, code = prompts_of(session, rows, params.max_tokens)
  if not prompts then return nil, truncated, code end
  local done = 0
  local completions, message
  completions, message, code = session:sample(prompts, params, options.progress and function(event)
    if event.finish then
      done = done + 1
      options.progress(done, #prompts)
    end
  end, scored and choices or nil)
  if not completions then return nil, message, code end
  local answers = {}
  for i, completion in ipairs(completions) do
    answers[i] = {
      predicted = answer_in(completion.text, rows[i].output), text = completion.text, scores = completion.scores,
    }
  end
  return answers, truncated
end

local SCORED_AT_ONCE = 16

local function likeliest(scores)
  local best = 1
  for c = 2, #scores do
    if scores[c] > scores[best] then best = c end
  end
  return best
end

local function by_likelihood(session, rows, options, labels)
  local choices, longest = label_tokens(session, rows, labels)
  local prompts, truncated, code = prompts_of(session, rows, longest)
  if not prompts then return nil, truncated, code end
  local answers = {}
  for first = 1, #rows, SCORED_AT_ONCE do
    local last = math.min(first + SCORED_AT_ONCE - 1, #rows)
    local some, theirs = table.move(prompts, first, last, 1, {}), table.move(choices, first, last, 1, {})
    local scores, message
    scores, message, code = session:score(some, theirs, { base = options.base })
    if not scores then return nil, message, code end
    for _, row in ipairs(scores) do
      answers[#answers + 1] = { predicted = labels[likeliest(row)], scores = row }
    end
    if options.progress then options.progress(last, #rows) end
  end
  return answers, truncated
end

-- ---- result --------------------------------------------------------------------------------

local function predictions_of(rows, answers)
  local predictions = {}
  for i, row in ipairs(rows) do
    local answer = answers[i]
    predictions[i] = {
      input = row.input, expected = row.output, predicted = answer.predicted, text = answer.text,
      scores = answer.scores, correct = row.output == answer.predicted, metadata = row.metadata,
    }
  end
  return predictions
end

local function write_predictions(path, predictions)
  local lines = {}
  for i, prediction in ipairs(predictions) do lines[i] = json.encode(prediction) .. "\n" end
  return fs.write_file(path, table.concat(lines))
end

local function measure(predictions, labels, names)
  local expected, predicted = {}, {}
  for i, prediction in ipairs(predictions) do expected[i], predicted[i] = prediction.expected, prediction.predicted end
  local compared = classification.compare(expected, predicted, labels)
  local metrics = {}
  for _, name in ipairs(names) do metrics[name] = classification.metrics[name](compared) end
  return metrics, compared
end

local function answer_all(session, rows, options, labels)
  if options.mode == "generate" then return by_generation(session, rows, options, labels) end
  labels = labels or classification.labels_in(outputs_of(rows))
  if options.mode == "likelihood" then return by_likelihood(session, rows, options, labels) end
  return by_generation(session, rows, options, labels, true)
end

-- The answers by likelihood that came along with those by generation.
local function likelier_answers(answers, labels)
  local likelier = {}
  for i, answer in ipairs(answers) do
    likelier[i] = { predicted = labels[likeliest(answer.scores)], scores = answer.scores }
  end
  return likelier
end

-- What comes of one answer a row.
local function assess(rows, answers, labels, names)
  local predictions = predictions_of(rows, answers)
  local metrics, compared = measure(predictions, labels, names)
  return {
    metrics = metrics, correct = compared.correct, classes = compared.classes, confusion = compared.confusion,
    predictions = predictions,
  }
end

local function assess_likelihood(rows, answers, labels, names)
  local known = labels or classification.labels_in(outputs_of(rows))
  return assess(rows, likelier_answers(answers, known), labels, names)
end

local function evaluate_session(session, dataset, options)
  local rows, info, code = load_rows(dataset, options)
  if not rows then return nil, info, code end
  local labels = options.labels or info.labels
  local answers, truncated
  answers, truncated, code = answer_all(session, rows, options, labels)
  if not answers then return nil, truncated, code end
  local likelihood = options.mode == "both" and assess_likelihood(rows, answers, labels, options.metrics) or nil
  local result = assess(rows, answers, labels, options.metrics)
  if options.predictions then
    local ok, message
    ok, message, code = write_predictions(options.predictions, result.predictions)
    if not ok then return nil, message, code end
  end
  local told = {
    experiment_id = session.experiment_id, adapter_name = options.adapter_name or session.adapter_name,
    samples = #rows, evaluated_at = experiment.now(), mode = options.mode, base = options.base, dataset = info.name,
    split = info.split, split_asked = options.split or "test", source = info.source, checkpoint = options.checkpoint,
    truncated = truncated, predictions_path = options.predictions, likelihood = likelihood,
  }
  for key, value in pairs(told) do result[key] = value end
  return result
end

---@class crucible.lora.EvaluationResult
---@field experiment_id string
---@field adapter_name string
---@field metrics table<string, number>
---@field samples integer
---@field evaluated_at string  UTC
---@field mode "generate"|"likelihood"|"both"
---@field likelihood table?    mode "both": metrics, correct, classes, confusion, predictions by likelihood; the
--- fields above are by generation
---@field base boolean         the lora was left out
---@field split string?        read
---@field split_asked string   asked for; a data set may have another in its place
---@field truncated integer    prompts cut from the left to fit
---@field classes table[]      precision, recall, f1, support of each label
---@field confusion table      labels, counts[expected][predicted], other
---@field predictions table[]  input, expected, predicted, correct, metadata; text or scores

--- The options of evaluate with defaults; raises on unknown ones and on unknown metrics.
---@param options table?
---@return table
function evaluation.check(options)
  local given = evaluation_options:resolve(options)
  classification.check_names(given.metrics)
  return given
end

--- Answers every row and compares. `split` is "test" unless given; a data set whose test split has
--- no labels says which it takes instead. With `checkpoint`, its weights are loaded beside the
--- session, which stays as it is. Sampling options are those of lora.sampling_params with
--- temperature 0 unless given; where labels are known, max_tokens is the longest label and its end.
--- Unknown metrics are refused before any work. Fails with "data" on an empty split.
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

--- Accuracy and macro-F1 of always answering the most frequent output of a data set.
---@param rows crucible.lora.Row[]
---@param labels string[]?
---@return { label: string, accuracy: number, f1: number }
function evaluation.majority_class(rows, labels)
  local counts, best = {}, nil
  for _, row in ipairs(rows) do counts[row.output] = (counts[row.output] or 0) + 1 end
  for _, label in ipairs(classification.labels_in(outputs_of(rows))) do
    if not best or counts[label] > counts[best] then best = label end
  end
  local predicted = {}
  for i = 1, #rows do predicted[i] = best end
  local compared = classification.compare(outputs_of(rows), predicted, labels)
  return { label = best, accuracy = compared.accuracy, f1 = compared.macro.f1 }
end

--- The options of evaluate, as text.
---@return string
function evaluation.help() return evaluation_options:help() end

return evaluation
