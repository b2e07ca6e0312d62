-- Completions from a server: a sampler of the weights as they are now, and a window of prompts under way.
local errors = require "crucible.errors"
local future = require "crucible.adapters.tinker.future"
local json = require "crucible.json"
local text_stream = require "crucible.text_stream"
local wire = require "crucible.adapters.tinker.wire"

local sampling = {}

-- ---- samplers --------------------------------------------------------------------------------

local function read_sampler(value)
  local id = value.sampling_session_id
  if type(id) == "string" then return id end
  return nil, "the answer names no sampling_session_id"
end

-- Saves the weights for sampling and opens a sampler of them, in one.
local function new_sampler(session)
  local client = session.client
  local number = client:number "sampler_number"
  return session.lane:add {
    kind = "save_weights_for_sampler", read = read_sampler,
    body = function(model_id, seq_id)
      return json.encode {
        model_id = model_id, sampling_session_seq_id = number, seq_id = seq_id, type = "save_weights_for_sampler",
      }, nil, "save_weights_for_sampler"
    end,
  }
end

-- Id of a sampler of the session's weights; one serves until they change.
local function sampler_of(session)
  local kept = session.sampler
  if kept and kept.version == session.version then return kept end
  local version = session.version
  local id, message, code = new_sampler(session):wait()
  if not id then return nil, message, code end
  session.sampler = { id = id, version = version, number = 0 }
  return session.sampler
end

-- ---- requests --------------------------------------------------------------------------------

-- What the sampling parameters cannot say to a server.
local function check(params)
  if params.constraint then
    errors.raise('session:sample: servers of the Tinker API take no constraint; it can be had with adapter = "local"')
  end
  if params.min_p > 0 then
    errors.raise("session:sample: servers of the Tinker API know no min_p; top_p is near to it")
  end
  if params.repetition_penalty ~= 1 then
    errors.raise('session:sample: servers of the Tinker API know no repetition_penalty; take it with adapter = "local"')
  end
end

-- A seed for each prompt, of the parameters' and the prompt's number.
local function seed_of(session, params, index)
  return ((params.seed or session.seed) * 1000003 + index - 1) & 0x7fffffff
end

local function stop_ids(session, params) return params.stop_ids or { session.tokenizer.eos } end

-- A list of texts or of ids: texts where there are any, since ids are cut here as well.
local function stops_of(session, params)
  if #params.stop_sequences > 0 then return json.array(params.stop_sequences) end
  return json.array(stop_ids(session, params))
end

local function request_of(session, ids, params, index, source)
  local body = {
    num_samples = 1, prompt = { chunks = { { type = "encoded_text", tokens = json.array(ids) } } }, type = "sample",
    sampling_params = {
      max_tokens = params.max_tokens, seed = seed_of(session, params, index), temperature = params.temperature,
      top_k = params.top_k > 0 and params.top_k or -1, top_p = params.top_p, stop = stops_of(session, params),
    },
  }
  if source.id then
    body.sampling_session_id, body.seq_id, source.number = source.id, source.number, source.number + 1
  else
    body.base_model = session.remote_model
  end
  return json.encode(body)
end

