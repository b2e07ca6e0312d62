-- Values of templates with the meaning they have in Python, where Jinja's come from.
--
-- Strings, booleans, integers and floats are Lua's own; the rest are tables of the kinds below. Nothing here
-- is ever nil, and nothing but a namespace changes once it is made.
local fault = require "crucible.jinja.fault"
local unicode = require "crucible.jinja.unicode"

local values = {}

---@class crucible.jinja.List  items 1..n; kind "list", "tuple", "range", "generator" or a view of a dict
---@field n integer
---@field kind string

---@class crucible.jinja.Dict
---@field keys any[]   in order of insertion
---@field map table<any, any>

---@class crucible.jinja.Undefined
---@field hint string  what went wrong, for the error of using it

---@class crucible.jinja.Callable
---@field name string
---@field call fun(run: crucible.jinja.Run, args: crucible.jinja.Arguments): any

---@class crucible.jinja.Namespace
---@field dict crucible.jinja.Dict

local List = { __name = "list" }
local Dict = { __name = "dict" }
local Undefined = { __name = "Undefined" }
local Callable = { __name = "function" }
local Namespace = { __name = "Namespace" }
local None = { __name = "NoneType" }

--- Python's None.
values.none = setmetatable({}, None)

-- ---- making ----------------------------------------------------------------------------------------

--- A list of items that becomes the owner of the table.
---@param items any[]
---@param n integer?
---@param kind string?
---@return crucible.jinja.List
function values.list(items, n, kind)
  items.n, items.kind = n or #items, kind or "list"
  return setmetatable(items, List)
end

---@return crucible.jinja.Dict
function values.dict() return setmetatable({ keys = {}, map = {} }, Dict) end

---@param hint string
---@return crucible.jinja.Undefined
function values.undefined(hint) return setmetatable({ hint = hint }, Undefined) end

---@param name string
---@param call fun(run: crucible.jinja.Run, args: crucible.jinja.Arguments): any
---@return crucible.jinja.Callable
function values.callable(name, call) return setmetatable({ name = name, call = call }, Callable) end

---@param dict crucible.jinja.Dict
---@return crucible.jinja.Namespace
function values.namespace(dict) return setmetatable({ dict = dict }, Namespace) end

