-- A reader of event files for specs: frames with their checksums verified, and the fields of events that
-- specs look at. It shares nothing with the writer but the checksum.
local crc32c = require "crucible.tensorboard.crc32c"

local tfrecord = {}

local function varint(bytes, at)
  local value, shift = 0, 0
  repeat
    local byte = bytes:byte(at)
    value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
  until byte < 0x80
  return value, at
end

-- Fields of a message: a list of { number, value }.
local function fields(bytes)
  local list, at = {}, 1
  while at <= #bytes do
    local key, value
    key, at = varint(bytes, at)
    local kind = key & 7
    if kind == 0 then
      value, at = varint(bytes, at)
    elseif kind == 1 then
      value, at = string.unpack("<d", bytes, at)
    elseif kind == 5 then
      value, at = string.unpack("<f", bytes, at)
    else
      local size
      size, at = varint(bytes, at)
      value, at = bytes:sub(at, at + size - 1), at + size
    end
    list[#list + 1] = { key >> 3, value }
  end
  return list
end

local function field(bytes, number)
  for _, entry in ipairs(fields(bytes)) do
    if entry[1] == number then return entry[2] end
  end
end

local function event_of(bytes)
  return { bytes = bytes, step = field(bytes, 2) or 0, summary = field(bytes, 5), restart = field(bytes, 7) ~= nil }
end

--- The events of a file; raises on a frame that is not whole or whose checksum is wrong.
---@param bytes string
---@return { bytes: string, step: integer, summary: string?, restart: boolean }[]
function tfrecord.events(bytes)
  local events, at = {}, 1
  while at <= #bytes do
    local length, sum = string.unpack("<I8I4", bytes, at)
    assert(sum == crc32c.masked(bytes:sub(at, at + 7)), "checksum of a length")
    local message = bytes:sub(at + 12, at + 11 + length)
    assert(#message == length, "a frame is cut")
    assert(string.unpack("<I4", bytes, at + 12 + length) == crc32c.masked(message), "checksum of a message")
    events[#events + 1], at = event_of(message), at + 16 + length
  end
  return events
end

--- Adds an event's values to scalars (tag → step → number) and texts (tag → string); a restart drops the
--- scalars from its step on.
function tfrecord.take(scalars, texts, event)
  if event.restart then
    for _, steps in pairs(scalars) do
      for step in pairs(steps) do
        if step >= event.step then steps[step] = nil end
      end
    end
  end
  for _, entry in ipairs(event.summary and fields(event.summary) or {}) do
    local tag, value, tensor = field(entry[2], 1), field(entry[2], 2), field(entry[2], 8)
    if value then
      scalars[tag] = scalars[tag] or {}
      scalars[tag][event.step] = value
    end
    if tensor then texts[tag] = field(tensor, 8) end
  end
end

return tfrecord
