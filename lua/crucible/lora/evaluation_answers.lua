-- How answers come about: prompts cut to fit, greedy or sampled generation, the likeliest label, and
-- the likelihood of the expected outputs.
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local text = require "crucible.metrics.text"

local answers = {}

local ROWS_AT_ONCE = 64

-- ---- prompts -------------------------------------------------------------------------------

local function room_for_prompts(session, answer_tokens)
  return math.min(session.config.max_length or session.context, session.context) - answer_tokens
end

-- What becomes of a prompt that is too long, by policy: its ids, or nil to leave the row out; a third
-- value is a failure.
local too_long = {
  left = function(session, ids, limit) return datums.cut_left(session.tokenizer, ids, limit) end,
  drop = function() return nil end,
  refuse = function(_, ids, limit, row)
    return errors.failure("context_overflow", "row %d: its prompt has %d tokens and %d fit; cut it with truncation = "
      .. '"left", or leave it out with "drop"', row, #ids, limit)
  end,
}

---@class crucible.lora.EvaluationPrompts
---@field rows crucible.lora.Row[]  that are answered
---@field ids integer[][]           of their prompts
---@field truncated integer         prompts cut from the left
---@field dropped integer           rows left out

--- Prompts as ids where each leaves `answer_tokens`; those that do not are cut from the left, left out
--- or refused, by `policy`.
---@param session crucible.Session
---@param rows crucible.lora.Row[]
---@param answer_tokens integer
---@param policy "left"|"drop"|"refuse"
---@return crucible.lora.EvaluationPrompts? prompts, string? message, string? code
function answers.prompts(session, rows, answer_tokens, policy)
  local found = { rows = {}, ids = {}, truncated = 0, dropped = 0 }
  local limit = room_for_prompts(session, answer_tokens)
  if limit < 1 then
    return errors.failure("context_overflow", "answers of %d tokens leave no room for a prompt in a context of %d: "
      .. "lower max_tokens", answer_tokens, session.context)
  end
  for i, row in ipairs(rows) do
    local ids, message, code = datums.prompt(session.tokenizer, row)
    if not ids then return nil, message, code end
    local over = #ids > limit
    if over then ids, message, code = too_long[policy](session, ids, limit, i) end
    if code then return nil, message, code end
    if ids then
      found.rows[#found.rows + 1], found.ids[#found.ids + 1] = row, ids
      if over then found.truncated = found.truncated + 1 end
    else
      found.dropped = found.dropped + 1
    end
  end
  if #found.rows > 0 then return found end
  return errors.failure("data", "every prompt is longer than the %d tokens that fit: no rows to evaluate", limit)
end

-- ---- choices -------------------------------------------------------------------------------

--- Tokens of each label after each prompt, and the most of one.
---@param session crucible.Session
---@param rows crucible.lora.Row[]
---@param labels string[]
---@return integer[][][] choices, integer longest
function answers.label_tokens(session, rows, labels)
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

local function choices_after(session, rows, labels)
  local choices = answers.label_tokens(session, rows, labels)
  return choices
end

-- ---- generation ----------------------------------------------------------------------------

-- The answer in a completion: its first line with anything on it, or all of it where answers have
-- several lines. The space that was added between prompt and answer is trimmed.
local function answer_in(completion, expected, context)
  if context.claims or expected:find("\n", 1, true) then return text.trim(completion) end
  return text.trim(completion:match("^%s*([^\r\n]*)"))
end

-- A label, its end token, and what an alias is longer; whatever is longer still is no label. Without
-- labels at most half the context, so that prompts have the other half.
local function most_tokens(session, given, longest_label)
  if given then return given end
  if longest_label then return longest_label + 1 end
  return math.min(experiment.sampling_params().max_tokens, session.context // 2)
end

local function words_for_labels(context)
  local words = table.move(context.labels, 1, #context.labels, 1, {})
  for alias in pairs(context.aliases or {}) do words[#words + 1] = alias end
  return words
end

local function sampling_of(session, rows, options, context)
  local params, longest = experiment.sampling_options:pick(options), nil
  if context.short_answers then longest = select(2, answers.label_tokens(session, rows, words_for_labels(context))) end
  params.temperature = params.temperature or 0
  params.max_tokens = most_tokens(session, params.max_tokens, longest)
  params.base = options.base
  return experiment.sampling_params(params)
end

local function counting(progress, total)
  if not progress then return nil end
  local done = 0
  return function(event)
    if not event.finish then return end
    done = done + 1
    progress(done, total)
  end
end

-- With `scored`, the labels' scores come along (mode "both").
local function by_generation(session, rows, options, context, scored)
  local params = sampling_of(session, rows, options, context)
  local prompts, message, code = answers.prompts(session, rows, params.max_tokens, options.truncation)
  if not prompts then return nil, message, code end
  local choices = scored and choices_after(session, prompts.rows, context.labels) or nil
  local completions
  completions, message, code = session:sample(prompts.ids, params, counting(options.progress, #prompts.ids), choices)
  if not completions then return nil, message, code end
  prompts.answers = {}
  for i, completion in ipairs(completions) do
    prompts.answers[i] = {
      predicted = answer_in(completion.text, prompts.rows[i].output, context), text = completion.text,
      finish = completion.finish, scores = completion.scores,
    }
  end
  return prompts
end

-- ---- likelihood ----------------------------------------------------------------------------

--- The first of the highest scores.
---@param scores number[]
---@return integer
function answers.likeliest(scores)
  local best = 1
  for c = 2, #scores do
    if scores[c] > scores[best] then best = c end
  end
  return best
end

--- The label of the highest score for each of some answers that carry scores.
---@param list table[]
---@param labels string[]
---@return table[]
function answers.by_scores(list, labels)
  local likelier = {}
  for i, answer in ipairs(list) do
    likelier[i] = { predicted = labels[answers.likeliest(answer.scores)], scores = answer.scores }
  end
  return likelier
end

-- f(first, last) over pieces of 1..count until it fails.
local function in_pieces(count, f)
  for first = 1, count, ROWS_AT_ONCE do
    local ok, message, code = f(first, math.min(first + ROWS_AT_ONCE - 1, count))
    if not ok then return nil, message, code end
  end
  return true
end

local function by_likelihood(session, rows, options, context)
  local _, longest = answers.label_tokens(session, rows, context.labels)
  local prompts, message, code = answers.prompts(session, rows, longest, options.truncation)
  if not prompts then return nil, message, code end
  local choices, scored = choices_after(session, prompts.rows, context.labels), {}
  local ok
  ok, message, code = in_pieces(#prompts.ids, function(first, last)
    local some = table.move(prompts.ids, first, last, 1, {})
    local scores, why, kind = session:score(some, table.move(choices, first, last, 1, {}), { base = options.base })
    if not scores then return nil, why, kind end
    for i, row in ipairs(scores) do scored[first + i - 1] = { scores = row } end
    if options.progress then options.progress(last, #prompts.ids) end
    return true
  end)
  if not ok then return nil, message, code end
  prompts.answers = answers.by_scores(scored, context.labels)
  return prompts
end

--- An answer for each row, by options.mode: prompts with `answers`, { predicted, text, scores } each.
---@param session crucible.Session
---@param rows crucible.lora.Row[]
---@param options table  of evaluation.evaluate
---@param context table  labels, aliases, short_answers
---@return table? prompts, string? message, string? code
function answers.all(session, rows, options, context)
  if options.mode == "likelihood" then return by_likelihood(session, rows, options, context) end
  return by_generation(session, rows, options, context, options.mode == "both")
end

-- ---- expected outputs ----------------------------------------------------------------------

local function nll_of(logprobs, weights)
  local nll, tokens = 0, 0
  for i, weight in ipairs(weights) do
    if weight ~= 0 then nll, tokens = nll - logprobs[i], tokens + 1 end
  end
  return nll, tokens
end

--- Adds to each prediction nll, the negative log-probability of its expected output with the end token,
--- and nll_tokens. A row whose output alone does not fit gets none.
---@param session crucible.Session
---@param rows crucible.lora.Row[]
---@param predictions table[]  changed
---@param options table
---@return true? ok, string? message, string? code
function answers.add_likelihoods(session, rows, predictions, options)
  local limits, batch, places = { max_length = room_for_prompts(session, 0), truncation = "left" }, {}, {}
  for i, row in ipairs(rows) do
    local datum = datums.row(session.tokenizer, { input = row.input, output = row.output }, limits)
    if datum then batch[#batch + 1], places[#places + 1] = datum, i end
  end
  return in_pieces(#batch, function(first, last)
    local found, message, code = session:forward(table.move(batch, first, last, 1, {}), { base = options.base })
    if not found then return nil, message, code end
    for i = first, last do
      local prediction = predictions[places[i]]
      prediction.nll, prediction.nll_tokens = nll_of(found.logprobs[i - first + 1], batch[i].weights)
    end
    return true
  end)
end

return answers
