-- Series of many steps made short without hiding anything: each piece of neighbouring steps keeps its mean,
-- least and largest value.
local json = require "crucible.json"

local series = {}

--- Steps a piece so that `count` steps make at most `most` pieces.
---@param count integer
---@param most integer
---@return integer
function series.piece_size(count, most) return math.max(1, (count + most - 1) // most) end

--- The value if it is a finite number, else nil.
---@param value any
---@return number?
function series.finite(value)
  if type(value) == "number" and value == value and value ~= math.huge and value ~= -math.huge then return value end
end

--- A number with `digits` significant digits (default 5): what a page shows, and shorter to write.
---@param value number?
---@param digits integer?
---@return any  the number, or json.null for nil
function series.rounded(value, digits)
  if value == nil then return json.null end
  local short = tonumber(("%." .. (digits or 5) .. "g"):format(value))
  return math.tointeger(short) or short
end

-- Calls visit(first, last) for each piece of 1 … count.
local function each_piece(count, size, visit)
  for first = 1, count, size do visit(first, math.min(first + size - 1, count)) end
end

-- Mean, least and largest finite value of values[first … last]; nil when there is none.
local function summary(values, first, last)
  local sum, count, least, most = 0, 0, nil, nil
  for i = first, last do
    local value = values[i]
    if value then
      sum, count = sum + value, count + 1
      least, most = math.min(least or value, value), math.max(most or value, value)
    end
  end
  if count == 0 then return nil end
  local mean = sum / count
  if not series.finite(mean) then mean = least / 2 + most / 2 end -- the sum left the range of numbers
  return mean, least, most
end

---@class crucible.report.Series
---@field mean any[]  numbers, json.null where a piece has none
---@field min any[]?  nil when pieces are single steps
---@field max any[]?

--- A series in pieces of `size` steps; nil when it has no value at all.
---@param values (number|false|nil)[]
---@param count integer  steps
---@param size integer
---@return crucible.report.Series?
function series.condense(values, count, size)
  local mean, min, max, any = json.array {}, json.array {}, json.array {}, false
  each_piece(count, size, function(first, last)
    local middle, least, most = summary(values, first, last)
    any = any or middle ~= nil
    local i = #mean + 1
    mean[i], min[i], max[i] = series.rounded(middle), series.rounded(least), series.rounded(most)
  end)
  if not any then return nil end
  if size == 1 then return { mean = mean } end
  return { mean = mean, min = min, max = max }
end

--- First and last step of each piece.
---@param steps integer[]
---@param size integer
---@return integer[] from, integer[] to
function series.ends(steps, size)
  local from, to = json.array {}, json.array {}
  each_piece(#steps, size, function(first, last) from[#from + 1], to[#to + 1] = steps[first], steps[last] end)
  return from, to
end

--- Rows of a map [row][step] in pieces: means, three digits.
---@param rows (number|false)[][]
---@param count integer
---@param size integer
---@return any[][]
function series.condense_map(rows, count, size)
  local list = json.array {}
  for r, values in ipairs(rows) do
    local cells = json.array {}
    each_piece(count, size, function(first, last)
      cells[#cells + 1] = series.rounded((summary(values, first, last)), 3)
    end)
    list[r] = cells
  end
  return list
end

return series
