-- JSON: values of texts by the core's parser, and a writer whose bytes depend on the values alone: keys
-- sorted, integers without a point, floats in the shortest form that reads back exactly.
--
-- Reading keeps whole numbers integers, also those written with a point or an exponent, and gives json.null
-- for null. Writing turns NaN and infinities into null, which JSON has no word for, and bytes that
-- are not UTF-8 into U+FFFD.
local core = require "crucible.core"
local errors = require "crucible.errors"

local json = { null = core.decode_json "null" }

local Array = { __name = "crucible.json.array" }

--- Marks a table as an array, so that it is written as [] when empty.
---@generic T: table
---@param list T
---@return T
function json.array(list) return setmetatable(list, Array) end

local Object = { __name = "crucible.json.object" }

--- Marks a list of { key, value } as an object whose keys are written in this order.
---@param pairs { [1]: string, [2]: any }[]
---@return table
function json.object(pairs) return setmetatable({ pairs = pairs }, Object) end

local function whole(value)
  if type(value) == "number" then return math.tointeger(value) or value end
  if type(value) == "table" then
    for key, inner in pairs(value) do
      if type(inner) ~= "string" then value[key] = whole(inner) end
    end
  end
  return value
end

--- Value of a JSON text.
---@param text string
---@return any value, string? message, string? code
function json.decode(text)
  local value, message, code = core.decode_json(text)
  if not code then return whole(value) end
  local told = code ~= "format" or message:find("^not JSON")
  return errors.failure(code, told and "%s" or "not JSON: %s", message)
end

local escapes = {
  ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b", ["\f"] = "\\f",
}

local function escape(char) return escapes[char] or ("\\u%04x"):format(char:byte()) end

local function valid_utf8(text)
  local position, parts = 1, {}
  while position <= #text do
    local length, bad = utf8.len(text, position)
    if length then
      parts[#parts + 1] = text:sub(position)
      break
    end
    parts[#parts + 1] = text:sub(position, bad - 1) .. "\u{FFFD}"
    position = bad + 1
  end
  return table.concat(parts)
end

local function encode_string(text)
  if not utf8.len(text) then text = valid_utf8(text) end
  return '"' .. text:gsub('[%c"\\]', escape) .. '"'
end

local function encode_number(value)
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if value ~= value or value == math.huge or value == -math.huge then return "null" end
  for digits = 15, 17 do
    local text = ("%." .. digits .. "g"):format(value)
    if tonumber(text) == value then return text end
  end
end

local encode -- forward: containers and values call each other

local function encode_list(list, pad)
  local parts = {}
  for i = 1, #list do parts[i] = encode(list[i], pad) end
  if #parts == 0 then return "[]" end
  return "[" .. table.concat(parts, pad and ", " or ",") .. "]"
end

local function sorted_keys(object)
  local keys, names = {}, {}
  for key in pairs(object) do
    local name = tostring(key)
    keys[#keys + 1], names[name] = name, key
  end
  table.sort(keys)
  return keys, names
end

local function members_of(object)
  if getmetatable(object) == Object then return object.pairs end
  local keys, names = sorted_keys(object)
  local members = {}
  for i, key in ipairs(keys) do members[i] = { key, object[names[key]] } end
  return members
end

local function encode_object(object, pad)
  local members = members_of(object)
  if #members == 0 then return "{}" end
  local inner = pad and pad .. "  "
  local parts = {}
  for i, member in ipairs(members) do
    parts[i] = encode_string(member[1]) .. (pad and ": " or ":") .. encode(member[2], inner)
  end
  if not pad then return "{" .. table.concat(parts, ",") .. "}" end
  return "{" .. inner .. table.concat(parts, "," .. inner) .. pad .. "}"
end

function encode(value, pad)
  local kind = type(value)
  if kind == "string" then return encode_string(value) end
  if kind == "number" then return encode_number(value) end
  if kind == "boolean" then return tostring(value) end
  if value == nil or value == json.null then return "null" end
  if kind ~= "table" then errors.raise("json.encode: a %s has no JSON form", kind) end
  if getmetatable(value) == Array or #value > 0 then return encode_list(value, pad) end
  return encode_object(value, pad)
end

--- One line of JSON.
---@param value any
---@return string
function json.encode(value) return encode(value, nil) end

--- JSON to be read by people: one key a line, a newline at the end.
---@param value any
---@return string
function json.encode_pretty(value) return encode(value, "\n") .. "\n" end

return json
