-- A program's arguments, read by a schema: --name value, --name=value, --flag, --no-flag.
-- Dashes in names stand for underscores. Words without dashes go to the schema's positional entries,
-- in order, one each; an entry that is a list takes the rest. After "--" every word is such a word. A value that is
-- neither a number nor a word (a list, a table of numbers) is written as JSON, or as words with commas between.
local errors = require "crucible.errors"
local json = require "crucible.json"
local suggest = require "crucible.suggest"
local terminal = require "crucible.terminal"

local arguments = {}

local readers = {
  integer = function(text) return math.tointeger(tonumber(text)) end,
  number = function(text) return tonumber(text) end,
  string = function(text) return text end,
  strings = function(text)
    local list = {}
    for word in text:gmatch("[^,]+") do list[#list + 1] = word end
    return list
  end,
}

-- A table as JSON, a list of words, or the word itself: the first that the check accepts.
local function read_other(entry, text)
  local value, _, code = json.decode(text)
  if not code and type(value) == "table" then return value end
  if entry.check.read(text) then return text end
  local list, numbers = readers.strings(text), {}
  for i, word in ipairs(list) do numbers[i] = tonumber(word) end
  if #list > 0 and #numbers == #list and entry.check.read(numbers) then return numbers end
  local as_number = tonumber(text)
  if as_number and entry.check.read(as_number) then return as_number end
  return list
end

local function read_text(entry, text)
  local reader = readers[entry.check.kind]
  if reader then
    local value = reader(text)
    if value ~= nil and entry.check.read(value) then return value end
    -- The first of several kinds that an option may be is what it is called; the others are tried here.
    return entry.check.choices and read_other(entry, text) or value
  end
  if entry.check.kind == "boolean" then
    if text == "true" or text == "false" then return text == "true" end
  end
  return read_other(entry, text)
end

local function find_entry(schema, name)
  local entry = schema.by_name[name:gsub("-", "_")]
  if entry then return entry, true end
  entry = schema.by_name[(name:match("^no%-(.+)$") or ""):gsub("-", "_")]
  if entry and entry.check.kind == "boolean" then return entry, false end
  local known = {}
  for i, key in ipairs(schema.names) do known[i] = "--" .. key:gsub("_", "-") end
  return errors.failure("argument", "unknown option --%s%s", name, suggest.phrase("--" .. name, known))
end

-- Value of one option and how many words it took.
local function read_value(entry, flag, attached, following)
  if entry.check.kind == "boolean" and not attached then return flag, 0 end
  local text = attached or following
  if not text then return errors.failure("argument", "--%s needs a value: %s", entry.name, entry.check.what) end
  local value = read_text(entry, text)
  local ok, kept = false, nil
  if value ~= nil then ok, kept = entry.check.read(value) end
  if not ok then
    local expected = type(kept) == "string" and kept or "must be " .. entry.check.what
    return errors.failure("argument", "--%s %s, got %s", entry.name:gsub("_", "-"), expected, text)
  end
  return kept, attached and 0 or 1
end

local function positional_entries(schema)
  local entries = {}
  for _, entry in ipairs(schema.entries) do
    if entry.positional then entries[#entries + 1] = entry end
  end
  return entries
end

-- Gives a word without dashes to the next positional entry; nil, message, code when there is none left.
local function place_word(entries, given, word)
  for _, entry in ipairs(entries) do
    if entry.check.kind == "strings" then
      given[entry.name] = given[entry.name] or {}
      table.insert(given[entry.name], word)
      return true
    end
    if given[entry.name] == nil then
      local value, message, code = read_value(entry, true, word)
      if value == nil then return nil, message, code end
      given[entry.name] = value
      return true
    end
  end
  return errors.failure("argument", "unexpected argument: %s", word)
end

local function missing_entry(entries, given)
  for _, entry in ipairs(entries) do
    if entry.required and given[entry.name] == nil then return entry end
  end
end

-- One option or word; how many words it took.
local function take(schema, entries, given, words, i)
  local name, attached = words[i]:match("^%-%-([%w%-_]+)=(.*)$")
  name = name or words[i]:match("^%-%-([%w%-_]+)$")
  if not name then
    if words[i]:find("^%-.") then return errors.failure("argument", "unexpected argument: %s", words[i]) end
    local ok, message, code = place_word(entries, given, words[i])
    return ok and 1, message, code
  end
  local entry, flag = find_entry(schema, name)
  if not entry then return nil, flag, "argument" end
  local value, taken, code = read_value(entry, flag, attached, words[i + 1])
  if value == nil then return nil, taken, code end
  given[entry.name] = value
  return 1 + taken
end

--- The options in `words` with the schema's defaults. A required positional entry that got no word is an
--- error, unless --help is among the options.
---@param schema crucible.schema
---@param words string[]  a program's `arg`
---@param explicit boolean?  without defaults: only what was given
---@return table? options, string? message, string? code
function arguments.parse(schema, words, explicit)
  local given, entries, i = {}, positional_entries(schema), 1
  while i <= #words do
    if words[i] == "--" then break end
    local taken, message, code = take(schema, entries, given, words, i)
    if not taken then return nil, message, code end
    i = i + taken
  end
  for rest = i + 1, #words do
    local ok, message, code = place_word(entries, given, words[rest])
    if not ok then return nil, message, code end
  end
  if given.help then return { help = true } end
  local missing = missing_entry(entries, given)
  if missing then return errors.failure("argument", "%s missing: %s", missing.name, missing.doc) end
  return explicit and given or schema:resolve(given)
end

--- The default of an option for a help text: " [8]", or "".
---@param entry crucible.schema.Entry
---@return string
function arguments.default_text(entry)
  local value = entry.default
  if value == nil or value == false then return "" end
  if type(value) ~= "table" then return (" [%s]"):format(tostring(value)) end
  return #value > 0 and (" [%s]"):format(table.concat(value, ",")) or ""
end

--- How an option is written on a command line: "--batch-size INTEGER", "DATASET", "--[no-]base".
---@param entry crucible.schema.Entry
---@return string
function arguments.form(entry)
  if entry.positional then return entry.name:upper() end
  local name, kind = entry.name:gsub("_", "-"), entry.check.kind
  if kind == "boolean" then return entry.default == true and "--[no-]" .. name or "--" .. name end
  local words = { integer = "N", number = "X", strings = "A,B", string = "TEXT" }
  return ("--%s %s"):format(name, words[kind] or "VALUE")
end

local function option_text(entry, width)
  local form = "  " .. arguments.form(entry)
  local doc = entry.doc .. arguments.default_text(entry)
  local column = 26
  local wrapped = terminal.wrap(doc, width - column, (" "):rep(column))
  if #form < column - 1 then return form .. wrapped:sub(#form + 1) end
  return form .. "\n" .. wrapped
end

local function height(text) return select(2, text:gsub("\n", "")) + 1 end

--- As many options as fit into so many lines, in order, and how many were left out.
---@param schema crucible.schema
---@param lines integer
---@param width integer
---@return string text, integer left_out
function arguments.fitting(schema, lines, width)
  local parts, left_out = {}, 0
  for _, entry in ipairs(schema.entries) do
    local text = option_text(entry, width)
    if left_out > 0 or height(text) > lines then
      left_out = left_out + 1
    else
      parts[#parts + 1], lines = text .. "\n", lines - height(text)
    end
  end
  return table.concat(parts), left_out
end

--- The options one after another, for a program's --help: each form, then its line of documentation.
---@param schema crucible.schema
---@param width integer?  columns; 80
---@return string
function arguments.help(schema, width)
  return (arguments.fitting(schema, math.maxinteger, width or 80))
end

return arguments
