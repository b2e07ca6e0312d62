-- x.y, x[y] and x[a:b:c] as Jinja's sandbox gives them: a missing thing is undefined, what would change a value
-- is refused, and nothing leads out of the values of a template.
local arguments = require "crucible.jinja.arguments"
local fault = require "crucible.jinja.fault"
local strings = require "crucible.jinja.strings"
local unicode = require "crucible.jinja.unicode"
local values = require "crucible.jinja.values"

local access = {}

-- ---- methods of lists and dicts --------------------------------------------------------------------------

local function view(kind, item)
  return function(run, dict)
    run:work(#dict.keys)
    run:bytes(16 * #dict.keys)
    local items = {}
    for i, key in ipairs(dict.keys) do items[i] = item(key, dict.map[key]) end
    return values.list(items, #items, kind)
  end
end

-- The value of a key; nil when it is not there or nothing that could be.
local function lookup(dict, key)
  if type(key) == "table" and key ~= values.none or key ~= key then return nil end
  return dict.map[key]
end

local dict_methods = {
  keys = { {}, 0, view("dict_keys", function(key) return key end) },
  values = { {}, 0, view("dict_values", function(_, value) return value end) },
  items = { {}, 0, view("dict_items", function(key, value) return values.list({ key, value }, 2, "tuple") end) },
  get = { { "key", "default" }, 1, function(_, dict, key, default)
    local found = lookup(dict, key)
    if found == nil then found = default end
    if found == nil then return values.none end
    return found
  end },
}

local function place_of(run, list, sought)
  for i = 1, list.n do
    if values.equal(run, list[i], sought) then return i end
  end
end

local list_methods = {
  index = { { "value" }, 1, function(run, list, sought)
    local at = place_of(run, list, sought)
    if not at then fault.raise("format", nil, "index(): the value is not in the list") end
    return at - 1
  end },
  count = { { "value" }, 1, function(run, list, sought)
    local count = 0
    for i = 1, list.n do count = count + (values.equal(run, list[i], sought) and 1 or 0) end
    return count
  end },
}

local function set_of(names)
  local set = {}
  for name in names:gmatch "%S+" do set[name] = true end
  return set
end

-- What would change the value, and what is merely missing here.
local changing = {
  dict = set_of "clear pop popitem setdefault update",
  list = set_of "append clear extend insert pop remove reverse sort",
}
local missing = { dict = set_of "copy fromkeys", list = set_of "copy" }

local function bound(value, kind, known, name)
  local found = known[name]
  if found then
    return values.callable(name, function(run, given)
      run:work(1)
      return found[3](run, value, arguments.unpack(name .. "()", given, found[1], found[2]))
    end)
  end
  if changing[kind][name] then
    return values.undefined(("%s() would change a %s: templates may not"):format(name, kind))
  end
  if missing[kind][name] then
    fault.raise("unsupported", nil, "the method %s() of a %s is not supported", name, kind)
  end
end

-- ---- loops -------------------------------------------------------------------------------------------------

---@class crucible.jinja.Loop  what `loop` is inside a for
---@field items any[]
---@field n integer
---@field at integer  from 1
---@field depth integer
local Loop = { __name = "LoopContext" }

---@param items any[]
---@param n integer
---@param depth integer
---@return crucible.jinja.Loop
function access.loop(items, n, depth) return setmetatable({ items = items, n = n, at = 0, depth = depth }, Loop) end

local function cycle(loop)
  return values.callable("cycle", function(_, given)
    if given.n == 0 then fault.raise("format", nil, "cycle() needs values") end
    return given[(loop.at - 1) % given.n + 1]
  end)
end

local function changed(loop)
  return values.callable("changed", function(run, given)
    local now = values.list(table.move(given, 1, given.n, 1, {}), given.n, "tuple")
    if loop.before and values.equal(run, loop.before, now) then return false end
    loop.before = now
    return true
  end)
end

local loop_fields = {
  index = function(loop) return loop.at end,
  index0 = function(loop) return loop.at - 1 end,
  revindex = function(loop) return loop.n - loop.at + 1 end,
  revindex0 = function(loop) return loop.n - loop.at end,
  first = function(loop) return loop.at == 1 end,
  last = function(loop) return loop.at == loop.n end,
  length = function(loop) return loop.n end,
  depth = function(loop) return loop.depth end,
  depth0 = function(loop) return loop.depth - 1 end,
  previtem = function(loop)
    if loop.at == 1 then return values.undefined "there is no previous item" end
    return loop.items[loop.at - 1]
  end,
  nextitem = function(loop)
    if loop.at == loop.n then return values.undefined "there is no next item" end
    return loop.items[loop.at + 1]
  end,
  cycle = cycle, changed = changed,
}

-- ---- by name --------------------------------------------------------------------------------------------------

local function hint(value, name)
  local kind, shown = "element", tostring(name)
  if type(name) == "string" then kind, shown = "attribute", "'" .. fault.show(name) .. "'" end
  return ("a %s has no %s %s"):format(values.type_name(value), kind, shown)
end

-- The attribute of a value in Python's sense; nil when it has none.
local function own_attribute(value, name)
  if type(value) == "string" then return strings.method(value, name) end
  if values.is_dict(value) then return bound(value, "dict", dict_methods, name) end
  if values.is_list(value) then
    local sequence = value.kind == "list" or value.kind == "tuple"
    return sequence and bound(value, "list", list_methods, name) or nil
  end
  if values.is_namespace(value) then return value.dict.map[name] end
  if getmetatable(value) == Loop then return loop_fields[name] and loop_fields[name](value) end
end

-- Undefined for what only Python's own machinery has a name like.
local function unsafe(value, name)
  return values.undefined(("access to the attribute '%s' of a %s is unsafe"):format(fault.show(name),
    values.type_name(value)))
end

local function is_private(value, name) return name:find "^_" and not values.is_dict(value) end

--- x.name: an attribute before an item.
---@param value any
---@param name string
---@return any
function access.attribute(value, name)
  values.refuse_undefined(value)
  if is_private(value, name) then return unsafe(value, name) end
  local found = own_attribute(value, name)
  if found ~= nil then return found end
  if values.is_dict(value) and value.map[name] ~= nil then return value.map[name] end
  return values.undefined(hint(value, name))
end

local function element(run, list, index)
  local number = values.number(index)
  if math.type(number) ~= "integer" then return nil end
  if number < 0 then number = number + list.n end
  if number < 0 or number >= list.n then return nil end
  run:work(1)
  return list[number + 1]
end

local function character(run, text, index)
  if unicode.is_ascii(text) then
    run:work(#text / 64)
    if index < 0 then index = index + #text end
    if index < 0 or index >= #text then return nil end
    return text:sub(index + 1, index + 1)
  end
  run:work(#text)
  run:bytes(16 * #text)
  local list = unicode.characters(text)
  return list[(index < 0 and index + #list or index) + 1]
end

local indexed = { list = true, tuple = true, range = true }

local function own_item(run, value, key)
  if values.is_dict(value) then return lookup(value, key) end
  if values.is_list(value) then
    if not indexed[value.kind] then return nil end
    return element(run, value, key)
  end
  local index = type(value) == "string" and values.number(key)
  if math.type(index) == "integer" then return character(run, value, index) end
end

--- x[key]: an item before an attribute.
---@param run crucible.jinja.Run
---@param value any
---@param key any
---@return any
function access.item(run, value, key)
  values.refuse_undefined(value)
  local found = own_item(run, value, key)
  if found ~= nil then return found end
  if type(key) == "string" then
    if is_private(value, key) then return unsafe(value, key) end
    found = own_attribute(value, key)
    if found ~= nil then return found end
  end
  if type(key) == "table" and key ~= values.none then
    values.refuse_undefined(key)
    return values.undefined(hint(value, values.type_name(key)))
  end
  return values.undefined(hint(value, key == values.none and "None" or key))
end

-- ---- slices ----------------------------------------------------------------------------------------------------

local function bound_of(value, default)
  if value == values.none then return default end
  local number = values.number(value)
  if math.type(number) == "integer" then return number end
  values.refuse_undefined(value)
  fault.raise("format", nil, "a slice goes from int to int, got a %s", values.type_name(value))
end

-- Python's slice.indices: first, last (not included) and step over `count` items from 0.
local function indices(start, stop, step, count)
  step = bound_of(step, 1)
  if step == 0 then fault.raise("format", nil, "the step of a slice is 0") end
  local low, high = step > 0 and 0 or -1, step > 0 and count or count - 1
  local function place(value, default)
    local at = bound_of(value, nil)
    if not at then return default end
    if at < 0 then return math.max(low, at + count) end
    return math.min(high, at)
  end
  return place(start, step > 0 and low or high), place(stop, step > 0 and high or low), step
end

local function take(list, count, start, stop, step)
  local taken, n = {}, 0
  local first, last, by = indices(start, stop, step, count)
  for i = first, by > 0 and last - 1 or last + 1, by do
    n = n + 1
    taken[n] = list[i + 1]
  end
  return taken, n
end

local function slice_text(run, text, start, stop, step)
  run:work(#text / 16)
  if step == values.none and unicode.is_ascii(text) then
    local first, last = indices(start, stop, step, #text)
    return run:made(text:sub(first + 1, last))
  end
  run:work(#text)
  run:bytes(32 * #text)
  local list = unicode.characters(text)
  return run:made(table.concat((take(list, #list, start, stop, step))))
end

--- x[start:stop:step]; none = left out.
---@param run crucible.jinja.Run
---@param value any
---@param start any
---@param stop any
---@param step any
---@return any
function access.slice(run, value, start, stop, step)
  if type(value) == "string" then return slice_text(run, value, start, stop, step) end
  if values.is_list(value) and indexed[value.kind] then
    if value.kind == "range" then fault.raise("unsupported", nil, "slices of a range are not supported") end
    run:work(value.n)
    run:bytes(16 * value.n)
    local items, n = take(value, value.n, start, stop, step)
    return values.list(items, n, value.kind)
  end
  values.refuse_undefined(value)
  fault.raise("format", nil, "a %s has no slices", values.type_name(value))
end

return access