-- A sequence as the server gave it; nil and what is wrong with it.
local function read_sample(value)
  local sequence = type(value.sequences) == "table" and value.sequences[1]
  if type(sequence) ~= "table" then return nil, "the answer holds no sequence" end
  local tokens, problem = wire.numbers_of(sequence.tokens)
  if not tokens then return nil, "the answer's tokens are " .. problem end
  for i, token in ipairs(tokens) do
    if math.type(token) ~= "integer" then return nil, "the answer's tokens are no ids" end
    tokens[i] = token
  end
  local logprobs = wire.numbers_of(sequence.logprobs, #tokens) or {}
  return { tokens = tokens, logprobs = logprobs, stop_reason = sequence.stop_reason }
end

local function submit(session, body)
  return session.client:operation("asample", function() return body end, {
    what = "asample", expects = "sample", read = read_sample, gone = true,
  })
end

-- ---- completions -----------------------------------------------------------------------------

local function piece(tokenizer, previous, token)
  local before = tokenizer:decode({ previous }, true)
  return tokenizer:decode({ previous, token }, true):sub(#before + 1)
end

-- The completion of a sequence: cut at the first token or text that ends it. on_token hears it token by token.
local function complete(session, prompt, index, sample, params, on_token)
  local stream, ends, tokenizer = text_stream.new(params.stop_sequences), {}, session.tokenizer
  for _, id in ipairs(stop_ids(session, params)) do ends[id] = true end
  local made = { tokens = {}, logprobs = {}, prompt_tokens = #prompt, finish = nil }
  local function tell(token, logprob, text)
    if not on_token then return end
    local answer = on_token { prompt = index, token = token, logprob = logprob, text = text, finish = made.finish }
    if answer == false and not made.finish then made.finish = "cancelled" end
  end
  local previous = prompt[#prompt]
  for i, token in ipairs(sample.tokens) do
    if ends[token] or made.finish then break end
    made.tokens[i], made.logprobs[i] = token, sample.logprobs[i]
    local text = stream:push(piece(tokenizer, previous, token))
    previous = token
    if stream.stopped then made.finish = "stop" end
    tell(token, sample.logprobs[i], text)
  end
  if not made.finish then
    local ended = ends[sample.tokens[#made.tokens + 1]] or sample.stop_reason == "stop"
    made.finish = ended and "stop" or "length"
    tell(nil, nil, stream:finish())
  end
  made.text = params.trim and stream.text:match "^%s*(.-)%s*$" or stream.text
  return made
end

-- ---- many ------------------------------------------------------------------------------------

-- Submits what there is room for; the futures by prompt. places: the prompts' numbers, for their seeds.
local function run_window(session, prompts, places, params, source, futures)
  local next_prompt, under_way, window = 1, 0, session.options.window
  local function fill()
    while next_prompt <= #prompts and under_way < window do
      local index = next_prompt
      next_prompt, under_way = next_prompt + 1, under_way + 1
      futures[index] = submit(session, request_of(session, prompts[index], params, places[index], source))
      futures[index].listener = function()
        under_way = under_way - 1
        fill()
      end
      if futures[index].state ~= "pending" then futures[index].listener() end
    end
  end
  fill()
end

local function source_of(session, params)
  if params.base then return {} end
  return sampler_of(session)
end

-- Samples of all prompts; false in the place of those whose sampler the server no longer knows.
local function sample_all(session, prompts, places, params, source, tell)
  local futures, samples, lost = {}, {}, {}
  run_window(session, prompts, places, params, source, futures)
  for index = 1, #prompts do
    local ok, message, code = session.client:turn_until(function() return futures[index] ~= nil end)
    if not ok then return nil, message, code end
    local sample
    sample, message, code = futures[index]:wait()
    if sample == nil then return nil, message, code end
    samples[index] = sample
    if sample then tell(index, sample) else lost[#lost + 1] = index end
  end
  return samples, lost
end

local function pick(list, places)
  local picked = {}
  for i, place in ipairs(places) do picked[i] = list[place] end
  return picked
end

--- A completion for each list of ids.
---@param session table
---@param prompts integer[][]
---@param params table  of lora.sampling_params
---@param on_token (fun(event: crucible.lora.TokenEvent): boolean?)?
---@return crucible.lora.Completion[]? completions, string? message, string? code
function sampling.sample(session, prompts, params, on_token)
  check(params)
  for i, prompt in ipairs(prompts) do
    if #prompt == 0 then errors.raise("session:sample: prompt %d is empty", i) end
    if #prompt + params.max_tokens > session.context then
      return errors.failure("context_overflow", "session:sample: prompt %d has %d tokens and max_tokens is %d, the "
        .. "context is %d", i, #prompt, params.max_tokens, session.context)
    end
  end
  local completions, places = {}, {}
  for i = 1, #prompts do places[i] = i end
  if params.max_tokens == 0 then
    local nothing = { tokens = {}, logprobs = {} }
    for i, prompt in ipairs(prompts) do completions[i] = complete(session, prompt, i, nothing, params, on_token) end
    return completions
  end
  for _ = 1, 3 do -- a server may drop a sampler that was there a moment ago
    local source, message, code = source_of(session, params)
    if not source then return nil, message, code end
    local some = pick(prompts, places)
    local samples, lost
    samples, lost, code = sample_all(session, some, places, params, source, function(index, sample)
      local place = places[index]
      completions[place] = complete(session, prompts[place], place, sample, params, on_token)
    end)
    if not samples then return nil, lost, code end
    if #lost == 0 then return completions end
    places, session.sampler = pick(places, lost), nil
  end
  return errors.failure("not_found", "%s: asample: the server does not know the sampler that it just made",
    session.client.url)
end


-- ---- the base ----------------------------------------------------------------------------------

-- The ids of a row in a line, where its targets are its own tokens, each one place on.
local function line_of(ids, index)
  local line = table.move(ids.tokens, 1, #ids.tokens, 1, {})
  line[#line + 1] = ids.targets[#ids.targets]
  for t, target in ipairs(ids.targets) do
    if line[t + 1] ~= target then
      errors.raise("the base's log-probabilities come of prompts: batch[%d] has targets that do not follow its tokens",
        index)
    end
  end
  return line
end

-- Servers give one number a token, or none for the first: the last ones are those of the targets.
local function read_prompt(length)
  return function(value)
    local numbers, problem = wire.numbers_of(value.prompt_logprobs)
    if not numbers then return nil, "the answer's prompt_logprobs are " .. problem end
    if #numbers < length then
      return nil, ("the answer has %d prompt_logprobs for %d targets"):format(#numbers, length)
    end
    return table.move(numbers, #numbers - length + 1, #numbers, 1, {})
  end
end

--- The future of the targets' log-probabilities under the base model, the lora left out.
---@param session table
---@param list { tokens: integer[], targets: integer[] }[]
---@return crucible.tinker.Future
function sampling.base_logprobs(session, list)
  local futures = {}
  for i, ids in ipairs(list) do
    local body = json.encode {
      base_model = session.remote_model, num_samples = 1, type = "sample", prompt_logprobs = true,
      prompt = { chunks = { { type = "encoded_text", tokens = json.array(line_of(ids, i)) } } },
      sampling_params = { max_tokens = 1, temperature = 0, seed = 0, top_k = -1, top_p = 1 },
    }
    futures[i] = session.client:operation("asample", function() return body end, {
      what = "asample", expects = "sample", read = read_prompt(#ids.targets),
    })
  end
  return future.all(futures, function(values) return values end)
end

return sampling
