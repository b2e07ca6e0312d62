-- Tokenised rows kept on disk, by the digest of what they were made of: texts, weights, tokenizer and options.
-- A file that is cut short, damaged or of something else is made anew; one that cannot be written is done
-- without. Files stay until they are removed by hand.
local core = require "crucible.core"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"

local token_cache = {}

local FORMAT = "1" -- of how rows become tokens: another when that changes
local ROWS_AT_ONCE = 1024

--- The folder where the files lie unless another is named.
---@return string
function token_cache.folder() return paths.join(paths.cache(), "tokens") end

-- A row's texts and numbers as one string that no other row has.
local function packed(row)
  local parts = { string.pack("<d", row.weight or 1) }
  if row.messages then
    parts[2] = json.encode { row.messages, row.template or "", row.train_on or "" }
  else
    parts[2] = string.pack("<s8s8", row.input, row.output)
  end
  return string.pack("<s8", table.concat(parts))
end

--- The digest of rows, a tokenizer and options.
---@param tokenizer crucible.Tokenizer
---@param rows table[]
---@param options table<string, any>  plain values
---@return string
function token_cache.key(tokenizer, rows, options)
  local digest = fs.sha256(FORMAT .. tokenizer:digest() .. json.encode(options))
  for first = 1, #rows, ROWS_AT_ONCE do
    local parts = { digest }
    for i = first, math.min(first + ROWS_AT_ONCE - 1, #rows) do parts[#parts + 1] = packed(rows[i]) end
    digest = fs.sha256(table.concat(parts))
  end
  return digest
end

local function path_of(folder, key) return paths.join(folder, key .. ".tokens") end

-- A list of datums that are made when they are asked for. One that somebody holds is not made twice.
local function datums_of(file, rows, tokenizer)
  local held = setmetatable({}, { __mode = "v" })
  return setmetatable({}, {
    __name = "crucible.tokens",
    __len = function() return #file end,
    __index = function(_, i)
      if math.type(i) ~= "integer" or i < 1 or i > #file then return nil end
      local datum = held[i]
      if not datum then
        datum = file:row(i)
        datum.metadata, datum.tokenizer = rows[datum.row].metadata, tokenizer
        held[i] = datum
      end
      return datum
    end,
  })
end

--- The datums of rows from a file made before, and what was counted then; nil when there is none that is whole.
---@param folder string
---@param key string
---@param rows table[]
---@param tokenizer crucible.Tokenizer
---@return table[]? datums, crucible.lora.datums.Counts? counts
function token_cache.load(folder, key, rows, tokenizer)
  local file = core.open_tokens(path_of(folder, key), key)
  if not file then return nil end
  return datums_of(file, rows, tokenizer), file:counts()
end

---@class crucible.lora.TokenWriter
local Writer = {}
Writer.__index = Writer

--- Starts a file.
---@param folder string
---@param key string
---@return crucible.lora.TokenWriter? writer, string? message, string? code
function token_cache.writer(folder, key)
  local handle, message, code = core.write_tokens()
  if not handle then return nil, message, code end
  return setmetatable({ handle = handle, path = path_of(folder, key), key = key }, Writer)
end

--- Adds a datum.
---@param datum table
---@return true? ok, string? message, string? code
function Writer:add(datum) return self.handle:add(datum) end

--- Writes the file.
---@param counts crucible.lora.datums.Counts
---@return true? ok, string? message, string? code
function Writer:commit(counts)
  local ok, message, code = self.handle:commit(self.path, self.key, {
    rows = counts.rows, truncated = counts.truncated, dropped = counts.dropped,
  })
  self.handle:close()
  return ok, message, code
end

return token_cache