--- Sets a key of a dict; raises a fault for one that has no hash.
---@param dict crucible.jinja.Dict
---@param key any
---@param value any
function values.put(dict, key, value)
  if type(key) == "table" and key ~= values.none then
    fault.raise("format", nil, "a %s cannot be the key of a dict", values.type_name(key))
  end
  if key ~= key then fault.raise("format", nil, "nan cannot be the key of a dict") end
  if dict.map[key] == nil then dict.keys[#dict.keys + 1] = key end
  dict.map[key] = value
end

-- ---- kinds -----------------------------------------------------------------------------------------

function values.is_list(value) return getmetatable(value) == List end
function values.is_dict(value) return getmetatable(value) == Dict end
function values.is_undefined(value) return getmetatable(value) == Undefined end
function values.is_callable(value) return getmetatable(value) == Callable end
function values.is_namespace(value) return getmetatable(value) == Namespace end

--- The name of a value's type, as Python says it.
---@param value any
---@return string
function values.type_name(value)
  local kind = math.type(value) or type(value)
  if kind == "integer" then return "int" end
  if kind == "string" then return "str" end
  if kind == "boolean" then return "bool" end
  if kind ~= "table" then return kind end
  if values.is_list(value) then return value.kind end
  return getmetatable(value).__name
end

--- A number for arithmetic, where true is 1; nil for anything else.
---@param value any
---@return number?
function values.number(value)
  if type(value) == "number" then return value end
  if type(value) == "boolean" then return value and 1 or 0 end
  return nil -- a value, for math.type refuses none
end

--- Whether a value counts as true in a condition.
---@param value any
---@return boolean
function values.truth(value)
  local kind = type(value)
  if kind == "boolean" then return value end
  if kind == "string" then return value ~= "" end
  if kind == "number" then return value ~= 0 end
  if value == values.none or values.is_undefined(value) then return false end
  if values.is_list(value) then return value.kind == "generator" or value.n > 0 end
  if values.is_dict(value) then return #value.keys > 0 end
  return true
end

-- ---- as text -----------------------------------------------------------------------------------------

-- Digits and exponent of the shortest decimal that reads back as the number.
local function shortest(number)
  for digits = 0, 17 do
    local text = ("%." .. digits .. "e"):format(number)
    if tonumber(text) == number then
      local whole, fraction, exponent = text:match "^(%d)%.?(%d*)e([-+]%d+)$"
      return whole .. fraction:gsub("0+$", ""), math.tointeger(tonumber(exponent))
    end
  end
end

local function fixed(digits, exponent)
  if exponent < 0 then return "0." .. ("0"):rep(-exponent - 1) .. digits end
  if #digits <= exponent + 1 then return digits .. ("0"):rep(exponent + 1 - #digits) .. ".0" end
  return digits:sub(1, exponent + 1) .. "." .. digits:sub(exponent + 2)
end

--- A float as Python's repr writes it.
---@param number number
---@return string
function values.float_text(number)
  if number ~= number then return "nan" end
  local sign = (number < 0 or 1 / number < 0) and "-" or ""
  number = math.abs(number)
  if number == math.huge then return sign .. "inf" end
  local digits, exponent = shortest(number)
  if exponent >= -4 and exponent < 16 then return sign .. fixed(digits, exponent) end
  local tail = #digits > 1 and "." .. digits:sub(2) or ""
  return ("%s%s%se%s%02d"):format(sign, digits:sub(1, 1), tail, exponent < 0 and "-" or "+", math.abs(exponent))
end

local quoted = { ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function hexadecimal(char) return ("\\x%02x"):format(utf8.codepoint(char)) end

local function quote_text(text)
  local mark = text:find("'", 1, true) and not text:find('"', 1, true) and '"' or "'"
  text = text:gsub("[\\\n\r\t]", quoted):gsub("%c", hexadecimal):gsub("\xC2[\x80-\xA0\xAD]", hexadecimal)
  if mark == "'" then text = text:gsub("'", "\\'") end
  return mark .. text .. mark
end

local brackets = {
  list = { "[", "]" }, tuple = { "(", ")" }, dict_keys = { "dict_keys([", "])" },
  dict_values = { "dict_values([", "])" }, dict_items = { "dict_items([", "])" },
}

local shown -- forward: containers and their parts

local function list_text(run, list)
  local around = brackets[list.kind]
  if list.kind == "range" then
    if list.step == 1 then return ("range(%d, %d)"):format(list.start, list.stop) end
    return ("range(%d, %d, %d)"):format(list.start, list.stop, list.step)
  end
  if not around then fault.raise("unsupported", nil, "a %s as text is not supported", list.kind) end
  local parts = {}
  for i = 1, list.n do parts[i] = shown(run, list[i]) end
  local tail = list.kind == "tuple" and list.n == 1 and "," or ""
  return around[1] .. table.concat(parts, ", ") .. tail .. around[2]
end

local function dict_text(run, dict)
  local parts = {}
  for i, key in ipairs(dict.keys) do parts[i] = shown(run, key) .. ": " .. shown(run, dict.map[key]) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function table_text(run, value)
  if value == values.none then return "None" end
  if values.is_undefined(value) then return "Undefined" end
  if values.is_list(value) then return run:nested(list_text, value) end
  if values.is_dict(value) then return run:nested(dict_text, value) end
  fault.raise("unsupported", nil, "a %s as text is not supported", values.type_name(value))
end

local function number_text(number)
  return math.type(number) == "integer" and ("%d"):format(number) or values.float_text(number)
end

local shown_kinds = {
  string = function(_, text) return quote_text(text) end,
  boolean = function(_, truth) return truth and "True" or "False" end,
  number = function(_, number) return number_text(number) end,
  table = table_text,
}

-- Python's repr.
function shown(run, value) return run:made(shown_kinds[type(value)](run, value)) end
values.repr = shown

--- Python's str: what a template writes for a value.
---@param run crucible.jinja.Run
---@param value any
---@return string
function values.text(run, value)
  if type(value) == "string" then return value end
  if values.is_undefined(value) then return "" end
  return shown(run, value)
end

-- ---- comparing ----------------------------------------------------------------------------------------

local sequence_kinds = { list = true, tuple = true, range = true }

local function equal_lists(run, left, right)
  if left.kind ~= right.kind or not sequence_kinds[left.kind] then return left == right end
  if left.n ~= right.n then return false end
  for i = 1, left.n do
    if not values.equal(run, left[i], right[i]) then return false end
  end
  return true
end

local function equal_dicts(run, left, right)
  if #left.keys ~= #right.keys then return false end
  for _, key in ipairs(left.keys) do
    local other = right.map[key]
    if other == nil or not values.equal(run, left.map[key], other) then return false end
  end
  return true
end

--- Python's ==.
---@param run crucible.jinja.Run
---@param left any
---@param right any
---@return boolean
function values.equal(run, left, right)
  run:work(1)
  if type(left) ~= "table" or type(right) ~= "table" then
    local a, b = values.number(left), values.number(right)
    if a and b then return a == b end
    if type(left) == "string" then run:work(#left / 256) end
    return left == right
  end
  if getmetatable(left) ~= getmetatable(right) then return false end
  if values.is_undefined(left) then return true end
  if values.is_list(left) then return run:nested(equal_lists, left, right) end
  if values.is_dict(left) then return run:nested(equal_dicts, left, right) end
  return left == right
end

local function less_list(run, left, right)
  for i = 1, math.min(left.n, right.n) do
    if not values.equal(run, left[i], right[i]) then return values.less(run, left[i], right[i], "<") end
  end
  return left.n < right.n
end

--- Python's <; `operator` is named in the error of values without an order.
---@param run crucible.jinja.Run
---@param left any
---@param right any
---@param operator string?
---@return boolean
function values.less(run, left, right, operator)
  run:work(1)
  local a, b = values.number(left), values.number(right)
  if a and b then return a < b end
  if type(left) == "string" and type(right) == "string" then
    run:work(math.min(#left, #right) / 64)
    return values.less_text(left, right)
  end
  if values.is_list(left) and values.is_list(right) and left.kind == right.kind then
    return run:nested(less_list, left, right)
  end
  values.refuse_undefined(left, right)
  fault.raise("format", nil, "'%s' is not supported between a %s and a %s", operator or "<", values.type_name(left),
    values.type_name(right))
end

--- Order of code points, which is that of UTF-8 bytes. Lua's own < on strings follows the locale.
---@param left string
---@param right string
---@return boolean
function values.less_text(left, right)
  local at, limit = 1, math.min(#left, #right)
  while at + 255 <= limit and left:sub(at, at + 255) == right:sub(at, at + 255) do at = at + 256 end
  while at <= limit do
    local a, b = left:byte(at), right:byte(at)
    if a ~= b then return a < b end
    at = at + 1
  end
  return #left < #right
end

--- Raises the fault of using an undefined value, if one is among the arguments.
---@param ... any
function values.refuse_undefined(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if values.is_undefined(value) then fault.raise("format", nil, "%s", value.hint) end
  end
end

-- ---- items -------------------------------------------------------------------------------------------

local function copied(list)
  local items = table.move(list, 1, list.n, 1, {})
  local n = list.n
  if list.kind == "generator" then list.n = 0 end -- one pass and no more
  return items, n
end

--- The items that a loop over a value sees, in a table of its own, and their number; raises for values that
--- have none.
---@param run crucible.jinja.Run
---@param value any
---@return any[] items, integer n
function values.items(run, value)
  if values.is_list(value) then
    run:work(value.n)
    return copied(value)
  end
  if values.is_dict(value) then
    run:work(#value.keys)
    return table.move(value.keys, 1, #value.keys, 1, {}), #value.keys
  end
  if values.is_undefined(value) then return {}, 0 end
  if type(value) ~= "string" then
    fault.raise("format", nil, "a %s has no items to go through", values.type_name(value))
  end
  run:work(#value)
  run:bytes(16 * #value)
  local items = unicode.characters(value)
  return items, #items
end

--- Python's len; nil for a value without one.
---@param value any
---@return integer?
function values.length(value)
  if type(value) == "string" then return unicode.length(value) end
  if values.is_list(value) then return value.kind ~= "generator" and value.n or nil end
  if values.is_dict(value) then return #value.keys end
  if values.is_undefined(value) then return 0 end
end

-- ---- from Lua ------------------------------------------------------------------------------------------

local leading = { role = 1, content = 2 } -- the keys of a message, in the order people write them

local function key_order(left, right)
  local a, b = leading[left] or 3, leading[right] or 3
  if a ~= b then return a < b end
  return tostring(left) < tostring(right)
end

local CONVERTED_DEPTH = 100

local function dict_of(source, depth, null)
  local keys, dict = {}, values.dict()
  for key in pairs(source) do keys[#keys + 1] = key end
  table.sort(keys, key_order)
  for _, key in ipairs(keys) do values.put(dict, key, values.from_lua(source[key], null, depth + 1)) end
  return dict
end

local function list_of(source, depth, null)
  local items = {}
  for i = 1, #source do items[i] = values.from_lua(source[i], null, depth + 1) end
  return values.list(items)
end

--- A value of Lua for templates: a table with items is a list, any other a dict with its keys sorted, role
--- and content first; nil and `null` are None. Raises a fault for what has no form.
---@param value any
---@param null any   the value that stands for JSON's null
---@param depth integer?
---@return any
function values.from_lua(value, null, depth)
  depth = depth or 1
  if value == nil or value == null then return values.none end
  local kind = type(value)
  if kind == "string" or kind == "number" or kind == "boolean" then return value end
  if kind ~= "table" then fault.raise("format", nil, "a template cannot be given a %s", kind) end
  if values.is_list(value) or values.is_dict(value) or value == values.none then return value end
  if depth > CONVERTED_DEPTH then fault.raise("format", nil, "a template cannot be given tables nested that deep") end
  local list = #value > 0 or (getmetatable(value) or {}).__name == "crucible.json.array"
  return list and list_of(value, depth, null) or dict_of(value, depth, null)
end

return values
