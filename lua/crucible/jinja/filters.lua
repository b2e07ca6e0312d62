-- What stands behind `|`: Jinja's filters, as far as chat templates go.
local access = require "crucible.jinja.access"
local arguments = require "crucible.jinja.arguments"
local fault = require "crucible.jinja.fault"
local strings = require "crucible.jinja.strings"
local suggest = require "crucible.suggest"
local tests = require "crucible.jinja.tests"
local unicode = require "crucible.jinja.unicode"
local values = require "crucible.jinja.values"

local filters = {}

---@type table<string, { parameters: string[], required: integer, call: fun(run: crucible.jinja.Run, value: any, ...): any }>
local known = { tojson = require "crucible.jinja.tojson" }

-- Filters that take the arguments of another filter or test behind their own.
---@type table<string, fun(run: crucible.jinja.Run, value: any, given: crucible.jinja.Arguments): any>
local open_ended = {}

local function filter(name, parameters, required, call)
  known[name] = { parameters = parameters, required = required, call = call }
end

local function alias(name, other) known[name] = known[other] end

local function generator(items, n) return values.list(items, n, "generator") end

-- ---- one value --------------------------------------------------------------------------------------------

filter("default", { "default_value", "boolean" }, 0, function(_, value, default, boolean)
  local missing = values.is_undefined(value) or boolean and values.truth(boolean) and not values.truth(value)
  if not missing then return value end
  if default == nil then return "" end
  return default
end)
alias("d", "default")

filter("string", {}, 0, function(run, value) return values.text(run, value) end)

for _, name in ipairs { "upper", "lower", "capitalize" } do
  filter(name, {}, 0, function(run, value) return strings.call(run, values.text(run, value), name) end)
end

filter("title", {}, 0, function(run, value)
  local text = strings.call(run, values.text(run, value), "lower")
  return run:made((text:gsub("[^%-%s({%[<]+", function(word)
    return word:gsub("^[a-z]", function(char) return string.char(char:byte() - 32) end)
  end)))
end)

filter("trim", { "chars" }, 0, function(run, value, chars)
  return strings.call(run, values.text(run, value), "strip", chars)
end)

filter("replace", { "old", "new", "count" }, 2, function(run, value, old, new, count)
  local most = (count == nil or count == values.none) and -1 or strings.want_integer("replace", count)
  return strings.replace(run, values.text(run, value), values.text(run, old), values.text(run, new), most)
end)

local function parsed_integer(text, base)
  local digits = unicode.strip(text):gsub("_", "")
  if base == 10 and not digits:find "^[-+]?%d+$" then return nil end
  local sign, rest = digits:match "^([-+]?)(.*)$"
  local value = #rest <= 18 and tonumber(rest, base)
  return value and (sign == "-" and -value or value) or nil
end

local function parsed_float(text)
  text = unicode.strip(text)
  return text:find "^[-+]?[%d.]+[eE]?[-+]?%d*$" and tonumber((text:gsub("^%+", ""))) or nil
end

filter("int", { "default", "base" }, 0, function(_, value, default, base)
  local number = values.number(value)
  if type(value) == "string" then
    number = parsed_integer(value, base and strings.want_integer("int", base) or 10) or parsed_float(value)
  end
  local whole = number and math.tointeger(number < 0 and math.ceil(number) or math.floor(number))
  if whole then return whole end
  values.refuse_undefined(value)
  if default == nil then return 0 end
  return default
end)

filter("float", { "default" }, 0, function(_, value, default)
  local number = type(value) == "string" and parsed_float(value) or values.number(value)
  if number then return number + 0.0 end
  values.refuse_undefined(value)
  if default == nil then return 0.0 end
  return default
end)

filter("abs", {}, 0, function(_, value)
  local number = values.number(value)
  if number then return math.abs(number) end
  values.refuse_undefined(value)
  fault.raise("format", nil, "abs: a %s is no number", values.type_name(value))
end)

