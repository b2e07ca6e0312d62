-- A tokenizer whose tokens are bytes, but for a few longer ones: candidates are then placed by eye.
local byte_tokenizer = {}
byte_tokenizer.__index = byte_tokenizer

local END = 256 -- the end token; longer tokens follow

--- `longer`: texts that are tokens of their own wherever they stand, tried in order.
---@param longer string[]?
---@return table
function byte_tokenizer.new(longer)
  return setmetatable({ eos = END, longer = longer or {} }, byte_tokenizer)
end

function byte_tokenizer:encode(text)
  local ids, at = {}, 1
  while at <= #text do
    local id, length = text:byte(at), 1
    for k, piece in ipairs(self.longer) do
      if text:sub(at, at + #piece - 1) == piece then
        id, length = END + k, #piece
        break
      end
    end
    ids[#ids + 1] = id
    at = at + length
  end
  return ids
end

function byte_tokenizer:decode(ids)
  local parts = {}
  for i, id in ipairs(ids) do
    parts[i] = id < END and string.char(id) or id == END and "<end>" or self.longer[id - END]
  end
  return table.concat(parts)
end

function byte_tokenizer:ends(ids)
  local ends, at = {}, 0
  for i, id in ipairs(ids) do
    at = at + #self:decode { id }
    ends[i] = at
  end
  return ends
end

function byte_tokenizer.is_special(_, id) return id == END end

--- A datum of a prompt and an answer, with an end token unless `open`.
---@param prompt string
---@param answer string
---@param fields { metadata: table?, open: boolean? }?
---@return table
function byte_tokenizer:datum(prompt, answer, fields)
  fields = fields or {}
  local tokens, ids = self:encode(prompt), self:encode(answer)
  local before = #tokens
  table.move(ids, 1, #ids, before + 1, tokens)
  if not fields.open then tokens[#tokens + 1] = END end
  local weights = {}
  for t = 1, #tokens - 1 do weights[t] = t >= before and 1 or 0 end
  return { tokens = tokens, weights = weights, prompt_length = before, metadata = fields.metadata, tokenizer = self }
end

return byte_tokenizer
