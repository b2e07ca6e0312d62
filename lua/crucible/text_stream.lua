-- Text that arrives in pieces and may be cut by a stop text. What could still become a stop text,
-- and bytes of an unfinished UTF-8 character, are held back until it is clear.
---@class crucible.TextStream
---@field text string  released so far
---@field stopped boolean  a stop text was met; it is not part of the text
local TextStream = {}
TextStream.__index = TextStream

local text_stream = {}

--- A stream that ends at any of the texts.
---@param stop_texts string[]
---@return crucible.TextStream
function text_stream.new(stop_texts)
  return setmetatable({ stops = stop_texts, held = "", text = "", stopped = false }, TextStream)
end

local function first_stop(text, stops)
  local first
  for _, stop in ipairs(stops) do
    local at = text:find(stop, 1, true)
    if at and (not first or at < first) then first = at end
  end
  return first
end

-- Length of the longest end of `text` that begins a stop text.
local function stop_prefix(text, stops)
  local longest = 0
  for _, stop in ipairs(stops) do
    for length = math.min(#stop - 1, #text), longest + 1, -1 do
      if text:sub(-length) == stop:sub(1, length) then
        longest = length
        break
      end
    end
  end
  return longest
end

local function sequence_length(lead)
  if lead >= 0xF0 and lead <= 0xF4 then return 4 end
  if lead >= 0xE0 then return lead <= 0xEF and 3 or 1 end
  return lead >= 0xC2 and 2 or 1
end

-- Length of the unfinished character at the end of `text`.
local function unfinished(text)
  for back = 1, math.min(3, #text) do
    local byte = text:byte(-back)
    if byte < 0x80 then return 0 end
    if byte >= 0xC0 then return sequence_length(byte) > back and back or 0 end
  end
  return 0
end

local function release(self, length)
  local out = self.held:sub(1, length)
  self.held = self.held:sub(length + 1)
  self.text = self.text .. out
  return out
end

--- Adds a piece; returns the text that is now certain.
---@param piece string
---@return string released
function TextStream:push(piece)
  if self.stopped then return "" end
  self.held = self.held .. piece
  local at = first_stop(self.held, self.stops)
  if at then
    local out = release(self, at - 1)
    self.held, self.stopped = "", true
    return out
  end
  return release(self, #self.held - math.max(stop_prefix(self.held, self.stops), unfinished(self.held)))
end

--- The end: what was held back is text after all.
---@return string released
function TextStream:finish() return release(self, #self.held) end

return text_stream
