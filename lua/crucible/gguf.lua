-- GGUF files as they stand, whatever is in them.
local core = require "crucible.core"

local gguf = {}

--- Keys by name and the table of tensors of a file.
---@param path string
---@return { keys: table<string, any>, tensors: crucible.core.GgufTensor[] }? file, string? message, string? code
function gguf.read(path) return core.read_gguf(path) end

--- Gives a number that a file left blank its value, in place.
---@param path string
---@param key string
---@param value number
---@return true? ok, string? message, string? code
function gguf.set_number(path, key, value) return core.set_gguf_number(path, key, value) end

--- The values of a tensor of f32.
---@param path string
---@param tensor crucible.core.GgufTensor
---@return number[]? values, string? message, string? code
function gguf.floats(path, tensor)
  local handle, message = io.open(path, "rb")
  if not handle then return nil, message, "io" end
  local file <close> = handle
  file:seek("set", tensor.offset)
  local bytes = file:read(tensor.bytes)
  if not bytes or #bytes < tensor.bytes then return nil, path .. ": the file ends early", "io" end
  local values = {}
  for i = 1, tensor.bytes // 4 do values[i] = string.unpack("<f", bytes, 4 * i - 3) end
  return values
end

return gguf
