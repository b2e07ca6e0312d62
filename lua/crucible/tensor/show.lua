-- tostring of a tensor: values in nested brackets, long axes cut to their ends, type and shape.
local graph = require "crucible.tensor.graph"

local Tensor, array = graph.Tensor, graph.array

local WHOLE = 100 -- values that are all shown
local ENDS = 3 -- shown of each end of a longer axis

-- Positions of an axis that are shown; 0 stands for those left out.
local function shown_positions(size, cut)
  local list = {}
  for i = 1, size do
    if not cut or size <= 2 * ENDS or i <= ENDS or i > size - ENDS then
      list[#list + 1] = i
    elseif i == ENDS + 1 then
      list[#list + 1] = 0
    end
  end
  return list
end

-- Calls visit with the positions of every shown value.
local function each_shown(shape, cut, visit, place)
  place = place or {}
  if #place == #shape then return visit(place) end
  for _, i in ipairs(shown_positions(shape[#place + 1], cut)) do
    if i > 0 then
      place[#place + 1] = i
      each_shown(shape, cut, visit, place)
      place[#place] = nil
    end
  end
end

-- One format for all: integers as such, else four digits behind the point, or in powers of ten when
-- the sizes differ too much for that.
local function choose_format(values)
  local whole, largest, smallest = true, 0, math.huge
  for _, value in ipairs(values) do
    local size = math.abs(value)
    if size == size and size < math.huge then
      whole = whole and value == math.floor(value) and size < 1e15
      largest = math.max(largest, size)
      if size > 0 then smallest = math.min(smallest, size) end
    end
  end
  if whole then return "%.0f" end
  return largest < 1e5 and smallest >= 1e-3 and "%.4f" or "%.4e"
end

local function show_value(format, value)
  if value ~= value then return "nan" end
  if math.abs(value) == math.huge then return value > 0 and "inf" or "-inf" end
  return format:format(value)
end

-- The shown values as texts of one width, in the order of each_shown.
local function texts_of(x, shape, cut)
  local values, texts, width = {}, {}, 0
  each_shown(shape, cut, function(place)
    values[#values + 1] = graph.made(array.item(x, table.unpack(place)))
  end)
  local format = choose_format(values)
  for i, value in ipairs(values) do
    texts[i] = show_value(format, value)
    width = math.max(width, #texts[i])
  end
  for i, text in ipairs(texts) do texts[i] = (" "):rep(width - #text) .. text end
  return texts
end

-- Brackets from axis `depth` on; `next_text` gives the values one by one.
local function bracket(shape, cut, depth, indent, next_text)
  if depth > #shape then return next_text() end
  local parts = {}
  for i, position in ipairs(shown_positions(shape[depth], cut)) do
    parts[i] = position == 0 and "..." or bracket(shape, cut, depth + 1, indent + 1, next_text)
  end
  local breaks = #shape - depth
  local separator = breaks == 0 and ", " or "," .. ("\n"):rep(breaks) .. (" "):rep(indent + 1)
  return "[" .. table.concat(parts, separator) .. "]"
end

local function show_values(x, shape)
  local _, _, count = graph.made(array.info(x))
  if count == 0 then return "[]" end
  local texts, at = texts_of(x, shape, count > WHOLE), 0
  return bracket(shape, count > WHOLE, 1, #"tensor(", function()
    at = at + 1
    return texts[at]
  end)
end

local function origin(self)
  if self.node then return ", from " .. self.node.name end
  return self.tracked and ", requires_grad" or ""
end

--- Values, type, shape, and where it came from. A tensor that cannot be read says why.
function Tensor:__tostring()
  local shape, message = array.shape(self.array)
  if not shape then return ("tensor(%s)"):format(message:gsub("^tensor is ", "")) end
  local suffix = #shape > 0 and (" [%s]"):format(table.concat(shape, ", ")) or ""
  return ("tensor(%s, %s%s%s)"):format(show_values(self.array, shape), self:dtype(), suffix, origin(self))
end

return Tensor
