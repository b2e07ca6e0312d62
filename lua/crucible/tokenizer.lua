-- A model's tokenizer, and how a prompt and its answer become ids.
--
-- Prompt and answer are encoded apart, so that the prompt's ids are always a prefix of the
-- row's, whatever the vocabulary would merge across the seam. Between them stands exactly one
-- space when neither side brings white space of its own ("Verdict:" + "SUPPORT" gives
-- " SUPPORT"). Text never turns into special tokens unless asked; a BOS is added when the model
-- expects one.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local models = require "crucible.models"

---@class crucible.Tokenizer
---@field bos integer?  id of the token before a text
---@field eos integer?  id of the token that ends an answer
---@field add_bos boolean  the model expects a BOS
---@field space_prefix boolean  and a space before the first word
---@field prefixes_each boolean  and behind each special token
---@field prefix_unless_spaced boolean  but none before a text that begins with one
---@field chat_template string  Jinja source that came with the model, or ""
---@field size integer  ids are 0..size-1
local Tokenizer = { __name = "crucible.tokenizer" }
Tokenizer.__index = Tokenizer

local tokenizer = {}

--- Wraps a tokenizer of crucible.core.
---@param core crucible.core.Tokenizer
---@param chat_template string?  the model's
---@return crucible.Tokenizer
function tokenizer.wrap(core, chat_template)
  local info = core:info()
  return setmetatable({
    core = core, bos = info.bos, eos = info.eos, add_bos = info.add_bos, size = info.size, model = info.model,
    space_prefix = info.space_prefix, prefixes_each = info.prefixes_each,
    prefix_unless_spaced = info.prefix_unless_spaced, chat_template = chat_template or "",
  }, Tokenizer)
end

--- The tokenizer of a model given by name or path.
---@param name_or_path string
---@return crucible.Tokenizer? tokenizer, string? message, string? code
function tokenizer.open(name_or_path)
  local path, message, code = models.resolve(name_or_path)
  if not path then return nil, message, code end
  local model
  model, message, code = require("crucible.core").open_model(path)
  if not model then return nil, message, code end
  return tokenizer.wrap(model:tokenizer(), model:info().chat_template)
end

--- Ids of a text, nothing added. `parse_special`: the text of special tokens becomes their ids.
---@param text string
---@param parse_special boolean?
---@return integer[]
function Tokenizer:encode(text, parse_special) return self.core:encode(text, parse_special) end

--- The same for many texts at once, on several threads (default: as many as may be used).
---@param texts string[]
---@param parse_special boolean?
---@param threads integer?
---@return integer[][]? ids, string? message, string? code
function Tokenizer:encode_all(texts, parse_special, threads)
  return self.core:encode_all(texts, parse_special, threads)
end

--- Where each token ends, in bytes of the text that decode gives of the same ids.
---@param ids integer[]
---@return integer[]? ends, string? message, string? code
function Tokenizer:ends(ids) return self.core:ends(ids) end

--- Text of ids; special tokens as their text unless `skip_special`.
---@param ids integer[]
---@param skip_special boolean?
---@return string
function Tokenizer:decode(ids, skip_special) return self.core:decode(ids, skip_special) end

--- The id whose text is exactly `text`, or nil.
---@param text string
---@return integer?
function Tokenizer:find(text) return self.core:find(text) end

---@param id integer
---@return boolean
function Tokenizer:is_special(id) return self.core:is_special(id) end

--- model, pretokenizer, size, bos, eos, pad, unknown, add_bos.
---@return table
function Tokenizer:info() return self.core:info() end

--- What tells this tokenizer from others: a SHA-256 over its vocabulary, special tokens and settings, and over
--- what it makes of its own vocabulary's text, in which every merge has a part. Found once and kept.
---@return string
function Tokenizer:digest()
  if not self.known_digest then
    local all, info = {}, self.core:info()
    for id = 0, self.size - 1 do all[id + 1] = id end
    local vocabulary = self.core:decode(all)
    self.known_digest = fs.sha256(table.concat({
      info.model, info.pretokenizer, tostring(info.bos), tostring(info.eos), tostring(info.add_bos),
      tostring(info.space_prefix), tostring(info.prefixes_each), tostring(info.prefix_unless_spaced),
      tostring(info.composes),
      table.concat(self.core:ends(all), " "), table.concat(self.core:encode(vocabulary), " "),
      table.concat(self.core:encode(vocabulary, true), " "), vocabulary,
    }, "\n"))
  end
  return self.known_digest
end

--- The space that a model expects before the first word of a text: " " or "".
---@param tok crucible.Tokenizer
---@param text string
---@return string
function tokenizer.first_space(tok, text)
  if not tok.space_prefix or text == "" then return "" end
  return tok.prefix_unless_spaced and text:sub(1, 1) == " " and "" or " "
end

--- Ids of a prompt as the model wants to see it: with one BOS if it expects one, and a space before
--- the first word if it expects that.
---@param text string
---@return integer[]
function Tokenizer:prompt(text)
  local ids = self.core:encode(tokenizer.first_space(self, text) .. text)
  if self.add_bos and self.bos and ids[1] ~= self.bos then table.insert(ids, 1, self.bos) end
  return ids
end

--- The space that belongs between a prompt and its answer: " " or "".
---@param prompt string
---@param answer string
---@return string
function tokenizer.seam(prompt, answer)
  if prompt == "" or answer == "" then return "" end
  if prompt:find("%s$") or answer:find("^%s") then return "" end
  return " "
end

--- Ids of an answer after a prompt, without the prompt's and without an end token.
---@param prompt string
---@param answer string
---@return integer[]
function Tokenizer:answer(prompt, answer) return self.core:encode(tokenizer.seam(prompt, answer) .. answer) end

--- Ids of a prompt given as text or as ids (which are copied as they are).
---@param prompt string|integer[]
---@return integer[]
function Tokenizer:prompt_ids(prompt)
  if type(prompt) == "string" then return self:prompt(prompt) end
  if type(prompt) ~= "table" then errors.raise("a prompt is a string or a list of ids, got a %s", type(prompt)) end
  return table.move(prompt, 1, #prompt, 1, {})
end

function Tokenizer:__len() return self.size end

function Tokenizer:__tostring()
  return ("crucible.tokenizer(%s, %d tokens)"):format(self.model, self.size)
end

return setmetatable(tokenizer, { __call = function(_, name_or_path) return tokenizer.open(name_or_path) end })
