-- A program's arguments, read by a schema: --name value, --name=value, --flag, --no-flag.
-- Dashes in names stand for underscores. Words without dashes go to the schema's positional entries,
-- in order, one each; an entry that is a list takes the rest. After "--" every word is such a word.
local errors = require "crucible.errors"
local suggest = require "crucible.suggest"

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
  local reader = readers[entry.check.kind] or readers.string
  local value = reader(text)
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
---@return table? options, string? message, string? code
function arguments.parse(schema, words)
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
  return schema:resolve(given)
end

local function default_text(entry)
  local value = entry.default
  if value == nil or value == false then return "" end
  if type(value) ~= "table" then return (" [%s]"):format(tostring(value)) end
  return #value > 0 and (" [%s]"):format(table.concat(value, ",")) or ""
end

--- One line an option, for a program's --help.
---@param schema crucible.schema
---@return string
function arguments.help(schema)
  local lines = {}
  for _, entry in ipairs(schema.entries) do
    local name = entry.positional and entry.name:upper() or "--" .. entry.name:gsub("_", "-")
    lines[#lines + 1] = ("  %-20s %s%s"):format(name, entry.doc, default_text(entry))
  end
  return table.concat(lines, "\n") .. "\n"
end

return arguments
