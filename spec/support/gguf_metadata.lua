-- Copies a GGUF file with other keys: how specs make files whose metadata is wrong.
local gguf_metadata = {}

local SIZES = { [0] = 1, 1, 2, 2, 4, 4, 4, 1, [10] = 8, [11] = 8, [12] = 8 }
local STRING, ARRAY = 8, 9

-- ---- values: the type's number and the bytes behind it ---------------------------------------------

function gguf_metadata.u32(value) return string.pack("<I4I4", 4, value) end
function gguf_metadata.f32(value) return string.pack("<I4f", 6, value) end
function gguf_metadata.bool(value) return string.pack("<I4I1", 7, value and 1 or 0) end
function gguf_metadata.text(value) return string.pack("<I4s8", STRING, value) end

local function array(element, format, values)
  local parts = { string.pack("<I4I4I8", ARRAY, element, #values) }
  for _, value in ipairs(values) do parts[#parts + 1] = string.pack(format, value) end
  return table.concat(parts)
end

function gguf_metadata.texts(values) return array(STRING, "<s8", values) end
function gguf_metadata.i32s(values) return array(5, "<i4", values) end

-- ---- reading ----------------------------------------------------------------------------------------

local function skip_text(bytes, at)
  local length, start = string.unpack("<I8", bytes, at)
  return start + length
end

local function skip_value(bytes, at)
  local kind
  kind, at = string.unpack("<I4", bytes, at)
  if kind == STRING then return skip_text(bytes, at) end
  if kind ~= ARRAY then return at + SIZES[kind] end
  local element, count
  element, count, at = string.unpack("<I4I8", bytes, at)
  if element ~= STRING then return at + count * SIZES[element] end
  for _ = 1, count do at = skip_text(bytes, at) end
  return at
end

local function skip_tensors(bytes, at, count)
  for _ = 1, count do
    local dims
    dims, at = string.unpack("<I4", bytes, skip_text(bytes, at))
    at = at + 8 * dims + 4 + 8
  end
  return at
end

local function align(size) return (size + 31) // 32 * 32 end

local function parse(bytes)
  local file = { names = {}, values = {} }
  local count, at
  file.version, file.tensors, count, at = string.unpack("<I4I8I8", bytes, 5)
  for i = 1, count do
    local start
    file.names[i], start = string.unpack("<s8", bytes, at)
    at = skip_value(bytes, start)
    file.values[file.names[i]] = bytes:sub(start, at - 1)
  end
  local table_end = skip_tensors(bytes, at, file.tensors)
  file.table = bytes:sub(at, table_end - 1)
  file.data = bytes:sub(align(table_end - 1) + 1)
  return file
end

local function read_file(path)
  local handle <close> = assert(io.open(path, "rb"))
  return handle:read("a")
end

--- The strings or integers of an array key.
---@param path string
---@param key string
---@return any[]
function gguf_metadata.list(path, key)
  local value, out = parse(read_file(path)).values[key], {}
  local _, element, count, at = string.unpack("<I4I4I8", value)
  for i = 1, count do out[i], at = string.unpack(element == STRING and "<s8" or "<i4", value, at) end
  return out
end

--- The values of all keys, as bytes: for other files' changes.
---@param path string
---@return table<string, string>
function gguf_metadata.values(path) return parse(read_file(path)).values end

-- ---- writing ----------------------------------------------------------------------------------------

--- Writes `source` to `target` with the values of `changes`; false leaves a key out.
---@param source string
---@param target string
---@param changes table<string, string|false>
function gguf_metadata.copy(source, target, changes)
  local file, keys = parse(read_file(source)), {}
  for _, name in ipairs(file.names) do
    local value = changes[name]
    if value == nil then value = file.values[name] end
    if value then keys[#keys + 1] = string.pack("<s8", name) .. value end
  end
  for name, value in pairs(changes) do
    if value and not file.values[name] then keys[#keys + 1] = string.pack("<s8", name) .. value end
  end
  local head = "GGUF" .. string.pack("<I4I8I8", file.version, file.tensors, #keys) .. table.concat(keys) .. file.table
  local handle <close> = assert(io.open(target, "wb"))
  assert(handle:write(head, ("\0"):rep(align(#head) - #head), file.data))
end

local function table_entry(tensor, offset)
  local dims = #tensor.shape
  local sizes = {}
  for i = dims, 1, -1 do sizes[#sizes + 1] = tensor.shape[i] end
  sizes[dims + 1], sizes[dims + 2] = 0, offset -- type F32
  return string.pack("<s8I4" .. ("I8"):rep(dims) .. "I4I8", tensor.name, dims, table.unpack(sizes))
end

--- Writes a file of f32 tensors.
---@param target string
---@param values table<string, string>  keys, as the functions above make them
---@param tensors { name: string, shape: integer[], bytes: string }[]  shapes outermost first
function gguf_metadata.write(target, values, tensors)
  local keys, entries, data, offset = {}, {}, {}, 0
  for name, value in pairs(values) do keys[#keys + 1] = string.pack("<s8", name) .. value end
  for i, tensor in ipairs(tensors) do
    local size = #tensor.bytes
    entries[i] = table_entry(tensor, offset)
    data[i] = tensor.bytes .. ("\0"):rep(align(size) - size)
    offset = offset + align(size)
  end
  local head = "GGUF" .. string.pack("<I4I8I8", 3, #tensors, #keys) .. table.concat(keys) .. table.concat(entries)
  local handle <close> = assert(io.open(target, "wb"))
  assert(handle:write(head, ("\0"):rep(align(#head) - #head), table.concat(data)))
end

return gguf_metadata
