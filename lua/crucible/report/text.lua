-- How values read in a report.
local json = require "crucible.json"
local series = require "crucible.report.series"

local text = {}

--- 68163 → "68,163"; anything but a finite number → "–".
---@param value any
---@return string
function text.count(value)
  local whole = series.finite(value) and math.tointeger(value)
  if not whole then return "–" end
  local digits = ("%d"):format(whole):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (digits:gsub("^(%-?),", "%1"))
end

--- Four significant digits: 0.5321, 6.912, 2e-04; whole numbers as they are.
---@param value any
---@return string
function text.figure(value)
  if not series.finite(value) then return "–" end
  local whole = math.tointeger(value)
  if whole and math.abs(whole) < 1e7 then return ("%d"):format(whole) end
  return (("%.4g"):format(value):gsub("e([+-])0*(%d)", "e%1%2"):gsub("e%+", "e"))
end

--- Three decimals for shares and scores: 0.532; large numbers as figures.
---@param value any
---@return string
function text.score(value)
  if not series.finite(value) then return "–" end
  if math.abs(value) >= 100 then return text.figure(value) end
  return ("%.3f"):format(value)
end

--- 0.0316 → "+0.032": a difference.
---@param value number
---@return string
function text.change(value)
  if not series.finite(value) then return "–" end
  if value == 0 then return "±0" end
  return ((math.abs(value) >= 100 and "%+.4g" or "%+.3f"):format(value):gsub("^%-", "−"))
end

local function list_text(list)
  local parts = {}
  for i, member in ipairs(list) do parts[i] = text.value(member) end
  return table.concat(parts, ", ")
end

--- A setting: texts as they are, lists with commas, tables as JSON.
---@param value any
---@return string
function text.value(value)
  if value == nil then return "–" end
  if type(value) == "string" then return value end
  if type(value) == "number" then
    return math.type(value) == "integer" and ("%d"):format(value) or (("%.6g"):format(value):gsub("e([+-])0*", "e%1"))
  end
  if type(value) ~= "table" then return tostring(value) end
  if #value == 0 then return next(value) == nil and "none" or json.encode(value) end
  for _, member in ipairs(value) do
    if type(member) == "table" then return json.encode(value) end
  end
  return list_text(value)
end

--- A name out of a run, cut where it could only be a mistake.
---@param value any
---@return string
function text.label(value)
  local label = text.value(value)
  local length = utf8.len(label)
  if length and length <= 120 or #label <= 120 then return label end
  return label:sub(1, length and utf8.offset(label, 121) - 1 or 120) .. "…"
end

--- Bytes → "98.4 MB".
---@param bytes any
---@return string
function text.bytes(bytes)
  if not series.finite(bytes) then return "–" end
  local units, at = { "B", "kB", "MB", "GB", "TB" }, 1
  while bytes >= 1000 and at < #units do bytes, at = bytes / 1000, at + 1 end
  return (at == 1 and "%d %s" or "%.1f %s"):format(at == 1 and math.floor(bytes) or bytes, units[at])
end

--- "2026-11-24T10:17:18Z" → "2026-11-24 10:17 UTC"
---@param stamp any
---@return string
function text.time(stamp)
  if type(stamp) ~= "string" then return "–" end
  local day, clock = stamp:match "^(%d+%-%d+%-%d+)T(%d+:%d+)"
  return day and day .. " " .. clock .. " UTC" or stamp
end

return text
