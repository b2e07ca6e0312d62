-- Dates in UTC (ISO 8601, the proleptic Gregorian calendar) from seconds since 1970 and back, whatever zone and
-- standard libraries the host has.
local fs = require "crucible.fs"

local utc = {}

local DAY = 86400

--- Seconds since 1970 began.
---@return integer
function utc.time() return fs.time() end

-- Days since 1970-01-01, by years that begin in March, so that the leap day is their last; 400 of them have
-- 146097 days.
local function days_of(year, month, day)
  local y = month > 2 and year or year - 1
  local era = y // 400
  local day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
  local year_of_era = y - era * 400
  return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468
end

--- Seconds since 1970 of a moment.
---@param year integer
---@param month integer  1 to 12
---@param day integer
---@param hour integer?
---@param minute integer?
---@param second integer?
---@return integer
function utc.seconds(year, month, day, hour, minute, second)
  return days_of(year, month, day) * DAY + (hour or 0) * 3600 + (minute or 0) * 60 + (second or 0)
end

local function date_of(days)
  local shifted = days + 719468
  local era = shifted // 146097
  local day_of_era = shifted - era * 146097
  local year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
  local day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
  local march_month = (5 * day_of_year + 2) // 153
  local month = march_month < 10 and march_month + 3 or march_month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return year, month, day_of_year - (153 * march_month + 2) // 5 + 1
end

--- "2026-11-24T13:21:16Z"
---@param seconds integer?  since 1970; default: now
---@return string
function utc.text(seconds)
  seconds = seconds or utc.time()
  local year, month, day = date_of(seconds // DAY)
  local rest = seconds % DAY
  return ("%04d-%02d-%02dT%02d:%02d:%02dZ"):format(year, month, day, rest // 3600, rest % 3600 // 60, rest % 60)
end

return utc
