-- Values as a person wants to see them at a prompt: tables with their fields in order, long lists cut, tensors with
-- their shape, whatever has a __tostring by that. Pure functions; nothing is printed.
local terminal = require "crucible.terminal"

local inspect = {}

local DEPTH, MOST, LONGEST = 4, 24, 200 -- levels, members of a table, bytes of a text

local STYLES = { key = "\27[36m", text = "\27[32m", number = "\27[33m", dim = "\27[2m", bad = "\27[31m" }

---@class crucible.inspect.Options
---@field colour boolean?  escape sequences for colours
---@field width integer?   columns; 100

local function painter(colour)
  if not colour then return function(_, text) return text end end
  return function(style, text) return STYLES[style] .. text .. "\27[0m" end
end

local function number_text(value)
  if math.type(value) == "integer" or value ~= value or math.abs(value) == math.huge then return tostring(value) end
  return (("%.6g"):format(value))
end

-- Control characters by their escapes, cut where it is long.
local function quoted(text)
  local cut = #text > LONGEST
  if cut then text = text:sub(1, (utf8.offset(text, 0, LONGEST - 20) or LONGEST) - 1) end
  local shown = text:gsub('[%c"\\]', function(c)
    local escapes = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }
    return escapes[c] or ("\\%d"):format(c:byte())
  end)
  return '"' .. shown .. '"' .. (cut and "…" or "")
end

local function scalar(paint, value)
  if type(value) == "string" then return paint("text", quoted(value)) end
  if type(value) == "number" then return paint("number", number_text(value)) end
  if value == nil or type(value) == "boolean" then return paint("number", tostring(value)) end
  return paint("dim", (tostring(value):gsub(": 0x.*$", "")))
end

local function key_text(paint, key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" then return paint("key", key) .. " = " end
  if type(key) == "string" then return "[" .. paint("key", quoted(key)) .. "] = " end
  return "[" .. tostring(key) .. "] = "
end

-- Names first, in order; then other keys.
local function sorted_keys(value, length)
  local keys = {}
  for key in next, value do
    local listed = math.type(key) == "integer" and key >= 1 and key <= length
    if not listed then keys[#keys + 1] = key end
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "string" or type(a) == "number") then return a < b end
    return type(a) == "string" or type(b) ~= "string" and tostring(a) < tostring(b)
  end)
  return keys
end

local function visible(text) return terminal.width((text:gsub("\27%[[%d;]*m", ""))) end

-- Members on one line where they fit, else one a line.
local function enclose(parts, indent, width)
  local flat = "{ " .. table.concat(parts, ", ") .. " }"
  if not flat:find("\n", 1, true) and visible(flat) + #indent <= width then return flat end
  local inner = indent .. "  "
  return "{\n" .. inner .. table.concat(parts, ",\n" .. inner) .. "\n" .. indent .. "}"
end

local show

local function table_text(self, value, indent, depth)
  if next(value) == nil then return "{}" end
  if self.seen[value] then return self.paint("dim", "…") end
  if depth >= DEPTH then return self.paint("dim", "{ … }") end
  self.seen[value] = true
  local parts, length = {}, #value
  for i = 1, math.min(length, MOST) do parts[i] = show(self, value[i], indent .. "  ", depth + 1) end
  if length > MOST then parts[#parts + 1] = self.paint("dim", ("… %d more"):format(length - MOST)) end
  local keys = sorted_keys(value, length)
  for i = 1, math.min(#keys, 2 * MOST) do
    local key = keys[i]
    parts[#parts + 1] = key_text(self.paint, key) .. show(self, rawget(value, key), indent .. "  ", depth + 1)
  end
  if #keys > 2 * MOST then parts[#parts + 1] = self.paint("dim", ("… %d more fields"):format(#keys - 2 * MOST)) end
  self.seen[value] = nil
  return enclose(parts, indent, self.width)
end

function show(self, value, indent, depth)
  local meta = debug.getmetatable(value)
  if type(meta) == "table" and meta.__tostring and type(value) ~= "string" then
    local ok, text = pcall(tostring, value)
    if not ok then return self.paint("bad", "(its __tostring fails)") end
    return (text:gsub("\n$", ""):gsub("\n", "\n" .. indent))
  end
  if type(value) == "table" then return table_text(self, value, indent, depth) end
  return scalar(self.paint, value)
end

--- A value as text.
---@param value any
---@param options crucible.inspect.Options?
---@return string
function inspect.text(value, options)
  options = options or {}
  local self = { paint = painter(options.colour), width = options.width or 100, seen = {} }
  return show(self, value, "", 0)
end

return inspect
