-- Conversations as text for a model, and back from what a model wrote to a message: by the model's own Jinja template
-- (crucible.chat.own_template), or by a named renderer in the wording that a family of models was trained on.
--
-- A rendered conversation is a list of pieces. Each is encoded apart, so that the ids of what stands
-- before an answer are a prefix of the ids of the whole, and special tokens come from the wording alone:
-- "<|im_end|>" written by a user stays text. What opens an assistant's turn belongs to the prompt, never
-- to what is trained; the content and the token that ends the turn are.
local errors = require "crucible.errors"
local own_template = require "crucible.chat.own_template"
local renderers = require "crucible.chat.renderers"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local thought = require "crucible.chat.thought"
local tokenizer_module = require "crucible.tokenizer"

local chat = {}

---@class crucible.chat.Message
---@field role "system"|"user"|"assistant"|"tool"
---@field content string
---@field train boolean|number|nil  with train_on = "custom": trained, or by how much

---@class crucible.chat.Piece
---@field text string
---@field special boolean?  the text is that of one token
---@field ends boolean?     the model's end token, whatever its text; text is ""
---@field parse boolean?    added tokens that are not special ("<think>") are tokens in this text
---@field follows string?   of a model's own template: "nothing", "text" or "special" stands before the text
---@field seam integer?     bytes before the content
---@field message integer   which message it belongs to
---@field part "between"|"header"|"content"|"close"

local OWN = "model" -- the name of the template that came with the model

--- Names of the renderers, sorted.
---@return string[]
function chat.renderers()
  local names = {}
  for name in pairs(renderers) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- What an option `template` may be: a renderer's name, or "model" for the template that came with the model.
---@return string[]
function chat.templates()
  local names = chat.renderers()
  table.insert(names, 1, OWN)
  return names
end

--- The named renderer; raises on an unknown one.
---@param name string
---@return crucible.chat.Renderer
function chat.renderer(name)
  local found = renderers[name]
  if not found then
    errors.raise('unknown chat template "%s"%s', tostring(name), suggest.phrase(tostring(name), chat.renderers()))
  end
  return found
end

-- The first token of a renderer that a tokenizer lacks, or nil.
local function lacking(renderer, tokenizer)
  for _, text in ipairs(renderer.tokens) do
    local id = tokenizer:find(text)
    if not id or not tokenizer:is_special(id) then return text end
  end
  for _, text in ipairs(renderer.added or {}) do
    if not tokenizer:find(text) then return text end
  end
end

--- The renderer that a tokenizer's special tokens speak for: the first of chatml, llama3 and gemma whose
--- tokens it has, else role_colon.
---@param tokenizer crucible.Tokenizer
---@return crucible.chat.Renderer
function chat.for_tokenizer(tokenizer)
  for _, name in ipairs { "chatml", "llama3", "gemma" } do
    if not lacking(renderers[name], tokenizer) then return renderers[name] end
  end
  return renderers.role_colon
end

--- Whether a tokenizer's model brought a template of its own.
---@param tokenizer crucible.Tokenizer
---@return boolean
function chat.has_own(tokenizer) return (tokenizer.chat_template or "") ~= "" end

-- The renderer of the model's own template, made once.
local function own(tokenizer)
  if not chat.has_own(tokenizer) then
    return errors.failure("unsupported", 'the model has no chat template of its own; known: %s',
      table.concat(chat.renderers(), ", "))
  end
  if not tokenizer.own_renderer then
    local renderer, message, code = own_template.open(tokenizer, tokenizer.chat_template, OWN)
    if not renderer then
      local others = table.concat(chat.renderers(), ", ")
      return nil, ("%s (another can be chosen: template = %s)"):format(message, others), code
    end
    tokenizer.own_renderer = renderer
  end
  return tokenizer.own_renderer
end

--- The renderer of a name, checked against a tokenizer; without a name, the model's own template, or where it has
--- none the one that the tokenizer's special tokens speak for. Fails with "unsupported" when the tokenizer lacks one of
--- its tokens, and with "unsupported" or "format" when the model's template cannot be read.
---@param tokenizer crucible.Tokenizer
---@param name string?  of chat.templates()
---@return crucible.chat.Renderer? renderer, string? message, string? code
function chat.choose(tokenizer, name)
  if name == OWN then return own(tokenizer) end
  if not name and chat.has_own(tokenizer) then return own(tokenizer) end
  if not name then return chat.for_tokenizer(tokenizer) end
  local renderer = chat.renderer(name)
  local text = lacking(renderer, tokenizer)
  if not text then return renderer end
  return errors.failure("unsupported", 'chat template "%s" needs the token %s, which the tokenizer lacks', name, text)
end

--- A renderer of a Jinja template given as text, such as a model's with other variables (`enable_thinking`). Fails with
--- "format" or "unsupported" when it cannot be read.
---@param tokenizer crucible.Tokenizer
---@param source string?  default: the model's own
---@param variables table<string, any>?
---@return crucible.chat.Renderer? renderer, string? message, string? code
function chat.template(tokenizer, source, variables)
  source = source or tokenizer.chat_template
  if type(source) ~= "string" or source == "" then errors.raise "chat.template: expected the text of a template" end
  return own_template.open(tokenizer, source, source == tokenizer.chat_template and OWN or "given", variables)
