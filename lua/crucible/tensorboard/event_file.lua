-- Event files that TensorBoard reads: TFRecord frames, each around one Event message with scalars,
-- histograms or texts (tensorflow/core/util/event.proto, framework/summary.proto; field numbers below).
--
-- A frame is: length (8 bytes, little-endian), masked CRC-32C of those, the message, its masked CRC-32C.
local crc32c = require "crucible.tensorboard.crc32c"
local fs = require "crucible.fs"
local paths = require "crucible.paths"
local protobuf = require "crucible.tensorboard.protobuf"
local utc = require "crucible.utc"

local event_file = {}

---@class crucible.tensorboard.EventFile
---@field path string
local EventFile = { __name = "crucible.tensorboard.event_file" }
EventFile.__index = EventFile

local VERSION = "brain.Event:2"
local SESSION_START = 1
local DT_STRING = 7

-- ---- messages ------------------------------------------------------------------------------

--- One TFRecord frame around some bytes.
---@param bytes string
---@return string
function event_file.frame(bytes)
  local length = string.pack("<I8", #bytes)
  return table.concat {
    length, string.pack("<I4", crc32c.masked(length)), bytes, string.pack("<I4", crc32c.masked(bytes)),
  }
end

-- Event: wall_time 1, step 2 (left out when 0, proto3's default), file_version 3, summary 5, session_log 7.
local function event(wall_time, step, field)
  return protobuf.double(1, wall_time) .. (step == 0 and "" or protobuf.integer(2, step)) .. field
end

-- Summary.Value: tag 1, simple_value 2, histo 5, tensor 8, metadata 9; in Summary.value 1.
local function summary_value(tag, fields) return protobuf.bytes(1, protobuf.bytes(1, tag) .. fields) end

local function scalar(tag, value) return summary_value(tag, protobuf.float(2, value)) end

-- HistogramProto: min 1, max 2, num 3, sum 4, sum_squares 5, bucket_limit 6, bucket 7.
local function histogram(tag, h)
  local fields = table.concat {
    protobuf.double(1, h.min), protobuf.double(2, h.max), protobuf.double(3, h.num), protobuf.double(4, h.sum),
    protobuf.double(5, h.sum_squares), protobuf.doubles(6, h.limits), protobuf.doubles(7, h.counts),
  }
  return summary_value(tag, protobuf.bytes(5, fields))
end

-- TensorProto: dtype 1, tensor_shape 2, string_val 8. SummaryMetadata.plugin_data 1 names the plugin.
local function text(tag, value)
  local is_list = type(value) == "table"
  local shape = is_list and protobuf.bytes(2, protobuf.integer(1, #value)) or "" -- one dimension, or none
  local fields = { protobuf.integer(1, DT_STRING), protobuf.bytes(2, shape) }
  for _, line in ipairs(is_list and value or { value }) do fields[#fields + 1] = protobuf.bytes(8, line) end
  local metadata = protobuf.bytes(1, protobuf.bytes(1, "text"))
  return summary_value(tag, protobuf.bytes(8, table.concat(fields)) .. protobuf.bytes(9, metadata))
end

-- ---- the file ------------------------------------------------------------------------------

-- Names sort in the order of their making: readers go through them so.
local function unused_path(folder, seconds)
  local number = 0
  while true do
    local path = paths.join(folder, ("events.out.tfevents.%010d.crucible.%d"):format(seconds, number))
    if not paths.stat(path) then return path end
    number = number + 1
  end
end

--- A new event file in a folder, which is made. Events are kept until `flush` or `close`.
---@param folder string
---@param options { resumed_at: integer?, now: (fun(): number)? }?  resumed_at: the first step of a run that goes
---  on; what earlier files of the folder hold from there on no longer counts. now: seconds since 1970
---@return crucible.tensorboard.EventFile? file, string? message, string? code
function event_file.create(folder, options)
  local ok, message, code = fs.make_folder(folder)
  if not ok then return nil, message, code end
  local now = options and options.now or utc.time
  local self = setmetatable({ path = unused_path(folder, math.floor(now())), now = now, pending = {} }, EventFile)
  self:add(0, protobuf.bytes(3, VERSION))
  local resumed_at = options and options.resumed_at
  if resumed_at then self:add(resumed_at, protobuf.bytes(7, protobuf.integer(1, SESSION_START))) end
  ok, message, code = self:flush()
  if not ok then return nil, message, code end
  return self
end

function EventFile:add(step, field)
  self.pending[#self.pending + 1] = event_file.frame(event(self.now() + 0.0, step, field))
end

local function sorted_names(values)
  local names = {}
  for name in pairs(values) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Numbers by tag, as one event. NaN and infinities are kept as they are.
---@param step integer
---@param values table<string, number>
function EventFile:scalars(step, values)
  local parts = {}
  for i, tag in ipairs(sorted_names(values)) do parts[i] = scalar(tag, values[tag]) end
  if #parts > 0 then self:add(step, protobuf.bytes(5, table.concat(parts))) end
end

---@class crucible.tensorboard.Histogram
---@field limits number[]     upper ends of the buckets, rising
---@field counts number[]
---@field min number
---@field max number
---@field num number          values in all
---@field sum number
---@field sum_squares number

--- A histogram.
---@param step integer
---@param tag string
---@param value crucible.tensorboard.Histogram
function EventFile:histogram(step, tag, value) self:add(step, protobuf.bytes(5, histogram(tag, value))) end

--- A text, which TensorBoard shows as Markdown; a list is shown as a table of one column.
---@param step integer
---@param tag string
---@param value string|string[]
function EventFile:text(step, tag, value)
  self:add(step, protobuf.bytes(5, text(tag, value)))
end

--- Writes what is kept.
---@return true? ok, string? message, string? code
function EventFile:flush()
  if #self.pending == 0 then return true end
  local bytes = table.concat(self.pending)
  self.pending = {}
  return fs.append_file(self.path, bytes)
end

--- Writes what is kept, for the last time.
---@return true? ok, string? message, string? code
function EventFile:close() return self:flush() end

function EventFile:__tostring() return ("%s(%s)"):format(EventFile.__name, self.path) end

return event_file
