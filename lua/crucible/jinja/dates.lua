-- strftime in UTC, with English names, whatever the host's locale.
local fault = require "crucible.jinja.fault"
local utc = require "crucible.utc"

local dates = {}

local MONTHS = { "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
  "November", "December" }
local WEEKDAYS = { [0] = "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" }
local DAY = 86400

-- The fields of a moment.
local function fields_of(seconds)
  local year, month, day, hour, minute, second = utc.text(seconds):match "^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)Z$"
  local at = { year = year, month = month, day = day, hour = hour, minute = minute, second = second }
  for name, digits in pairs(at) do at[name] = math.tointeger(tonumber(digits)) end
  at.weekday = (seconds // DAY + 4) % 7 -- 1970 began on a Thursday
  at.year_day = (seconds - utc.seconds(at.year, 1, 1)) // DAY + 1
  return at
end

local function two(number) return ("%02d"):format(number) end

---@type table<string, fun(at: table): string>
local parts = {
  Y = function(at) return ("%d"):format(at.year) end,
  y = function(at) return two(at.year % 100) end,
  m = function(at) return two(at.month) end,
  d = function(at) return two(at.day) end,
  e = function(at) return ("%2d"):format(at.day) end,
  H = function(at) return two(at.hour) end,
  I = function(at) return two((at.hour + 11) % 12 + 1) end,
  M = function(at) return two(at.minute) end,
  S = function(at) return two(at.second) end,
  p = function(at) return at.hour < 12 and "AM" or "PM" end,
  B = function(at) return MONTHS[at.month] end,
  b = function(at) return MONTHS[at.month]:sub(1, 3) end,
  A = function(at) return WEEKDAYS[at.weekday] end,
  a = function(at) return WEEKDAYS[at.weekday]:sub(1, 3) end,
  w = function(at) return ("%d"):format(at.weekday) end,
  j = function(at) return ("%03d"):format(at.year_day) end,
  Z = function() return "" end, -- of a time without a zone, as datetime.now() is
  z = function() return "" end,
}
local joined = { F = "%Y-%m-%d", T = "%H:%M:%S", R = "%H:%M", D = "%m/%d/%y" }

--- A moment in the format of C's strftime; the flag "-" leaves out leading zeros. Raises a fault for a conversion that
--- is not supported.
---@param format string
---@param seconds integer  since 1970
---@return string
function dates.text(format, seconds)
  local at = fields_of(seconds)
  local function part(flag, letter)
    if letter == "%" then return "%" end
    if joined[letter] then return dates.text(joined[letter], seconds) end
    if not parts[letter] then
      fault.raise("unsupported", nil, "strftime_now: '%%%s' is not supported", fault.show(flag .. letter))
    end
    local text = parts[letter](at)
    return flag == "-" and text:gsub("^[0 ]+(.)", "%1") or text
  end
  return (format:gsub("%%(%-?)(.)", part))
end

return dates
