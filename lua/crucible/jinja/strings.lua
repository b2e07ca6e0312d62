-- Python's methods of str that templates use, each on a text and its arguments.
local arguments = require "crucible.jinja.arguments"
local fault = require "crucible.jinja.fault"
local unicode = require "crucible.jinja.unicode"
local values = require "crucible.jinja.values"

local strings = {}

---@type table<string, { parameters: string[], required: integer, call: fun(run: crucible.jinja.Run, text: string, ...): any }>
local methods = {}

local function method(name, parameters, required, call)
  methods[name] = { parameters = parameters, required = required, call = call }
end

-- ---- checks -------------------------------------------------------------------------------------------

local function want_text(name, value)
  if type(value) == "string" then return value end
  values.refuse_undefined(value)
  fault.raise("format", nil, "%s() expects a str, got a %s", name, values.type_name(value))
end

local function want_integer(name, value)
  local number = type(value) ~= "number" and values.number(value) or value
  if math.type(number) == "integer" then return number end
  values.refuse_undefined(value)
  fault.raise("format", nil, "%s() expects an int, got a %s", name, values.type_name(value))
end
strings.want_integer = want_integer

-- ---- white space ----------------------------------------------------------------------------------------

-- A set of characters out of an argument; nil = white space.
local function character_set(name, chars)
  if chars == nil or chars == values.none then return nil end
  local set = {}
  for _, char in ipairs(unicode.characters(want_text(name, chars))) do set[char] = true end
  return set
end

