-- Rows to datums: `{ tokens, weights, metadata, row, prompt_length, seam, tokenizer }`. weights has one value a
-- target, and tokens[i + 1] is the target at i: 0 on the prompt, the row's weight on the answer
-- and on the end token that follows it. seam is the number of bytes (0 or 1) that stand between prompt
-- and output; datums.positions finds the tokens of a stretch of the output.
--
-- A row is a list of pieces of text that are encoded apart and joined: the prompt's ids are a prefix of
-- the row's by construction. A row of messages has the pieces of its template (crucible.chat); its prompt
-- reaches to the last message that is trained.
--
-- A row over the limit loses tokens of its prompt from the left (a BOS stays), or is dropped;
-- the answer is never cut. Both are counted.
local chat = require "crucible.chat"
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local token_cache = require "crucible.lora.token_cache"
local tokenizer_module = require "crucible.tokenizer"

local datums = {}

local options = schema.new("lora.datums.build", {
  { name = "max_length", check = schema.integer { min = 2 }, doc = "longest row in tokens; default: no limit" },
  { name = "truncation", default = "left", check = schema.one_of { "left", "drop" }, doc = "of rows over the limit" },
  { name = "template", check = schema.one_of(chat.templates()), doc = "of messages; default: the model's own" },
  { name = "train_on", check = chat.train_on, doc = "of messages; default: last_assistant" },
  { name = "cache", check = schema.nonempty_string, doc = "folder of tokenised data (crucible.lora.token_cache)" },
  { name = "threads", default = 0, check = schema.integer { min = 0, max = 1024 }, doc = "0 = as many as may be used" },
})

local ROWS_AT_ONCE = 1024 -- encoded in one call: enough for all threads, little to hold