filter("indent", { "width", "first", "blank" }, 0, function(run, value, width, first, blank)
  if type(value) ~= "string" then
    values.refuse_undefined(value)
    fault.raise("format", nil, "indent expects a str, got a %s", values.type_name(value))
  end
  local pad = type(width) == "string" and width or (" "):rep(math.min(1000, strings.want_integer("indent", width or 4)))
  local lines = strings.call(run, values.text(run, value) .. "\n", "splitlines")
  run:bytes(lines.n * #pad)
  for i = 1, lines.n do
    local wanted = i > 1 or first and values.truth(first)
    if wanted and (lines[i] ~= "" or i == 1 or blank and values.truth(blank)) then lines[i] = pad .. lines[i] end
  end
  return run:made(table.concat(lines, "\n", 1, lines.n))
end)

-- ---- of a sequence --------------------------------------------------------------------------------------------

filter("length", {}, 0, function(run, value)
  if type(value) == "string" then run:work(#value / 64) end
  local length = values.length(value)
  if length then return length end
  fault.raise("format", nil, "a %s has no length", values.type_name(value))
end)
alias("count", "length")

filter("list", {}, 0, function(run, value)
  local items, n = values.items(run, value)
  run:bytes(16 * n)
  return values.list(items, n)
end)

filter("first", {}, 0, function(run, value)
  if values.is_list(value) and value.kind == "generator" and value.n > 0 then
    value.n = value.n - 1
    return table.remove(value, 1)
  end
  local items, n = values.items(run, value)
  if n == 0 then return values.undefined "there is no first item: the sequence is empty" end
  return items[1]
end)

filter("last", {}, 0, function(run, value)
  if values.is_list(value) and value.kind == "generator" then
    fault.raise("format", nil, "last: a generator has no end to begin at")
  end
  local items, n = values.items(run, value)
  if n == 0 then return values.undefined "there is no last item: the sequence is empty" end
  return items[n]
end)

filter("reverse", {}, 0, function(run, value)
  local text = type(value) == "string"
  local items, n = values.items(run, value)
  local turned = {}
  for i = 1, n do turned[i] = items[n - i + 1] end
  if text then return run:made(table.concat(turned)) end
  run:bytes(16 * n)
  return values.list(turned, n, values.is_list(value) and value.kind == "generator" and "list" or "generator")
end)

filter("items", {}, 0, function(run, value)
  if values.is_undefined(value) then return generator({}, 0) end
  if not values.is_dict(value) then
    fault.raise("format", nil, "items: a %s is no dict", values.type_name(value))
  end
  run:work(#value.keys)
  run:bytes(80 * #value.keys)
  local items = {}
  for i, key in ipairs(value.keys) do items[i] = values.list({ key, value.map[key] }, 2, "tuple") end
  return generator(items, #items)
end)

-- A function from an item to its attribute, a path with dots; nil = the item itself.
local function getter(attribute)
  if attribute == nil or attribute == values.none then return function(_, item) return item end end
  if type(attribute) ~= "string" then return function(run, item) return access.item(run, item, attribute) end end
  local path = {}
  for part in (attribute .. "."):gmatch "([^.]*)%." do
    path[#path + 1] = part:find "^%d+$" and math.tointeger(tonumber(part)) or part
  end
  return function(run, item)
    for _, key in ipairs(path) do item = access.item(run, item, key) end
    return item
  end
end

filter("join", { "d", "attribute" }, 0, function(run, value, separator, attribute)
  local items, n = values.items(run, value)
  local get, texts = getter(attribute), {}
  separator = separator and values.text(run, separator) or ""
  for i = 1, n do
    texts[i] = values.text(run, get(run, items[i]))
    run:bytes(#texts[i] + #separator)
  end
  return run:made(table.concat(texts, separator))
end)

-- ---- arithmetic -----------------------------------------------------------------------------------------------

filter("sum", { "attribute", "start" }, 0, function(run, value, attribute, start)
  local items, n = values.items(run, value)
  local get, total = getter(attribute), start or 0
  for i = 1, n do
    local number = values.number(get(run, items[i]))
    if not number or not values.number(total) then fault.raise("unsupported", nil, "sum of what is no number") end
    total = values.number(total) + number
  end
  return total
end)

-- Half to even at a number of decimals, as Python's round does.
local function round_common(number, precision)
  local text = ("%." .. precision .. "f"):format(number)
  return tonumber(text) + 0.0
end

filter("round", { "precision", "method" }, 0, function(_, value, precision, way)
  local number = values.number(value)
  precision = precision and strings.want_integer("round", precision) or 0
  if not number or precision < 0 or precision > 50 then
    values.refuse_undefined(value)
    fault.raise("format", nil, "round expects a number and a precision from 0 to 50")
  end
  if way == nil or way == "common" then
    return math.type(number) == "integer" and number or round_common(number, precision)
  end
  if way ~= "ceil" and way ~= "floor" then fault.raise("format", nil, "round: the method is common, ceil or floor") end
  local scale = 10.0 ^ precision
  return math[way](number * scale) / scale
end)

-- ---- order ----------------------------------------------------------------------------------------------------

-- Sorts n items with equal ones left in order; `before(a, b)` may raise.
local function merge_sort(items, n, before)
  local from, to, width = items, {}, 1
  while width < n do
    for low = 1, n, 2 * width do
      local left, right = low, low + width
      local middle, high = math.min(right, n + 1), math.min(low + 2 * width, n + 1)
      for at = low, high - 1 do
        local take_right = left >= middle or right < high and before(from[right], from[left])
        if take_right then
          to[at], right = from[right], right + 1
        else
          to[at], left = from[left], left + 1
        end
      end
    end
    from, to, width = to, from, 2 * width
  end
  return from
end

local function lowered(run, value)
  if type(value) ~= "string" then return value end
  return strings.call(run, value, "lower")
end

-- Items with what they are compared by.
local function keyed(run, items, n, case_sensitive, get)
  local list = {}
  run:bytes(64 * n)
  for i = 1, n do
    local key = get(run, items[i])
    list[i] = { item = items[i], key = case_sensitive and values.truth(case_sensitive) and key or lowered(run, key) }
  end
  return list
end

local function sorted(run, items, n, reverse, case_sensitive, get)
  local list = keyed(run, items, n, case_sensitive, get)
  local down = reverse and values.truth(reverse)
  local order = merge_sort(list, n, function(a, b)
    if down then a, b = b, a end
    return values.less(run, a.key, b.key)
  end)
  local out = {}
  for i = 1, n do out[i] = order[i].item end
  return values.list(out, n)
end

filter("sort", { "reverse", "case_sensitive", "attribute" }, 0, function(run, value, reverse, case_sensitive, attribute)
  if type(attribute) == "string" and attribute:find(",", 1, true) then
    fault.raise("unsupported", nil, "sort by several attributes is not supported")
  end
  local items, n = values.items(run, value)
  return sorted(run, items, n, reverse, case_sensitive, getter(attribute))
end)

filter("dictsort", { "case_sensitive", "by", "reverse" }, 0, function(run, value, case_sensitive, by, reverse)
  if not values.is_dict(value) then
    values.refuse_undefined(value)
    fault.raise("format", nil, "dictsort: a %s is no dict", values.type_name(value))
  end
  if by ~= nil and by ~= "key" and by ~= "value" then fault.raise("format", nil, "dictsort is by key or value") end
  local place, items = by == "value" and 2 or 1, {}
  run:bytes(80 * #value.keys)
  for i, key in ipairs(value.keys) do items[i] = values.list({ key, value.map[key] }, 2, "tuple") end
  return sorted(run, items, #items, reverse, case_sensitive, function(_, pair) return pair[place] end)
end)

local function extreme(name, wins)
  filter(name, { "case_sensitive", "attribute" }, 0, function(run, value, case_sensitive, attribute)
    local items, n = values.items(run, value)
    local list = keyed(run, items, n, case_sensitive, getter(attribute))
    if n == 0 then return values.undefined "there is no item: the sequence is empty" end
    local best = list[1]
    for i = 2, n do
      if wins(run, list[i].key, best.key) then best = list[i] end
    end
    return best.item
  end)
end
extreme("min", function(run, a, b) return values.less(run, a, b) end)
extreme("max", function(run, a, b) return values.less(run, b, a) end)

filter("unique", { "case_sensitive", "attribute" }, 0, function(run, value, case_sensitive, attribute)
  local items, n = values.items(run, value)
  local seen, out = {}, {}
  for _, entry in ipairs(keyed(run, items, n, case_sensitive, getter(attribute))) do
    if type(entry.key) == "table" and entry.key ~= values.none then
      fault.raise("unsupported", nil, "unique of a %s is not supported", values.type_name(entry.key))
    end
    if not seen[entry.key] then out[#out + 1] = entry.item end
    seen[entry.key] = true
  end
  return generator(out, #out)
end)

-- ---- choosing ---------------------------------------------------------------------------------------------------

-- Whether an item is taken: by a test that the arguments from `first` on name, or by its truth.
local function chooser(given, first)
  local name = given[first]
  if name == nil then return function(_, item) return values.truth(item) end end
  if type(name) ~= "string" then fault.raise("format", nil, "the name of a test is a str") end
  local rest = arguments.rest(given, first + 1)
  return function(run, item) return tests.holds(run, name, item, rest) end
end

local function choose(run, value, get, holds, wanted)
  if not values.truth(value) then return generator({}, 0) end -- whatever it is, as in Jinja
  local items, n = values.items(run, value)
  local out = {}
  run:bytes(16 * n)
  for i = 1, n do
    if holds(run, get(run, items[i])) == wanted then out[#out + 1] = items[i] end
  end
  return generator(out, #out)
end

for name, wanted in pairs { select = true, reject = false } do
  open_ended[name] = function(run, value, given)
    return choose(run, value, getter(nil), chooser(given, 1), wanted)
  end
  open_ended[name .. "attr"] = function(run, value, given)
    if given.n == 0 then fault.raise("format", nil, "%sattr needs the name of an attribute", name) end
    return choose(run, value, getter(given[1]), chooser(given, 2), wanted)
  end
end

local function mapper(given)
  local attribute, default = given.named.attribute, given.named.default
  if given.n > 0 and not attribute then
    local name, rest = given[1], arguments.rest(given, 2)
    return function(run, item) return filters.apply(run, name, item, rest) end
  end
  if attribute == nil then fault.raise("format", nil, "map needs a filter or an attribute") end
  local get = getter(attribute)
  return function(run, item)
    local found = get(run, item)
    if default ~= nil and values.is_undefined(found) then return default end
    return found
  end
end

open_ended.map = function(run, value, given)
  local change = mapper(given)
  if not values.truth(value) then return generator({}, 0) end
  local items, n = values.items(run, value)
  run:bytes(16 * n)
  for i = 1, n do items[i] = change(run, items[i]) end
  return generator(items, n)
end

-- ---- the door -----------------------------------------------------------------------------------------------------

-- What Jinja has and this file has not. "safe" changes nothing where it stands last; the parser sees to that.
local others = {}
for name in ([[attr batch center e escape filesizeformat forceescape format groupby pprint random safe slice
  striptags truncate urlencode urlize wordcount wordwrap xmlattr]]):gmatch "%S+" do
  others[name] = true
end

--- Whether a filter's name is one of Jinja's.
---@param name string
---@return boolean
function filters.exists(name) return (known[name] or open_ended[name] or others[name]) ~= nil end

--- The names that are supported, sorted.
---@return string[]
function filters.names()
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  for name in pairs(open_ended) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- What stands at the end of a message about an unknown name.
---@param name string
---@return string
function filters.advice(name) return suggest.phrase(name, filters.names()) end

--- A value through the filter of a name.
---@param run crucible.jinja.Run
---@param name any
---@param value any
---@param given crucible.jinja.Arguments
---@return any
function filters.apply(run, name, value, given)
  run:work(1)
  if open_ended[name] then return open_ended[name](run, value, given) end
  local found = known[name]
  if found then
    return found.call(run, value,
      arguments.unpack("the filter '" .. name .. "'", given, found.parameters, found.required))
  end
  if others[name] then fault.raise("unsupported", nil, "the filter '%s' is not supported", name) end
  name = type(name) == "string" and name or values.type_name(name)
  fault.raise("format", nil, "unknown filter '%s'%s", fault.show(name), filters.advice(name))
end

return filters