for name, sides in pairs { strip = { false, false }, lstrip = { true, false }, rstrip = { false, true } } do
  method(name, { "chars" }, 0, function(run, text, chars)
    run:work(#text / 4)
    return run:made(unicode.strip(text, character_set(name, chars), sides[1], sides[2]))
  end)
end

-- ---- splitting --------------------------------------------------------------------------------------------

-- Collects parts of a text, counting them.
local function add_part(run, parts, text)
  run:work(1)
  parts[#parts + 1] = run:made(text)
end

local function split_spaces(run, text, most)
  local parts, at = {}, unicode.skip(text, 1, unicode.spaces)
  while at <= #text and #parts ~= most do
    local last = at
    while last <= #text and not unicode.spaces[text:sub(last, unicode.ends(text, last))] do
      last = unicode.ends(text, last) + 1
    end
    add_part(run, parts, text:sub(at, last - 1))
    at = unicode.skip(text, last, unicode.spaces)
  end
  if at <= #text then add_part(run, parts, unicode.strip(text:sub(at), nil, false, true)) end
  return parts
end

local function split_at(run, text, separator, most)
  local parts, at = {}, 1
  while #parts ~= most do
    local from, last = text:find(separator, at, true)
    if not from then break end
    add_part(run, parts, text:sub(at, from - 1))
    at = last + 1
  end
  add_part(run, parts, text:sub(at))
  return parts
end

-- The last place where `sought` stands and ends by `last`; nil when nowhere.
local function find_last(text, sought, last)
  if sought == "" then return last + 1 end
  local found
  local at = text:find(sought, 1, true)
  while at and at + #sought - 1 <= last do
    found, at = at, text:find(sought, at + 1, true)
  end
  return found
end

local function rsplit_at(run, text, separator, most)
  local all = split_at(run, text, separator, -1)
  local joined = #all - most
  if most < 0 or joined <= 1 then return all end
  local parts = { table.concat(all, separator, 1, joined) }
  return table.move(all, joined + 1, #all, 2, parts)
end

local function split(name, at_separator)
  method(name, { "sep", "maxsplit" }, 0, function(run, text, separator, most)
    most = most and want_integer(name, most) or -1
    if separator == nil or separator == values.none then
      if name == "rsplit" and most >= 0 then
        fault.raise("unsupported", nil, "rsplit() at white space with maxsplit is not supported")
      end
      run:work(#text / 4)
      return values.list(split_spaces(run, text, most))
    end
    if want_text(name, separator) == "" then fault.raise("format", nil, "%s() got an empty separator", name) end
    run:searched(text, separator)
    return values.list(at_separator(run, text, separator, most))
  end)
end
split("split", split_at)
split("rsplit", rsplit_at)

local line_ends = {
  ["\n"] = true, ["\v"] = true, ["\f"] = true, ["\x1C"] = true, ["\x1D"] = true, ["\x1E"] = true, ["\u{85}"] = true,
  ["\u{2028}"] = true, ["\u{2029}"] = true, ["\r"] = true,
}

method("splitlines", { "keepends" }, 0, function(run, text, keep)
  local parts, from, at = {}, 1, 1
  run:work(#text / 4)
  while at <= #text do
    local last = unicode.ends(text, at)
    if line_ends[text:sub(at, last)] then
      local stop = at - 1
      if text:sub(at, at + 1) == "\r\n" then last = at + 1 end
      add_part(run, parts, text:sub(from, keep and values.truth(keep) and last or stop))
      from = last + 1
    end
    at = last + 1
  end
  if from <= #text then add_part(run, parts, text:sub(from)) end
  return values.list(parts)
end)

local function partition(name, find, empty)
  method(name, { "sep" }, 1, function(run, text, separator)
    if want_text(name, separator) == "" then fault.raise("format", nil, "%s() got an empty separator", name) end
    run:searched(text, separator)
    run:work(#text / 4)
    local at = find(text, separator)
    local parts = empty(text)
    if at then parts = { text:sub(1, at - 1), separator, text:sub(at + #separator) } end
    for _, part in ipairs(parts) do run:made(part) end
    return values.list(parts, 3, "tuple")
  end)
end
partition("partition", function(text, sought) return (text:find(sought, 1, true)) end,
  function(text) return { text, "", "" } end)
partition("rpartition", function(text, sought) return find_last(text, sought, #text) end,
  function(text) return { "", "", text } end)

-- ---- looking ----------------------------------------------------------------------------------------------

-- The bytes that characters start..stop (Python's, from 0) of a text lie in.
local function byte_range(name, text, start, stop)
  local ascii = unicode.is_ascii(text)
  local list = not ascii and unicode.characters(text) or nil
  local count = list and #list or #text
  local function place(value, default)
    if value == nil or value == values.none then return default end
    value = want_integer(name, value)
    return math.max(0, math.min(count, value < 0 and value + count or value))
  end
  local from, to = place(start, 0), place(stop, count)
  if not list then return from + 1, to end
  local bytes = { [0] = 0 }
  for i, char in ipairs(list) do bytes[i] = bytes[i - 1] + #char end
  return bytes[from] + 1, bytes[to]
end

local function affix(name, holds)
  method(name, { "prefix", "start", "end" }, 1, function(run, text, sought, start, stop)
    local from, to = 1, #text
    if start or stop then
      run:work(#text)
      from, to = byte_range(name, text, start, stop)
    end
    local choices = values.is_list(sought) and sought.kind == "tuple" and sought or { n = 1, sought }
    for i = 1, choices.n do
      run:work(1 + #want_text(name, choices[i]) / 64)
      if to - from + 1 >= #choices[i] and holds(text, choices[i], from, to) then return true end
    end
    return false
  end)
end
affix("startswith", function(text, sought, from) return text:sub(from, from + #sought - 1) == sought end)
affix("endswith", function(text, sought, _, to) return text:sub(to - #sought + 1, to) == sought end)

local function finder(name, search, must)
  method(name, { "sub", "start", "end" }, 1, function(run, text, sought, start, stop)
    run:searched(text, want_text(name, sought))
    run:work(#text / 4)
    local from, to = byte_range(name, text, start, stop)
    local at = search(text:sub(from, to), sought)
    if at and from <= to + 1 then return unicode.length(text:sub(1, from + at - 2)) end
    if must then fault.raise("format", nil, "%s(): the text is not there", name) end
    return -1
  end)
end
local function first(text, sought) return (text:find(sought, 1, true)) end
local function last(text, sought) return find_last(text, sought, #text) end
finder("find", first)
finder("index", first, true)
finder("rfind", last)
finder("rindex", last, true)

method("count", { "sub" }, 1, function(run, text, sought)
  run:searched(text, want_text("count", sought))
  if sought == "" then return unicode.length(text) + 1 end
  local count, at = 0, 1
  while true do
    local _, stop = text:find(sought, at, true)
    if not stop then return count end
    run:work(1)
    count, at = count + 1, stop + 1
  end
end)

-- ---- changing ---------------------------------------------------------------------------------------------

local function between_all(run, text, new, most)
  local parts, list = {}, unicode.characters(text)
  run:bytes(#text * (16 + #new))
  for i, char in ipairs(list) do
    parts[i] = (most < 0 or i <= most) and new .. char or char
  end
  if most < 0 or most > #list then parts[#parts + 1] = new end
  return table.concat(parts)
end

--- Python's str.replace; `most` < 0 = all.
---@param run crucible.jinja.Run
---@param text string
---@param old string
---@param new string
---@param most integer
---@return string
function strings.replace(run, text, old, new, most)
  run:searched(text, old)
  if old == "" then return run:made(between_all(run, text, new, most)) end
  local parts, at, count = {}, 1, 0
  while count ~= most do
    local from, stop = text:find(old, at, true)
    if not from then break end
    run:work(1)
    run:bytes(from - at + #new + 32)
    count = count + 1
    parts[#parts + 1] = text:sub(at, from - 1)
    parts[#parts + 1] = new
    at = stop + 1
  end
  if count == 0 then return text end
  parts[#parts + 1] = text:sub(at)
  return run:made(table.concat(parts))
end

method("replace", { "old", "new", "count" }, 2, function(run, text, old, new, count)
  return strings.replace(run, text, want_text("replace", old), want_text("replace", new),
    count and want_integer("replace", count) or -1)
end)

method("removeprefix", { "prefix" }, 1, function(run, text, prefix)
  if want_text("removeprefix", prefix) == text:sub(1, #prefix) then return run:made(text:sub(#prefix + 1)) end
  return text
end)

method("removesuffix", { "suffix" }, 1, function(run, text, suffix)
  if want_text("removesuffix", suffix) == "" or text:sub(-#suffix) ~= suffix then return text end
  return run:made(text:sub(1, -#suffix - 1))
end)

method("join", { "iterable" }, 1, function(run, text, iterable)
  local items, n = values.items(run, iterable)
  for i = 1, n do
    want_text("join", items[i])
    run:bytes(#items[i] + #text)
  end
  return run:made(table.concat(items, text, 1, n))
end)

-- Case beyond ASCII needs tables of Unicode that templates have no use for: refused rather than wrong.
local function ascii_case(name, change)
  method(name, {}, 0, function(run, text)
    if not unicode.is_ascii(text) then
      fault.raise("unsupported", nil, "%s() is supported on ASCII text alone", name)
    end
    run:work(#text / 16)
    return run:made(change(text))
  end)
end

-- string.upper follows the locale.
local function upper(text)
  return (text:gsub("[a-z]", function(char) return string.char(char:byte() - 32) end))
end
local function lower(text)
  return (text:gsub("[A-Z]", function(char) return string.char(char:byte() + 32) end))
end

ascii_case("upper", upper)
ascii_case("lower", lower)
ascii_case("casefold", lower)
ascii_case("capitalize", function(text) return upper(text:sub(1, 1)) .. lower(text:sub(2)) end)
ascii_case("title", function(text)
  return (lower(text):gsub("[a-z]+", function(word) return upper(word:sub(1, 1)) .. word:sub(2) end))
end)
ascii_case("swapcase", function(text)
  return (text:gsub("[a-zA-Z]", function(char) return char:find "[a-z]" and upper(char) or lower(char) end))
end)

-- ---- asking -----------------------------------------------------------------------------------------------

local function ascii_question(name, answer)
  method(name, {}, 0, function(run, text)
    if not unicode.is_ascii(text) then
      fault.raise("unsupported", nil, "%s() is supported on ASCII text alone", name)
    end
    run:work(#text / 16)
    return answer(text)
  end)
end
for name, class in pairs { isalpha = "a-zA-Z", isalnum = "a-zA-Z0-9", isdigit = "0-9", isdecimal = "0-9",
  isnumeric = "0-9" } do
  ascii_question(name, function(text) return text ~= "" and not text:find("[^" .. class .. "]") end)
end
ascii_question("isupper", function(text) return text:find "[A-Z]" ~= nil and not text:find "[a-z]" end)
ascii_question("islower", function(text) return text:find "[a-z]" ~= nil and not text:find "[A-Z]" end)
method("isspace", {}, 0, function(run, text)
  run:work(#text / 16)
  return text ~= "" and unicode.skip(text, 1, unicode.spaces) > #text
end)
method("isascii", {}, 0, function(_, text) return unicode.is_ascii(text) end)

-- ---- the door ---------------------------------------------------------------------------------------------

-- What Python has and this file has not.
local others = {}
for name in ([[center encode expandtabs format format_map isidentifier isprintable istitle ljust maketrans rjust
  translate zfill]]):gmatch "%S+" do
  others[name] = true
end

--- The method of a name bound to a text; nil when Python has none. Raises a fault for one that is not
--- supported.
---@param text string
---@param name string
---@return crucible.jinja.Callable?
function strings.method(text, name)
  local found = methods[name]
  if not found then
    if others[name] then fault.raise("unsupported", nil, "the method %s() of a str is not supported", name) end
    return nil
  end
  return values.callable(name, function(run, given)
    run:work(1)
    return found.call(run, text, arguments.unpack(name .. "()", given, found.parameters, found.required))
  end)
end

--- Calls a method by name.
---@param run crucible.jinja.Run
---@param text string
---@param name string
---@param ... any
---@return any
function strings.call(run, text, name, ...) return methods[name].call(run, text, ...) end

return strings
