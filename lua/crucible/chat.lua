-- Conversations as text for a model: named renderers, each in the wording that a family of models was
-- trained on, and back from what a model wrote to a message.
--
-- A rendered conversation is a list of pieces. Each is encoded apart, so that the ids of what stands
-- before an answer are a prefix of the ids of the whole, and special tokens come from the renderer alone:
-- "<|im_end|>" written by a user stays text. What opens an assistant's turn belongs to the prompt, never
-- to what is trained; the content and the token that ends the turn are.
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local chat = {}

---@class crucible.chat.Message
---@field role "system"|"user"|"assistant"|"tool"
---@field content string
---@field train boolean|number|nil  with train_on = "custom": trained, or by how much

---@class crucible.chat.Piece
---@field text string
---@field special boolean?  the text is that of one special token
---@field ends boolean?     the model's end token, whatever its text; text is ""
---@field message integer   which message it belongs to
---@field part "between"|"header"|"content"|"close"

---@class crucible.chat.Renderer
---@field name string
---@field roles table<string, string>  role → how it is written
---@field close string?    special token that ends a turn; nil: the model's end token ends the assistant's
---@field tokens string[]  special tokens it needs
---@field trim boolean     white space around contents is removed
---@field header fun(written: string): (string|table)[]  pieces before a content; { special } for a token
---@field between string   after a turn, before the next
---@field stop string?     text that ends an answer, for renderers without a token of their own
---@field merge_system boolean?  a system message is put before the first user's

---@type table<string, crucible.chat.Renderer>
local renderers = {
  -- OpenAI's ChatML; SmolLM2, Qwen.
  chatml = {
    roles = { system = "system", user = "user", assistant = "assistant", tool = "tool" },
    tokens = { "<|im_start|>", "<|im_end|>" }, close = "<|im_end|>", between = "\n", trim = false,
    header = function(role) return { { "<|im_start|>" }, role .. "\n" } end,
  },
  -- Llama 3 (model card, "Prompt format").
  llama3 = {
    roles = { system = "system", user = "user", assistant = "assistant", tool = "ipython" },
    tokens = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" }, close = "<|eot_id|>", between = "",
    trim = true,
    header = function(role) return { { "<|start_header_id|>" }, role, { "<|end_header_id|>" }, "\n\n" } end,
  },
  -- Gemma 2 and 3 (model card, "Chat template"); it has no system role.
  gemma = {
    roles = { user = "user", assistant = "model" }, merge_system = true,
    tokens = { "<start_of_turn>", "<end_of_turn>" }, close = "<end_of_turn>", between = "\n", trim = true,
    header = function(role) return { { "<start_of_turn>" }, role .. "\n" } end,
  },
  -- For base models: names before colons, the model's end token after an answer.
  role_colon = {
    roles = { system = "System", user = "User", assistant = "Assistant", tool = "Tool" },
    tokens = {}, between = "\n\n", trim = true, stop = "\n\nUser:",
    header = function(role) return { role .. ":" } end,
  },
}

for name, renderer in pairs(renderers) do renderer.name = name end

--- Names of the renderers, sorted.
---@return string[]
function chat.renderers()
  local names = {}
  for name in pairs(renderers) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The renderer of a name; raises on an unknown one.
---@param name string
---@return crucible.chat.Renderer
function chat.renderer(name)
  local found = renderers[name]
  if not found then
    errors.raise('unknown chat template "%s"%s', tostring(name), suggest.phrase(tostring(name), chat.renderers()))
  end
  return found
end

-- The first special token of a renderer that a tokenizer lacks, or nil.
local function lacking(renderer, tokenizer)
  for _, text in ipairs(renderer.tokens) do
    local id = tokenizer:find(text)
    if not id or not tokenizer:is_special(id) then return text end
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

