-- A model's own Jinja template as a renderer of conversations.
--
-- The whole conversation is one rendering. Where an answer stands in it is found by rendering what comes before
-- it, with what opens the assistant's turn, and up to it: both must be how the whole begins, or the template is not
-- prefix-stable and such an answer cannot be trained within that conversation.
--
-- Tokens of control come from the template alone. A content that holds the text of one gets a mark inside it before
-- rendering, which is taken out again afterwards, so that it stays text, as with named renderers.
local errors = require "crucible.errors"
local jinja = require "crucible.jinja"
local json = require "crucible.json"

local own_template = {}

---@class crucible.chat.OwnTemplate: crucible.chat.Renderer
---@field template crucible.jinja.Template
---@field tokenizer crucible.Tokenizer
---@field variables table<string, any>  given to the template beside the conversation

-- ---- tokens of control ------------------------------------------------------------------------------------------

-- A pattern for one of some bytes.
local function class_of(bytes)
  local parts = {}
  for byte in pairs(bytes) do
    local char = string.char(byte)
    parts[#parts + 1] = char:find "[%w\x80-\xFF]" and char or "%" .. char
  end
  return #parts > 0 and "[" .. table.concat(parts) .. "]" or nil
end

-- The texts of a tokenizer's special tokens: a set, their lengths from long to short, and a pattern for their first
-- bytes; found once and kept.
local function special_texts(tokenizer)
  if tokenizer.special_texts then return tokenizer.special_texts end
  local texts, bytes, seen = { set = {}, lengths = {} }, {}, {}
  for id = 0, tokenizer.size - 1 do
    local text = tokenizer:is_special(id) and tokenizer:decode { id } or ""
    if text ~= "" then
      texts.set[text], bytes[text:byte()] = true, true
      if not seen[#text] then texts.lengths[#texts.lengths + 1] = #text end
      seen[#text] = true
    end
  end
  table.sort(texts.lengths, function(x, y) return x > y end)
  texts.class = class_of(bytes)
  tokenizer.special_texts = texts
  return texts
end

-- Where the next special token stands in a text from `at` on, and which.
local function find_special(texts, text, at)
  while texts.class do
    at = text:find(texts.class, at)
    if not at then return nil end
    for _, length in ipairs(texts.lengths) do
      local special = text:sub(at, at + length - 1)
      if texts.set[special] then return at, special end
    end
    at = at + 1
  end
end

-- A character that no content holds, out of those that Unicode keeps free.
local function free_mark(messages)
  for code = 0xFDD0, 0xFDEF do
    local mark, found = utf8.char(code), false
    for _, message in ipairs(messages) do found = found or message.content:find(mark, 1, true) ~= nil end
    if not found then return mark end
  end
end

-- A content whose texts of special tokens have the mark behind their first character.
local function marked(texts, content, mark)
  local parts, at = {}, 1
  while true do
    local from, special = find_special(texts, content, at)
    if not from then break end
    local first = utf8.len(special) and utf8.offset(special, 2) - 1 or 1
    parts[#parts + 1] = content:sub(at, from + first - 1)
    parts[#parts + 1] = mark
    at = from + first
  end
  return at == 1 and content or table.concat(parts) .. content:sub(at)
end

-- The conversation as the template sees it; the mark, if any content needed one.
local function shielded(renderer, messages)
  local texts, mark, out, used = special_texts(renderer.tokenizer), free_mark(messages), {}, nil
  for i, message in ipairs(messages) do
    local copy = {}
    for key, value in pairs(message) do
      if key ~= "train" then copy[key] = value end
    end
    if mark then copy.content = marked(texts, message.content, mark) end
    if copy.content ~= message.content then used = mark end
    out[i] = copy
  end
  return out, used
end

-- ---- rendering --------------------------------------------------------------------------------------------------

local role_tokens = { bos_token = "bos", eos_token = "eos", pad_token = "pad", unk_token = "unknown" }

local function context(renderer, messages, opens)
  local given = { messages = json.array(messages), tools = json.null, documents = json.null,
    add_generation_prompt = opens }
  local info = renderer.tokenizer:info()
  for name, role in pairs(role_tokens) do
    if info[role] then given[name] = renderer.tokenizer:decode { info[role] } end
  end
  for name, value in pairs(renderer.variables) do given[name] = value end
  return given
end

-- The text of messages first..count of a shielded conversation.
local function text_of(renderer, messages, count, opens)
  return renderer.template:render(context(renderer, table.move(messages, 1, count, 1, {}), opens))
end

local function begins_with(text, start) return text:sub(1, #start) == start end

local function unstable(renderer, index, reason)
  return errors.failure("data", 'chat template "%s" is not prefix-stable: message %d %s; train on the last assistant '
    .. 'alone, or choose another template', renderer.name, index, reason)
end

-- ---- where messages stand -----------------------------------------------------------------------------------------

local function common_start(a, b)
  local at = 0
  while at < #a and at < #b and a:byte(at + 1) == b:byte(at + 1) do at = at + 1 end
  return at
end

local function common_end(a, b, most)
  local count = 0
  while count < most and a:byte(#a - count) == b:byte(#b - count) do count = count + 1 end
  return count
end

-- Texts around the content of message `index`: what is written before and after it whatever it says.
local function around(renderer, messages, index)
  local texts = {}
  for i, content in ipairs { "A", "Z" } do
    local changed = table.move(messages, 1, index, 1, {})
    changed[index] = { role = messages[index].role, content = content }
    local text, message, code = text_of(renderer, changed, index, false)
    if not text then return nil, message, code end
    texts[i] = text
  end
  local first = common_start(texts[1], texts[2])
  if first == #texts[1] then
    return errors.failure("data", 'chat template "%s" does not write message %d (%s) by itself', renderer.name, index,
      messages[index].role)
  end
  return texts[1]:sub(1, first), texts[1]:sub(#texts[1] - common_end(texts[1], texts[2], #texts[1] - first) + 1)
end

-- What stands before the answer `index`: the conversation so far and what opens the assistant's turn.
local function before_answer(renderer, messages, index)
  if index > 1 then return text_of(renderer, messages, index - 1, true) end
  return around(renderer, messages, index)
end

-- The end of the last special token in text[from..], or of the text when there is none.
local function turn_end(renderer, text, from)
  local texts, last = special_texts(renderer.tokenizer), nil
  local at, special = find_special(texts, text, from)
  while at do
    last = at + #special - 1
    at, special = find_special(texts, text, last + 1)
  end
  return last or #text
end

-- Where message `index` and the end of its turn stand in the whole: { first, last, message }.
local function span_of(renderer, messages, index, whole, count)
  local text, message, code = whole, nil, nil
  if index < count then text, message, code = text_of(renderer, messages, index, false) end
  if not text then return nil, message, code end
  if not begins_with(whole, text) then
    return unstable(renderer, index, "is written in another way when messages follow it")
  end
  local before
  if messages[index].role == "assistant" then
    before, message, code = before_answer(renderer, messages, index)
  else
    before, message, code = around(renderer, messages, index)
  end
  if not before then return nil, message, code end
  if not begins_with(text, before) then
    return unstable(renderer, index, "does not follow what its prompt ends with")
  end
  return { first = #before + 1, last = turn_end(renderer, text, #before + 1), message = index }
end

-- ---- pieces -------------------------------------------------------------------------------------------------------

local function add_text(pieces, text, mark, fields)
  if text == "" then return end
  local plain = mark and text:gsub(mark, "") or text
  pieces[#pieces + 1] = { text = plain, parse = plain == text, part = fields.part, message = fields.message,
    follows = fields.follows }
  fields.follows = "text"
end

-- Cuts text[first..last] at special tokens.
local function add_pieces(renderer, pieces, text, mark, fields)
  local texts, at = special_texts(renderer.tokenizer), 1
  while true do
    local from, special = find_special(texts, text, at)
    add_text(pieces, text:sub(at, (from or 0) - 1), mark, fields)
    if not from then return fields.follows end
    pieces[#pieces + 1] = { text = special, special = true, part = fields.part, message = fields.message }
    fields.follows = "special"
    at = from + #special
  end
end

-- The pieces of a text with spans in it; a span's last token closes its turn.
local function cut(renderer, text, mark, spans)
  local pieces, at, follows = { whole = true }, 1, "nothing"
  for _, span in ipairs(spans) do
    follows = add_pieces(renderer, pieces, text:sub(at, span.first - 1), mark,
      { part = "header", message = span.message, follows = follows })
    follows = add_pieces(renderer, pieces, text:sub(span.first, span.last), mark,
      { part = "content", message = span.message, follows = follows })
    if pieces[#pieces].special then pieces[#pieces].part = "close" end
    at = span.last + 1
  end
  if #spans == 0 then
    add_pieces(renderer, pieces, text, mark, { part = "header", message = 1, follows = follows })
  end
  return pieces
end

-- The bytes before the content in its span, for readers of the answer's text.
local function mark_seam(pieces, content)
  local trimmed = content:match "^%s*(.*)$"
  for _, piece in ipairs(pieces) do
    if piece.part == "content" and not piece.special then
      piece.seam = (piece.text:find(trimmed, 1, true) or 1) - 1
    end
  end
end

--- The pieces of a conversation up to its last trained message.
---@param renderer crucible.chat.OwnTemplate
---@param messages crucible.chat.Message[]
---@param weights number[]  of each message; 0 = not trained
---@param count integer     messages that are rendered
---@return crucible.chat.Piece[]? pieces, string? message, string? code
function own_template.render(renderer, messages, weights, count)
  local shown, mark = shielded(renderer, messages)
  local whole, message, code = text_of(renderer, shown, count, false)
  if not whole then return nil, message, code end
  local spans = {}
  for i = 1, count do
    if weights[i] ~= 0 then
      spans[#spans + 1], message, code = span_of(renderer, shown, i, whole, count)
      if message then return nil, message, code end
      local earlier = spans[#spans - 1]
      if earlier and spans[#spans].first <= earlier.last then return unstable(renderer, i, "stands within another") end
    end
  end
  local pieces = cut(renderer, whole, mark, spans)
  if #spans > 0 then mark_seam(pieces, messages[spans[#spans].message].content) end
  return pieces
end

--- The pieces of a prompt: messages 1..count and what opens the assistant's turn.
---@param renderer crucible.chat.OwnTemplate
---@param messages crucible.chat.Message[]
---@param count integer
---@return crucible.chat.Piece[]? pieces, string? message, string? code
function own_template.prompt(renderer, messages, count)
  local shown, mark = shielded(renderer, table.move(messages, 1, count, 1, {}))
  local text, message, code = text_of(renderer, shown, count, true)
  if not text then return nil, message, code end
  return cut(renderer, text, mark, {})
end

-- ---- opening -----------------------------------------------------------------------------------------------------

-- How the template ends an answer, and whether it trims one: asked of the template itself. One that refuses the
-- question leaves both open.
local function ask(renderer)
  local messages = { { role = "user", content = "A" }, { role = "assistant", content = " A " } }
  local header, tail = around(renderer, messages, 2)
  if not header then return end
  local at, special = find_special(special_texts(renderer.tokenizer), tail, 1)
  renderer.close = at and special or nil
  local text = text_of(renderer, messages, 2, false)
  if text and begins_with(text, header) then renderer.trim = text:sub(#header + 1, -#tail - 1) == "A" end
end

--- A renderer of a template. Fails with "format" or "unsupported" when the template cannot be read.
---@param tokenizer crucible.Tokenizer
---@param source string
---@param name string  for messages
---@param variables table<string, any>?  given to the template beside the conversation, such as enable_thinking
---@return crucible.chat.OwnTemplate? renderer, string? message, string? code
function own_template.open(tokenizer, source, name, variables)
  local template, message, code = jinja.compile(source, 'chat template "' .. name .. '"')
  if not template then return nil, message, code end
  local renderer = { name = name, template = template, tokenizer = tokenizer, variables = variables or {}, trim = false,
    tokens = {} }
  ask(renderer)
  return renderer
end

return own_template
