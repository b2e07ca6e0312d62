-- Scorers of entailment and similarity, by name. A scorer answers many pairs at once with numbers from
-- 0 to 1 and says what it is, so that no figure stands without its source.
--
--   entailment  "overlap"  share of the hypothesis' words that the premise has: a heuristic
--               "lm"       a language model's likelihood of the verdict that supports, given claim and evidence:
--                          the session's base model, or a judge trained for it (examples/train_judge.lua)
--               "encoder"  a cross-encoder for natural language inference (crucible.encoder)
--   similarity  "overlap"  share of words that both have (Jaccard)
--               "encoder"  cosine of sentence embeddings, at least 0; all-MiniLM-L6-v2 unless told otherwise
--               "hidden"   cosine of the session's mean final hidden states, at least 0
--
-- A scorer that holds something open has `close`.
local errors = require "crucible.errors"
local likelihood = require "crucible.metrics.likelihood"
local overlap = require "crucible.metrics.overlap"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local text = require "crucible.metrics.text"

local scorers = {}

---@class crucible.metrics.Scorer
---@field name string
---@field score fun(pairs: table[]): number[]?, string?, string?
---@field about table?  what else a reader of its figures should know
---@field close (fun())?

-- ---- overlap -------------------------------------------------------------------------------

local function coverage(premise, hypothesis)
  local known, words, found = {}, text.words(text.squad(hypothesis)), 0
  for _, word in ipairs(text.words(text.squad(premise))) do known[word] = true end
  for _, word in ipairs(words) do found = found + (known[word] and 1 or 0) end
  return #words > 0 and found / #words or 0
end

local function each(list, f)
  local scores = {}
  for i, pair in ipairs(list) do scores[i] = f(pair) end
  return scores
end

local function entailment_overlap()
  return { name = "overlap", score = function(list)
    return each(list, function(pair) return coverage(pair.premise, pair.hypothesis) end)
  end }
end

local function similarity_overlap()
  return { name = "overlap", score = function(list)
    return each(list, function(pair) return overlap.jaccard(pair[1], pair[2]) end)
  end }
end

-- ---- a language model ----------------------------------------------------------------------

--- The prompt that a judge is asked with, the same as the data set scifact's.
---@param premise string
---@param hypothesis string
---@return string
function scorers.judge_prompt(premise, hypothesis)
  return ("Claim: %s\nEvidence: %s\n\nVerdict:"):format(hypothesis, premise)
end

local base_labels = { "SUPPORT", "CONTRADICT" } -- the first is the one that counts as entailed

