-- The protobuf dialect, over the C module; tables are those of the JSON dialect.
local core = require "crucible.core"
local errors = require "crucible.errors"

local codec = {}

--- What a protobuf body may be told to be.
---@alias crucible.tinker.Expectation "pass"|"sample"

local readers = {
  pass = function(bytes) return core.tinker.decode_pass(bytes) end,
  sample = function(bytes) return core.tinker.decode_sample(bytes) end,
}

--- Value of a protobuf body.
---@param bytes string
---@param expects crucible.tinker.Expectation?
---@return table? value, string? message, string? code
function codec.decode(bytes, expects)
  local read = readers[expects]
  if not read then return errors.failure("format", "protobuf where JSON was expected") end
  return read(bytes)
end

--- Bytes of a pass.
---@param body table
---@return string
function codec.encode_pass(body)
  local bytes, message = core.tinker.encode_pass(body)
  if not bytes then errors.raise("%s", message) end
  return bytes
end

return codec