--- The renderer of a name, checked against a tokenizer; without a name, that of the tokenizer. Fails with
--- "unsupported" when the tokenizer lacks one of its tokens.
---@param tokenizer crucible.Tokenizer
---@param name string?
---@return crucible.chat.Renderer? renderer, string? message, string? code
function chat.choose(tokenizer, name)
  if not name then return chat.for_tokenizer(tokenizer) end
  local renderer = chat.renderer(name)
  local text = lacking(renderer, tokenizer)
  if not text then return renderer end
  return errors.failure("unsupported", 'chat template "%s" needs the token %s, which the tokenizer lacks', name, text)
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

local function trim(text) return text:match "^%s*(.-)%s*$" end

-- One space between a header that ends in no white space ("User:") and its content.
local function seam(renderer, content)
  if renderer.close or content == "" or content:find "^%s" then return "" end
  return " "
end

local function add_turn(pieces, renderer, message, index)
  local content = renderer.trim and trim(message.content) or message.content
  add_header(pieces, renderer, message.role, index)
  pieces[#pieces + 1] = { text = seam(renderer, content) .. content, seam = #seam(renderer, content), message = index,
    part = "content" }
  if renderer.close then
    pieces[#pieces + 1] = { text = renderer.close, special = true, message = index, part = "close" }
  elseif message.role == "assistant" then
    pieces[#pieces + 1] = { text = "", ends = true, message = index, part = "close" }
  end
end

--- The pieces of a conversation, and the weight of each message in training. What follows the last
--- trained message is left out.
---@param renderer crucible.chat.Renderer
---@param messages crucible.chat.Message[]
---@param mode string?  of chat.train_on; default "last_assistant"
---@return crucible.chat.Piece[] pieces, number[] weights
function chat.render(renderer, messages, mode)
  if renderer.merge_system then messages = merge_system(messages) end
  local pieces, weights, last, final = {}, {}, last_assistant(messages), 0
  for i, message in ipairs(messages) do
    local empty = not message.content:find(renderer.trim and "%S" or ".")
    weights[i] = empty and 0 or weight_of(message, i, mode or "last_assistant", last)
    if weights[i] ~= 0 then final = i end
  end
  for i = 1, final > 0 and final or #messages do add_turn(pieces, renderer, messages[i], i) end
  return pieces, weights
end

--- The pieces of a prompt: the messages and what opens an assistant's turn. A last message of the
--- assistant's is what is asked for, and left out.
---@param renderer crucible.chat.Renderer
---@param messages crucible.chat.Message[]
---@return crucible.chat.Piece[]
function chat.prompt(renderer, messages)
  if renderer.merge_system then messages = merge_system(messages) end
  local pieces, count = {}, #messages
  if messages[count].role == "assistant" then count = count - 1 end
  for i = 1, count do add_turn(pieces, renderer, messages[i], i) end
  add_header(pieces, renderer, "assistant", count + 1)
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

local function piece_ids(tokenizer, piece)
  if piece.ends then return { tokenizer.eos } end
  if piece.special then return { tokenizer:find(piece.text) } end
  return tokenizer:encode(piece.text)
end

--- Ids of a prompt for a conversation, with one BOS where the model expects one. Fails with "unsupported"
--- when the tokenizer lacks a token of the template.
---@param tokenizer crucible.Tokenizer
---@param messages crucible.chat.Message[]
---@param name string?  of the renderer; default: the tokenizer's
---@return integer[]? ids, string? message, string? code
function chat.prompt_ids(tokenizer, messages, name)
  local fault = chat.fault(messages)
  if fault then errors.raise("chat.prompt_ids: %s", fault) end
  local renderer, message, code = chat.choose(tokenizer, name)
  if not renderer then return nil, message, code end
  local ids, pieces = {}, chat.prompt(renderer, messages)
  if tokenizer.space_prefix and not pieces[1].special then pieces[1].text = " " .. pieces[1].text end
  for _, piece in ipairs(pieces) do
    local found = piece_ids(tokenizer, piece)
    table.move(found, 1, #found, #ids + 1, ids)
  end
  if tokenizer.add_bos and tokenizer.bos and ids[1] ~= tokenizer.bos then table.insert(ids, 1, tokenizer.bos) end
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
