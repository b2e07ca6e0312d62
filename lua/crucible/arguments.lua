-- A program's arguments, read by a schema: --name value, --name=value, --flag, --no-flag.
-- Dashes in names stand for underscores.
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

--- The options in `words` with the schema's defaults.
---@param schema crucible.schema
---@param words string[]  a program's `arg`
---@return table? options, string? message, string? code
function arguments.parse(schema, words)
  local given, i = {}, 1
  while i <= #words do
    local name, attached = words[i]:match("^%-%-([%w%-_]+)=(.*)$")
    name = name or words[i]:match("^%-%-([%w%-_]+)$")
    if not name then return errors.failure("argument", "unexpected argument: %s", words[i]) end
    local entry, flag = find_entry(schema, name)
    if not entry then return nil, flag, "argument" end
    local value, taken = read_value(entry, flag, attached, words[i + 1])
    if value == nil then return nil, taken, "argument" end
    given[entry.name] = value
    i = i + 1 + taken
  end
  return schema:resolve(given)
end

--- One line an option, for a program's --help.
---@param schema crucible.schema
---@return string
function arguments.help(schema)
  local lines = {}
  for _, entry in ipairs(schema.entries) do
    local default = entry.default ~= nil and (" [%s]"):format(tostring(entry.default)) or ""
    lines[#lines + 1] = ("  --%-18s %s%s"):format(entry.name:gsub("_", "-"), entry.doc, default)
  end
  return table.concat(lines, "\n") .. "\n"
end

return arguments
