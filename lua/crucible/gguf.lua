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

--- The values of a tensor, row-major.
---@param path string
---@param name string
---@return number[]? values, string? message, string? code
function gguf.values(path, name) return core.read_gguf_tensor(path, name) end

return gguf
