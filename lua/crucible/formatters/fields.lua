-- Fields of a row, checked: a formatter that meets another schema says which key it missed.
local json = require "crucible.json"

local fields = {}

local function fail(key, expected, value)
  local found = value == nil and "is missing" or ("is a %s"):format(type(value))
  error(('"%s" %s, expected %s'):format(key, found, expected), 0)
end

--- The string under a key; raises naming the key otherwise.
---@param example table
---@param key string
---@return string
function fields.string(example, key)
  local value = example[key]
  if type(value) ~= "string" then fail(key, "a string", value) end
  return value
end

--- The string under a key, "" where there is none; raises naming the key on another type.
---@param example table
---@param key string
---@return string
function fields.optional_string(example, key)
  local value = example[key]
  if value == nil or value == json.null then return "" end
  if type(value) ~= "string" then fail(key, "a string", value) end
  return value
end

--- The list of strings under a key; raises naming the key otherwise.
---@param example table
---@param key string
---@return string[]
function fields.strings(example, key)
  local value = example[key]
  if type(value) ~= "table" then fail(key, "a list of strings", value) end
  for _, member in ipairs(value) do
    if type(member) ~= "string" then fail(key, "a list of strings", member) end
  end
  return value
end

--- The table under a key; raises naming the key otherwise.
---@param example table
---@param key string
---@return table
function fields.table(example, key)
  local value = example[key]
  if type(value) ~= "table" then fail(key, "a list", value) end
  return value
end

return fields
