-- Fields of Protocol Buffers messages as bytes: just what event files need. A message is the
-- concatenation of its fields; each function gives one field, by number.
local protobuf = {}

local VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5

local function varint(value)
  local parts = {}
  repeat
    local low = value & 0x7F
    value = value >> 7 -- logical: negative numbers take ten bytes, as they must
    parts[#parts + 1] = string.char(value ~= 0 and low | 0x80 or low)
  until value == 0
  return table.concat(parts)
end

local function key(number, kind) return varint(number << 3 | kind) end

--- int64, enum, bool
---@param number integer
---@param value integer
---@return string
function protobuf.integer(number, value) return key(number, VARINT) .. varint(value) end

---@param number integer
---@param value number
---@return string
function protobuf.double(number, value) return key(number, DOUBLE) .. string.pack("<d", value) end

---@param number integer
---@param value number
---@return string
function protobuf.float(number, value) return key(number, FLOAT) .. string.pack("<f", value) end

--- string, bytes, message
---@param number integer
---@param bytes string
---@return string
function protobuf.bytes(number, bytes) return key(number, BYTES) .. varint(#bytes) .. bytes end

--- repeated double, packed
---@param number integer
---@param values number[]
---@return string
function protobuf.doubles(number, values)
  local parts = {}
  for i, value in ipairs(values) do parts[i] = string.pack("<d", value) end
  return protobuf.bytes(number, table.concat(parts))
end

return protobuf
