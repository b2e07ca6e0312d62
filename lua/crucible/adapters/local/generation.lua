-- Completions and scores over the core's batched decoding.
local constraint = require "crucible.constraint"
local errors = require "crucible.errors"
local text_stream = require "crucible.text_stream"

local generation = {}

---@class crucible.lora.Completion
---@field text string
---@field tokens integer[]    generated, the end token left out
---@field logprobs number[]   of each token under the model, before temperature and filters
---@field finish "stop"|"length"|"cancelled"  an end token, a stop text or a constraint's end; max_tokens; on_token's wish
---@field prompt_tokens integer
---@field scores number[]?    log-probability of each choice after the prompt, where choices were given

---@class crucible.lora.TokenEvent
---@field prompt integer   number of the prompt
---@field token integer?   nil when the row ended without a further token
---@field logprob number?
---@field text string      what is now certain of the text; may be empty
---@field finish string?   at the row's last event

local function start_row(prompt, stops)
  return {
    prompt_tokens = #prompt, previous = prompt[#prompt], tokens = {}, logprobs = {}, stream = text_stream.new(stops),
  }
end

-- Text that a token adds after the one before it: vocabularies that write a word's space into the
-- token show it only there.
local function piece(tokenizer, previous, token)
  local before = tokenizer:decode({ previous }, true)
  return tokenizer:decode({ previous, token }, true):sub(#before + 1)
end

local function add_token(row, event, tokenizer)
  row.tokens[#row.tokens + 1] = event.token
  row.logprobs[#row.logprobs + 1] = event.logprob
  local released = row.stream:push(piece(tokenizer, row.previous, event.token))
  row.previous = event.token
  return released
end

-- Ends a row because on_token asked for it.
local function cancel(row, prompt, running)
  if not row.finish then running:finish(prompt) end
  row.finish = "cancelled"
end

-- Takes one event into its row; returns the text released and why the row ended, if it did.
local function consume(row, event, tokenizer, running)
  local released = event.token and add_token(row, event, tokenizer) or ""
  local finish = event.finish
  if row.stream.stopped then
    if not finish then running:finish(event.prompt) end
    finish = "stop"
  elseif finish then
    released = released .. row.stream:finish()
  end
  row.finish = finish
  return released, finish
end

local function completion(row, trim)
  local text = row.stream.text
  return {
    text = trim and text:match("^%s*(.-)%s*$") or text, tokens = row.tokens, logprobs = row.logprobs,
    finish = row.finish, prompt_tokens = row.prompt_tokens, scores = row.scores,
  }
end

-- A step that begins prompts begins nothing else: where the first event's row has no scores yet,
-- the choices of all its prompts are scored on the keys that are there now.
local function score_begun(running, events, rows, choices)
  if not choices or rows[events[1].prompt].scores then return true end
  local theirs = {}
  for i, event in ipairs(events) do theirs[i] = choices[event.prompt] end
  local scores, message, code = running:score(theirs)
  if not scores then return nil, message, code end
  for i, event in ipairs(events) do rows[event.prompt].scores = scores[i] end
  return true
end

local function decode_all(session, running, rows, on_token, choices)
  local tokenizer = session.tokenizer
  while true do
    if session:cancelled() then return errors.failure("cancelled", "session:sample: cancelled") end
    local events, message, code = running:step()
    if message then return nil, message, code end
    if not events then return true end
    local ok
    ok, message, code = score_begun(running, events, rows, choices)
    if not ok then return nil, message, code end
    for _, event in ipairs(events) do
      local row = rows[event.prompt]
      if not row.finish then
        local released, finish = consume(row, event, tokenizer, running)
        if on_token and on_token { prompt = event.prompt, token = event.token, logprob = event.logprob,
            text = released, finish = finish } == false and not finish then
          cancel(row, event.prompt, running)
        end
      end
    end
  end
end

local MOST_CONSTRAINTS = 16

-- Constraints keep what they learn of the vocabulary: a session has one for each pattern.
local function core_constraint(session, given)
  if not given then return nil end
  local pattern = constraint.pattern(given)
  session.constraints = session.constraints or { count = 0 }
  local known = session.constraints[pattern]
  if known then return known end
  local made, message, code = session.tokenizer.core:constraint(pattern)
  if not made then return nil, message, code end
  if session.constraints.count == MOST_CONSTRAINTS then session.constraints = { count = 0 } end
  session.constraints[pattern], session.constraints.count = made, session.constraints.count + 1
  return made
end

local function core_params(session, params)
  return {
    temperature = params.temperature, top_p = params.top_p, top_k = params.top_k, min_p = params.min_p,
    repetition_penalty = params.repetition_penalty, max_tokens = params.max_tokens, cache_bytes = params.cache_bytes,
    seed = params.seed or session.seed, stop_ids = params.stop_ids or { session.tokenizer.eos },
    max_batch = params.max_batch, base = params.base,
  }
end

--- A completion for each list of ids. on_token may return false: then the row ends there, "cancelled".
---@param session crucible.Session
---@param prompts integer[][]
---@param params table  of lora.sampling_params
---@param on_token (fun(event: crucible.lora.TokenEvent): boolean?)?
---@param choices integer[][][]?  choices[i][c]: ids to be scored after prompt i
---@return crucible.lora.Completion[]? completions, string? message, string? code
function generation.sample(session, prompts, params, on_token, choices)
  local rows = {}
  for i, prompt in ipairs(prompts) do
    if #prompt == 0 then errors.raise("session:sample: prompt %d is empty", i) end
    rows[i] = start_row(prompt, params.stop_sequences)
  end
  if #rows == 0 then return {} end
  local required, message, code = core_constraint(session, params.constraint)
  if message then return nil, message, code end
  local running
  local given = core_params(session, params)
  given.constraint = required
  running, message, code = session.core:generate(prompts, given)
  if not running then return nil, message, code end
  local guard <close> = running -- an on_token that raises must not leave it running
  local ok
  ok, message, code = decode_all(session, guard, rows, on_token, choices)
  if not ok then return nil, message, code end
  for i, row in ipairs(rows) do rows[i] = completion(row, params.trim) end
  return rows
end

return generation