end

-- ---- messages ----------------------------------------------------------------------------------

local train_modes = { "last_assistant", "all_assistants", "all", "custom" }

--- What may be trained of a conversation: the last assistant message, all of them, every message, or those
--- that say so (message.train = true or a weight).
chat.train_on = schema.one_of(train_modes)

--- Why a list of messages is none, in words; nil when it is one.
---@param messages any
---@return string?
function chat.fault(messages)
  if type(messages) ~= "table" or #messages == 0 then return '"messages" is no list of messages' end
  for i, message in ipairs(messages) do
    if type(message) ~= "table" then return ("message %d is a %s"):format(i, type(message)) end
    if type(message.role) ~= "string" then return ('message %d: "role" is not a string'):format(i) end
    if not renderers.chatml.roles[message.role] then
      return ('message %d: unknown role "%s"%s'):format(i, message.role,
        suggest.phrase(message.role, { "system", "user", "assistant", "tool" }))
    end
    if type(message.content) ~= "string" then return ('message %d: "content" is not a string'):format(i) end
    local train = message.train
    if train ~= nil and type(train) ~= "boolean" and type(train) ~= "number" then
      return ('message %d: "train" is neither a boolean nor a number'):format(i)
    end
  end
end

-- Messages as a renderer without a system role sees them.
local function merge_system(messages)
  if messages[1].role ~= "system" or not messages[2] then return messages end
  local merged = table.move(messages, 3, #messages, 2, {})
  local second = messages[2]
  merged[1] = { role = second.role, content = messages[1].content .. "\n\n" .. second.content, train = second.train }
  return merged
end

local function last_assistant(messages)
  for i = #messages, 1, -1 do
    if messages[i].role == "assistant" then return i end
  end
end

-- The weight of a message's content; 0 = not trained.
local function weight_of(message, index, mode, last)
  if mode == "all" then return 1 end
  if mode == "last_assistant" then return index == last and 1 or 0 end
  if mode == "all_assistants" then return message.role == "assistant" and 1 or 0 end
  if type(message.train) == "number" then return message.train end
  return message.train and 1 or 0
end

-- ---- rendering -----------------------------------------------------------------------------------

local function add_header(pieces, renderer, role, index)
  if index > 1 and renderer.between ~= "" then
    pieces[#pieces + 1] = { text = renderer.between, message = index, part = "between" }
  end
  local written = renderer.roles[role]
  if not written then errors.raise('chat template "%s" has no role "%s"', renderer.name, role) end
  for _, piece in ipairs(renderer.header(written)) do
    local special = type(piece) == "table"
    pieces[#pieces + 1] = { text = special and piece[1] or piece, special = special, message = index, part = "header" }
  end
end

-- Not by "(.-)%s*$", which takes the square of a run of white space inside.
local function trim(text)
  local from = text:find "%S"
  if not from then return "" end
  local last = #text
  while text:find("^%s", last) do last = last - 1 end
  return text:sub(from, last)
end

-- One space between a header that ends in no white space ("User:") and its content.
local function seam(renderer, content)
  if renderer.close or content == "" or content:find "^%s" then return "" end
  return " "
end

-- Pieces of a list of strings and { token }.
local function add_parts(pieces, parts, index, part)
  for _, piece in ipairs(parts) do
    local special = type(piece) == "table"
    pieces[#pieces + 1] = { text = special and piece[1] or piece, special = special, message = index, part = part }
  end
end

local function add_content(pieces, renderer, message, index)
  local content = renderer.trim and trim(message.content) or message.content
  if renderer.thinks and message.role == "assistant" then
    if message.bare then add_parts(pieces, thought.empty(), index, "header") end
    return add_parts(pieces, thought.cut(content), index, "content")
  end
  local between = seam(renderer, content)
  pieces[#pieces + 1] = { text = between .. content, seam = #between, message = index, part = "content" }
end

local function add_turn(pieces, renderer, message, index)
  add_header(pieces, renderer, message.role, index)
  add_content(pieces, renderer, message, index)
  if renderer.close then
    pieces[#pieces + 1] = { text = renderer.close, special = true, message = index, part = "close" }
  elseif message.role == "assistant" then
    pieces[#pieces + 1] = { text = "", ends = true, message = index, part = "close" }
  end
end

-- Messages as a named renderer sees them.
local function prepared(renderer, messages)
  if renderer.merge_system then messages = merge_system(messages) end
  return renderer.thinks and thought.prepare(messages) or messages
end

-- The weight of each message, and the last that is trained (0 = none).
local function weigh(renderer, messages, mode)
  local weights, last, final = {}, last_assistant(messages), 0
  for i, message in ipairs(messages) do
    local empty = not message.content:find(renderer.trim and "%S" or ".")
    weights[i] = empty and 0 or weight_of(message, i, mode or "last_assistant", last)
    if weights[i] ~= 0 then final = i end
  end
  return weights, final
end

--- The pieces of a conversation, and the weight of each message in training. What follows the last
--- trained message is left out. Fails with "data" when the model's own template refuses the conversation or is not
--- prefix-stable where a message is to be trained, with "format" or "unsupported" when it goes wrong.
---@param renderer crucible.chat.Renderer
---@param messages crucible.chat.Message[]
---@param mode string?  of chat.train_on; default "last_assistant"
---@return crucible.chat.Piece[]? pieces, number[]|string weights_or_message, string? code
function chat.render(renderer, messages, mode)
  if not renderer.template then messages = prepared(renderer, messages) end
  local weights, final = weigh(renderer, messages, mode)
  local count = final > 0 and final or #messages
  if renderer.template then
    local pieces, message, code = own_template.render(renderer, messages, weights, count)
    if not pieces then return nil, message, code end
    return pieces, weights
  end
  local pieces = {}
  for i = 1, count do add_turn(pieces, renderer, messages[i], i) end
  return pieces, weights
end

--- The pieces of a prompt: the messages and what opens an assistant's turn. A last message of the
--- assistant's is what is asked for, and left out. Fails as chat.render does.
---@param renderer crucible.chat.Renderer
---@param messages crucible.chat.Message[]
---@return crucible.chat.Piece[]? pieces, string? message, string? code
function chat.prompt(renderer, messages)
  local seen = renderer.template and messages or prepared(renderer, messages)
  local asked = seen[#seen].role == "assistant" and seen[#seen] or nil
  local count = asked and #seen - 1 or #seen
  if renderer.template then return own_template.prompt(renderer, seen, count) end
  local pieces = {}
  for i = 1, count do add_turn(pieces, renderer, seen[i], i) end
  add_header(pieces, renderer, "assistant", count + 1)
  if renderer.thinks and not (asked and thought.present(asked.content)) then
    add_parts(pieces, thought.empty(), count + 1, "header")
  end
  return pieces
end

--- Pieces as text, special tokens by their text.
---@param pieces crucible.chat.Piece[]
---@return string
function chat.text(pieces)
  local parts = {}
  for i, piece in ipairs(pieces) do parts[i] = piece.text end
  return table.concat(parts)
end

--- The text of a piece as its model wants to see it: with the space that SentencePiece expects before a word at the
--- beginning, and that of Llama 2 also behind each special token.
---@param tokenizer crucible.Tokenizer
---@param piece crucible.chat.Piece
---@param first boolean  no piece stands before it
---@return string
function chat.piece_text(tokenizer, piece, first)
  local wanted = first
  if piece.follows == "special" then wanted = tokenizer.prefixes_each end
  return (wanted and tokenizer_module.first_space(tokenizer, piece.text) or "") .. piece.text
end

--- The id of a piece that is one token; nil for text.
---@param tokenizer crucible.Tokenizer
---@param piece crucible.chat.Piece
---@return integer?
function chat.piece_id(tokenizer, piece)
  if piece.ends then return tokenizer.eos end
  if piece.special then return tokenizer:find(piece.text) end
end

--- Ids of a prompt for a conversation. A named renderer's begin with one BOS where the model expects one; a model's own
--- template writes its own. Fails with "unsupported" when the tokenizer lacks a token of the template, and as
--- chat.prompt does.
---@param tokenizer crucible.Tokenizer
---@param messages crucible.chat.Message[]
---@param template string|crucible.chat.Renderer|nil  a name of chat.templates(), or a renderer; default: the model's own
---@return integer[]? ids, string? message, string? code
function chat.prompt_ids(tokenizer, messages, template)
  local fault = chat.fault(messages)
  if fault then errors.raise("chat.prompt_ids: %s", fault) end
  local renderer, pieces, message, code = template, nil, nil, nil
  if type(template) ~= "table" then renderer, message, code = chat.choose(tokenizer, template) end
  if renderer then pieces, message, code = chat.prompt(renderer, messages) end
  if not pieces then return nil, message, code end
  local ids = {}
  for i, piece in ipairs(pieces) do
    local id = chat.piece_id(tokenizer, piece)
    local found = id and { id } or tokenizer:encode(chat.piece_text(tokenizer, piece, i == 1), piece.parse)
    table.move(found, 1, #found, #ids + 1, ids)
  end
  local brings = pieces.whole or ids[1] == tokenizer.bos
  if tokenizer.add_bos and tokenizer.bos and not brings then table.insert(ids, 1, tokenizer.bos) end
  return ids
end

--- The assistant's message in what a model wrote after a prompt (special tokens as text), and whether it
--- came to its end.
---@param renderer crucible.chat.Renderer
---@param text string
---@param eos string?  text of the model's end token
---@return crucible.chat.Message message, boolean finished
function chat.parse(renderer, text, eos)
  local finish
  for _, stop in ipairs { renderer.close or false, renderer.stop or false, eos or false } do
    local at = stop and stop ~= "" and text:find(stop, 1, true)
    if at and (not finish or at < finish) then finish = at end
  end
  local content = finish and text:sub(1, finish - 1) or text
  if renderer.trim then content = trim(content) end
  return { role = "assistant", content = content }, finish ~= nil
end

return chat