--- The prompt's last tokens, so that all fits; its BOS stays.
---@param tokenizer crucible.Tokenizer
---@param prompt integer[]
---@param room integer  tokens that fit
---@return integer[]
local function cut_left(tokenizer, prompt, room)
  local kept = {}
  if tokenizer.add_bos and prompt[1] == tokenizer.bos and room >= 1 then kept[1] = prompt[1] end
  local first = #prompt - (room - #kept) + 1
  return table.move(prompt, math.max(first, 1), #prompt, #kept + 1, kept)
end
datums.cut_left = cut_left

-- ---- pieces ------------------------------------------------------------------------------------

-- A piece is { text, weight } or { id, weight }; `final` marks the first piece of the last answer.

-- A weight as the engine takes it, so that a datum is the same from memory and from a file.
local function in_32_bits(weight) return (string.unpack("<f", string.pack("<f", weight))) end

local function pieces_of_text(tokenizer, row)
  local seam, weight = tokenizer_module.seam(row.input, row.output), in_32_bits(row.weight or 1)
  local prompt = row.input
  prompt = tokenizer_module.first_space(tokenizer, prompt) .. prompt
  if prompt == "" then seam = tokenizer_module.first_space(tokenizer, row.output) end
  local pieces = { { text = prompt, weight = 0 }, { text = seam .. row.output, weight = weight, final = true } }
  if row.output ~= "" and tokenizer.eos then pieces[3] = { id = tokenizer.eos, weight = weight } end
  return pieces, #seam
end

-- A rendered piece for `join`: text or an id, and its weight.
local function piece_of_template(tokenizer, piece, weight, first)
  local trained = piece.part == "content" or piece.part == "close"
  return { text = chat.piece_text(tokenizer, piece, first), id = chat.piece_id(tokenizer, piece), parse = piece.parse,
    weight = trained and weight or 0 }
end

local function pieces_of_messages(tokenizer, row, given)
  local fault = chat.fault(row.messages)
  if fault then return nil, fault end
  local renderer, message = chat.choose(tokenizer, row.template or given.template)
  if not renderer then return nil, message end
  local rendered, weights = chat.render(renderer, row.messages, row.train_on or given.train_on)
  if not rendered then return nil, weights end
  local last, seam = rendered[#rendered].message, nil
  local pieces = { whole = rendered.whole }
  for i, piece in ipairs(rendered) do
    local weight = in_32_bits(weights[piece.message] * (row.weight or 1))
    pieces[i] = piece_of_template(tokenizer, piece, weight, i == 1)
    if piece.part == "content" and piece.message == last and not seam then
      pieces[i].final, seam = true, piece.seam or 0
    end
  end
  return pieces, seam or 0
end

-- The pieces of a row and the bytes of its seam; nil, why not.
local function pieces_of(tokenizer, row, given)
  if row.messages then return pieces_of_messages(tokenizer, row, given) end
  return pieces_of_text(tokenizer, row)
end

-- ---- from ids to datums --------------------------------------------------------------------------

-- tokens and, beside each, its weight as a target; where the last answer and the first supervised token
-- begin (tokens before them).
local function join(tokenizer, pieces, next_ids)
  local tokens, weights, prompt, lead = {}, {}, 0, nil
  -- A model's own template is the whole of what it says; a named one may begin with the BOS.
  local brings_bos = pieces.whole or pieces[1].id == tokenizer.bos
  if tokenizer.add_bos and tokenizer.bos and not brings_bos then tokens[1], weights[1] = tokenizer.bos, 0 end
  for _, piece in ipairs(pieces) do
    local count = #tokens
    if piece.final then prompt = count end
    if piece.weight ~= 0 and not lead then lead = count end
    if piece.id then
      tokens[count + 1] = piece.id
    else
      local ids = next_ids()
      table.move(ids, 1, #ids, count + 1, tokens)
    end
    for i = count + 1, #tokens do weights[i] = piece.weight end
  end
  return tokens, weights, prompt, math.min(lead or prompt, prompt)
end

-- Cuts `over` tokens after the BOS; false when fewer than one of the lead would stay.
local function cut(tokenizer, tokens, weights, lead, over)
  if lead - over < 1 then return false end
  local from = tokenizer.add_bos and tokenizer.bos and tokens[1] == tokenizer.bos and 1 or 0
  if lead - over < from then return false end
  local count = #tokens
  for _, list in ipairs { tokens, weights } do
    table.move(list, from + over + 1, count, from + 1)
    for i = count - over + 1, count do list[i] = nil end
  end
  return true
end

-- The datum of a row's pieces; nil and "drop" or "answer" when it is over the limit. The third value tells
-- that the prompt was cut.
local function assemble(tokenizer, row, pieces, seam, next_ids, given)
  local tokens, weights, prompt, lead = join(tokenizer, pieces, next_ids)
  local over = given.max_length and #tokens - given.max_length or 0
  if over > 0 then
    if given.truncation == "drop" then return nil, "drop" end
    if not cut(tokenizer, tokens, weights, lead, over) then return nil, "answer" end
    prompt = prompt - over
  end
  -- The weight of a token is that of the target one place earlier; the first token is nobody's target.
  table.move(weights, 2, #weights, 1)
  weights[#weights] = nil
  return {
    tokens = tokens, weights = weights, metadata = row.metadata, prompt_length = prompt, seam = seam,
    end_id = pieces[#pieces].id, tokenizer = tokenizer,
  }, nil, over > 0
end

-- Texts to encode: `parsed` those in which added tokens are tokens, `plain` the others, `order` which is next.
local function no_texts() return { plain = {}, parsed = {}, order = {} } end

local function collect_texts(pieces, texts)
  for _, piece in ipairs(pieces) do
    if not piece.id then
      local kind = piece.parse and "parsed" or "plain"
      local list = texts[kind]
      list[#list + 1] = piece.text
      texts.order[#texts.order + 1] = { kind = kind, index = #list }
    end
  end
end

-- A function that gives the ids of one text after another.
local function in_order(texts, ids_of)
  local at = 0
  return function()
    at = at + 1
    local place = texts.order[at]
    return ids_of(place.kind, place.index)
  end
end

local function encode_texts(tokenizer, texts, threads)
  local plain, message, code = tokenizer:encode_all(texts.plain, false, threads)
  if not plain then return nil, message, code end
  local parsed = {}
  if #texts.parsed > 0 then parsed, message, code = tokenizer:encode_all(texts.parsed, true, threads) end
  if not parsed then return nil, message, code end
  local ids = { plain = plain, parsed = parsed }
  return in_order(texts, function(kind, index) return ids[kind][index] end)
end

--- The datum of one row, or nil and why not: "drop" (over the limit), "answer" (the answer
--- alone is over the limit), or what is wrong with its messages. The third value tells that the prompt was
--- cut.
---@param tokenizer crucible.Tokenizer
---@param row { input: string?, output: string?, messages: table?, weight: number?, metadata: table? }
---@param given { max_length: integer?, truncation: string?, template: string?, train_on: string? }
---@return table? datum, string? reason, boolean? truncated
function datums.row(tokenizer, row, given)
  local pieces, seam = pieces_of(tokenizer, row, given)
  if not pieces then return nil, seam end
  local texts = no_texts()
  collect_texts(pieces, texts)
  local next_ids = in_order(texts, function(kind, index)
    return assert(tokenizer:encode(texts[kind][index], kind == "parsed"))
  end)
  return assemble(tokenizer, row, pieces, seam, next_ids, given)
end

--- Ids of a row's prompt, as its datum would begin without a limit.
---@param tokenizer crucible.Tokenizer
---@param row { input: string?, messages: table?, template: string? }
---@return integer[]? ids, string? message, string? code
function datums.prompt(tokenizer, row)
  if row.messages then return chat.prompt_ids(tokenizer, row.messages, row.template) end
  return tokenizer:prompt(row.input)
end

-- The first place in an ascending list whose value is at least `least`.
local function first_at_least(ends, least)
  local low, high = 1, #ends
  while low < high do
    local middle = (low + high) // 2
    if ends[middle] >= least then high = middle else low = middle + 1 end
  end
  return low
end

--- The tokens that spell stretches of an output: for spans { first, last } of its bytes (from 1, both
--- included, as string.find gives them) the positions { first, last } in datum.tokens. A token that
--- reaches into a span belongs to it. tokens[p] is the target at p - 1, so the target positions of
--- a span are first - 1 to last - 1.
---@param tokenizer crucible.Tokenizer
---@param datum { tokens: integer[], prompt_length: integer, seam: integer }
---@param spans integer[][]
---@return integer[][] positions  one a span
function datums.positions(tokenizer, datum, spans)
  local answer = table.move(datum.tokens, datum.prompt_length + 1, #datum.tokens, 1, {})
  local ends, positions = assert(tokenizer:ends(answer)), {}
  local length = (ends[#ends] or 0) - datum.seam
  for i, span in ipairs(spans) do
    local first, last = span[1], span[2]
    if not (first and last and 1 <= first and first <= last and last <= length) then
      errors.raise("datums.positions: span %d is %s to %s, expected bytes of an output of %d at most", i,
        tostring(first), tostring(last), length)
    end
    positions[i] = {
      datum.prompt_length + first_at_least(ends, first + datum.seam),
      datum.prompt_length + first_at_least(ends, last + datum.seam),
    }
  end
  return positions
end

---@class crucible.lora.datums.Counts
---@field rows integer       given
---@field truncated integer  whose prompt was cut
---@field dropped integer    left out as too long
---@field cache string?       what became of the cache, if one was asked for

local function row_failure(number, reason, given)
  if reason == "answer" then
    return errors.failure("data", "row %d: its answer alone is longer than max_length %d: raise max_length, or "
      .. 'set truncation = "drop"', number, given.max_length)
  end
  return errors.failure("data", "row %d: %s", number, reason)
end

-- The pieces of rows first..last, and ids of all their texts in order.
local function encode_rows(tokenizer, rows, first, last, given)
  local all, seams, texts = {}, {}, no_texts()
  for number = first, last do
    local pieces, seam = pieces_of(tokenizer, rows[number], given)
    if not pieces then return row_failure(number, seam, given) end
    all[number], seams[number] = pieces, seam
    collect_texts(pieces, texts)
  end
  local next_ids, message, code = encode_texts(tokenizer, texts, given.threads)
  if not next_ids then return nil, message, code end
  return { pieces = all, seams = seams, next_ids = next_ids }
end

-- Adds the datums of rows first..last to a list.
local function build_rows(tokenizer, rows, first, last, given, built, counts)
  local encoded, message, code = encode_rows(tokenizer, rows, first, last, given)
  if not encoded then return nil, message, code end
  for number = first, last do
    local datum, reason, truncated = assemble(tokenizer, rows[number], encoded.pieces[number], encoded.seams[number],
      encoded.next_ids, given)
    if datum then
      datum.row = number
      built[#built + 1] = datum
      counts.truncated = counts.truncated + (truncated and 1 or 0)
    elseif reason == "drop" then
      counts.dropped = counts.dropped + 1
    else
      return row_failure(number, reason, given)
    end
  end
  return true
end

local function build_all(tokenizer, rows, given)
  local built, counts = {}, { rows = #rows, truncated = 0, dropped = 0 }
  for first = 1, #rows, ROWS_AT_ONCE do
    local last = math.min(first + ROWS_AT_ONCE - 1, #rows)
    local ok, message, code = build_rows(tokenizer, rows, first, last, given, built, counts)
    if not ok then return nil, message, code end
  end
  return built, counts
end

-- Writes datums to the cache. What cannot be written is built again another time.
local function keep(built, counts, folder, key)
  local writer = token_cache.writer(folder, key)
  if not writer then return false end
  for _, datum in ipairs(built) do
    if not writer:add(datum) then return false end
  end
  return (writer:commit(counts)) and true or false
end

local function build_cached(tokenizer, rows, given)
  local key = token_cache.key(tokenizer, rows, {
    max_length = given.max_length, truncation = given.truncation, template = given.template, train_on = given.train_on,
    chat_template = tokenizer.chat_template,
  })
  local built, counts = token_cache.load(given.cache, key, rows, tokenizer)
  if built then
    counts.cache = "reused"
    return built, counts
  end
  local code
  built, counts, code = build_all(tokenizer, rows, given)
  if not built then return nil, counts, code end
  counts.cache = keep(built, counts, given.cache, key) and "written" or "not writable"
  local mapped = counts.cache == "written" and token_cache.load(given.cache, key, rows, tokenizer)
  return mapped or built, counts
end

--- Datums of all rows; datum.row is the row's number. Fails with "data", naming the row, when an answer
--- alone is longer than max_length or messages cannot be rendered.
---
--- With `cache`, tokens are kept in that folder and mapped from there: the list then makes each datum when it is
--- asked for, and counts.cache is "written", "reused" or "not writable".
---@param tokenizer crucible.Tokenizer
---@param rows table[]  { input, output, weight?, metadata? } or { messages, … }
---@param given { max_length: integer?, truncation: string?, template: string?, train_on: string?, threads: integer?, cache: string? }?
---@return table[]? datums, crucible.lora.datums.Counts|string counts_or_message, string? code
function datums.build(tokenizer, rows, given)
  local resolved = options:resolve(given)
  if resolved.cache then return build_cached(tokenizer, rows, resolved) end
  return build_all(tokenizer, rows, resolved)
end

return datums