-- The prompt with as much of the premise as leaves room for a label.
local function fitted_prompt(session, pair, room)
  local prompt = scorers.judge_prompt(pair.premise, pair.hypothesis)
  local over = #session.tokenizer:prompt(prompt) - room
  if over <= 0 then return prompt end
  local premise = session.tokenizer:encode(pair.premise)
  local kept = table.move(premise, 1, math.max(0, #premise - over - 8), 1, {}) -- the cut may make new tokens
  return scorers.judge_prompt(session.tokenizer:decode(kept, true), pair.hypothesis)
end

local AT_ONCE = 16

-- Shares of the first label among the labels after each prompt.
local function supported(session, prompts, labels, base)
  local shares = {}
  for first = 1, #prompts, AT_ONCE do
    local some = table.move(prompts, first, math.min(first + AT_ONCE - 1, #prompts), 1, {})
    local scores, message, code = session:score(some, labels, { base = base })
    if not scores then return nil, message, code end
    for _, row in ipairs(scores) do shares[#shares + 1] = likelihood.softmax(row)[1] end
  end
  return shares
end

--- Scores of entailment by a session's likelihood of its first label.
---@param session crucible.Session
---@param labels string[]
---@param base boolean  leave the lora out
---@param list { premise: string, hypothesis: string }[]
---@return number[]? scores, string? message, string? code
function scorers.by_session(session, labels, base, list)
  local prompts, longest = {}, 0
  for _, label in ipairs(labels) do longest = math.max(longest, #session.tokenizer:answer("Verdict:", label)) end
  for i, pair in ipairs(list) do prompts[i] = fitted_prompt(session, pair, session.context - longest) end
  return supported(session, prompts, labels, base)
end

local function entailment_lm(session, options)
  local judge = options.judge
  if judge then
    return { name = "lm", about = judge.about, score = function(list)
      return scorers.by_session(judge.session, judge.labels, false, list)
    end }
  end
  return { name = "lm", about = { judge = "the base model, untrained for it" }, score = function(list)
    return scorers.by_session(session, base_labels, true, list)
  end }
end

-- ---- encoders ------------------------------------------------------------------------------

local function open_encoder(session, name)
  return require("crucible.encoder").open(name, { threads = session.config.threads })
end

local function entailment_encoder(session, options)
  if not options.entailment_encoder then
    errors.raise('evaluation.evaluate: entailment = "encoder" needs entailment_encoder, the folder of a cross-encoder')
  end
  local encoder, message, code = open_encoder(session, options.entailment_encoder)
  if not encoder then return nil, message, code end
  local asked
  asked, message, code = encoder:entailment { { "a", "a" } } -- says now whether it has the label
  if not asked then
    encoder:close()
    return nil, message, code
  end
  return {
    name = "encoder", about = { encoder = options.entailment_encoder }, close = function() encoder:close() end,
    score = function(list)
      return encoder:entailment(each(list, function(pair) return { pair.premise, pair.hypothesis } end))
    end,
  }
end

local function not_negative(values)
  return each(values, function(value) return math.max(0, math.min(1, value)) end)
end

local default_similarity_encoder = "all-minilm-l6-v2"

local function similarity_encoder(session, options)
  local name = options.similarity_encoder or default_similarity_encoder
  local encoder, message, code = open_encoder(session, name)
  if not encoder then return nil, message, code end
  return {
    name = "encoder", about = { encoder = name }, close = function() encoder:close() end,
    score = function(list)
      local left = each(list, function(pair) return pair[1] end)
      local values, why, kind = encoder:similarity(left, each(list, function(pair) return pair[2] end))
      if not values then return nil, why, kind end
      return not_negative(values)
    end,
  }
end

-- ---- hidden states -------------------------------------------------------------------------

-- A text as a datum whose every token is read; the end token is there to be a target.
local function text_datum(session, value)
  local tokens, weights = session.tokenizer:prompt(value), {}
  tokens[#tokens + 1] = session.tokenizer.eos
  for i = 1, #tokens - 1 do weights[i] = 1 end
  return { tokens = tokens, weights = weights }
end

local function whole_text(datum) return { spans = { { 1, #datum.tokens - 1 } } } end

local function dot(a, b)
  local sum = 0
  for i = 1, #a do sum = sum + a[i] * b[i] end
  return sum
end

local function cosine(a, b)
  local norms = math.sqrt(dot(a, a) * dot(b, b))
  return norms > 0 and dot(a, b) / norms or 0
end

local function hidden_states(session, texts)
  local batch = each(texts, function(value) return text_datum(session, value) end)
  local found, message, code = session:forward(batch, { outputs = { "hidden" }, request = whole_text })
  if not found then return nil, message, code end
  return each(found.hidden, function(state) return state:totable()[1] end)
end

local function similarity_hidden(session)
  return { name = "hidden", score = function(list)
    local scores = {}
    for i, pair in ipairs(list) do
      local states, message, code = hidden_states(session, pair)
      if not states then return nil, message, code end
      scores[i] = cosine(states[1], states[2])
    end
    return not_negative(scores)
  end }
end

-- ---- by name -------------------------------------------------------------------------------

local makers = {
  entailment = { overlap = entailment_overlap, lm = entailment_lm, encoder = entailment_encoder },
  similarity = { overlap = similarity_overlap, encoder = similarity_encoder, hidden = similarity_hidden },
}

--- Adds a maker of scorers of a kind: (session, options) → scorer, or nil, message, code.
---@param kind "entailment"|"similarity"
---@param name string
---@param maker fun(session: crucible.Session, options: table): crucible.metrics.Scorer?, string?, string?
function scorers.add(kind, name, maker) makers[kind][name] = maker end

--- Names of the scorers of a kind, sorted.
---@param kind "entailment"|"similarity"
---@return string[]
function scorers.names(kind)
  local names = {}
  for name in pairs(makers[kind]) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- A scorer of the user's: what it returns is checked.
local function guarded(kind, given)
  return { name = given.name or "function", about = given.about, score = function(list)
    local scores, message, code = given.score(list)
    if scores == nil then return nil, message or kind .. " scorer returned nothing", code or "argument" end
    for i = 1, #list do
      if type(scores[i]) ~= "number" or not (scores[i] >= 0 and scores[i] <= 1) then
        errors.raise("the %s scorer %s returned %s for pair %d, expected a number from 0 to 1", kind,
          given.name or "given", schema.show(scores[i]), i)
      end
    end
    return scores
  end }
end

--- The check of an option that names a scorer.
---@param kind "entailment"|"similarity"
---@return crucible.schema.Check
function scorers.check(kind)
  return schema.test(("one of %s, a function of pairs, or { name, score }"):format(
    table.concat(scorers.names(kind), ", ")), function(value)
    if type(value) == "string" then
      if makers[kind][value] then return true end
      return false, ('unknown scorer "%s"%s'):format(value, suggest.phrase(value, scorers.names(kind)))
    end
    return schema.callable.read(value) or type(value) == "table" and schema.callable.read(value.score)
  end)
end

--- A scorer of a kind: by name, a function of pairs, or { name, score, about }.
---@param kind "entailment"|"similarity"
---@param given string|function|table
---@param session crucible.Session
---@param options table  what makers may need: judge, encoder
---@return crucible.metrics.Scorer? scorer, string? message, string? code
function scorers.make(kind, given, session, options)
  if type(given) == "string" then return makers[kind][given](session, options) end
  return guarded(kind, type(given) == "table" and given or { score = given })
end

return scorers
