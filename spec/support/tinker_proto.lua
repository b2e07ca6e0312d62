-- The server's half of the Tinker API's protobuf dialect, written apart from csrc/net/tinker.c so that
-- the two check each other: reads requests, writes answers.
local writer = require "crucible.tensorboard.protobuf"

local proto = {}

-- ---- reading -------------------------------------------------------------------------------------

local function varint(bytes, at)
  local value, shift = 0, 0
  while true do
    local byte = bytes:byte(at)
    if not byte then error("the bytes end within a number", 0) end
    value, at = value | (byte & 127) << shift, at + 1
    if byte < 128 then return value, at end
    shift = shift + 7
  end
end

-- The fields of a message: number, value.
local function fields(bytes)
  local at = 1
  return function()
    if at > #bytes then return nil end
    local key, value
    key, at = varint(bytes, at)
    local kind = key & 7
    if kind == 0 then
      value, at = varint(bytes, at)
    elseif kind == 1 then
      value, at = string.unpack("<d", bytes, at)
    elseif kind == 2 then
      local length
      length, at = varint(bytes, at)
      if at + length - 1 > #bytes then error("the bytes end within a field", 0) end
      value, at = bytes:sub(at, at + length - 1), at + length
    elseif kind == 5 then
      value, at = string.unpack("<f", bytes, at)
    else
      error("field of kind " .. kind, 0)
    end
    return key >> 3, value
  end
end

-- Numbers of a fixed format back to back.
local function unpack_all(format, bytes)
  local list, width = {}, string.packsize(format)
  if #bytes % width ~= 0 then error("no whole number of values", 0) end
  for at = 1, #bytes, width do list[#list + 1] = (string.unpack(format, bytes, at)) end
  return list
end

local function entry(bytes)
  local key, value = "", nil
  for number, given in fields(bytes) do
    if number == 1 then key = given else value = given end
  end
  return key, value
end

local function read_tensor(bytes)
  local tensor, dense = { shape = {} }, ""
  for number, value in fields(bytes) do
    if number == 1 then dense = value end
    if number == 3 then tensor.dtype = value == 1 and "float32" or value == 2 and "int64" or error("dtype", 0) end
    if number == 4 then
      local at = 1
      while at <= #value do tensor.shape[#tensor.shape + 1], at = varint(value, at) end
    end
  end
  tensor.data = unpack_all(tensor.dtype == "float32" and "<f" or "<i8", dense)
  return tensor
end

local function read_chunk(bytes)
  local tokens = {}
  for number, value in fields(bytes) do
    if number ~= 1 then error("only text is read", 0) end
    for inner, packed in fields(value) do
      if inner == 1 then tokens = unpack_all("<i4", packed) end
    end
  end
  return { type = "encoded_text", tokens = tokens }
end

local function read_datum(bytes)
  local datum = { model_input = { chunks = {} }, loss_fn_inputs = {} }
  for number, value in fields(bytes) do
    if number == 1 then table.insert(datum.model_input.chunks, read_chunk(value)) end
    if number == 2 then
      local name, tensor = entry(value)
      datum.loss_fn_inputs[name] = read_tensor(tensor)
    end
  end
  return datum
end

--- A ForwardBackwardRequest as the JSON dialect's table, and whether it asks for no gradients. Raises on damage.
---@param bytes string
---@return table body, boolean forward_only
function proto.read_request(bytes)
  local body, input, forward_only = {}, { data = {} }, false
  for number, value in fields(bytes) do
    if number == 1 then body.model_id = value end
    if number == 2 then body.seq_id = value end
    if number == 3 then table.insert(input.data, read_datum(value)) end
    if number == 4 then input.loss_fn = value end
    if number == 5 then
      local name, setting = entry(value)
      input.loss_fn_config = input.loss_fn_config or {}
      input.loss_fn_config[name] = setting
    end
    if number == 6 then forward_only = value ~= 0 end
  end
  body.forward_backward_input = input
  return body, forward_only
end

-- ---- writing -------------------------------------------------------------------------------------

local function pack_all(format, list)
  local parts = {}
  for i, value in ipairs(list) do parts[i] = string.pack(format, value) end
  return table.concat(parts)
end

local function batched(lists)
  local parts, offsets, size = {}, { 0 }, 0
  for i, list in ipairs(lists) do
    parts[i] = pack_all("<f", list)
    size = size + #parts[i]
    offsets[i + 1] = size
  end
  return writer.bytes(1, table.concat(parts)) .. writer.bytes(2, pack_all("<i8", offsets)) .. writer.integer(3, 1)
end

--- A ForwardBackwardOutput: one list of log-probabilities a datum.
---@param kind string
---@param logprobs number[][]
---@param metrics table<string, number>
---@return string
function proto.write_output(kind, logprobs, metrics)
  local field = writer.bytes(1, "logprobs") .. writer.bytes(2, batched(logprobs))
  local record = writer.bytes(1, kind) .. writer.bytes(2, field) .. writer.integer(3, #logprobs)
  local parts = { writer.bytes(1, "server.types:" .. kind), writer.bytes(2, record) }
  for name, value in pairs(metrics) do
    parts[#parts + 1] = writer.bytes(3, writer.bytes(1, name) .. writer.double(2, value))
  end
  return table.concat(parts)
end

--- A SampleResponse.
---@param result { sequences: table[], prompt_logprobs: number[]? }
---@return string
function proto.write_samples(result)
  local parts = {}
  for i, sequence in ipairs(result.sequences) do
    parts[i] = writer.bytes(1, (sequence.stop_reason == "length" and writer.integer(1, 1) or "")
      .. writer.bytes(2, pack_all("<i4", sequence.tokens)) .. writer.bytes(3, pack_all("<f", sequence.logprobs)))
  end
  if result.prompt_logprobs then
    local values = {}
    for i, value in ipairs(result.prompt_logprobs) do values[i] = type(value) == "number" and value or 0 / 0 end
    parts[#parts + 1] = writer.bytes(2, pack_all("<f", values))
  end
  return table.concat(parts)
end

return proto
