-- Option tables: each option has a name, a check, a default and one line of doc, and the same
-- table refuses bad options, fills defaults and prints the help.
local errors = require "crucible.errors"
local suggest = require "crucible.suggest"

---@class crucible.schema.Check
---@field what string  what is expected: "an integer of at least 1"
---@field kind string  "integer", "number", "boolean", "string", "strings" or "other"
---@field read fun(value: any): boolean, any  true and the value to keep; or false and, if any, a reason
---@field choices crucible.schema.Check[]?  of schema.either
---@field words string[]?  of schema.one_of

---@class crucible.schema.Entry
---@field name string
---@field check crucible.schema.Check
---@field doc string
---@field default any
---@field required boolean?
---@field scope string?  a group that the owner of the schema may ask for
---@field positional boolean?  on a command line it is a word without dashes (crucible.arguments)

---@class crucible.schema
---@field owner string  the function whose options these are, for messages
---@field entries crucible.schema.Entry[]
local Schema = {}
Schema.__index = Schema

local schema = {}

-- ---- checks -------------------------------------------------------------------------------

local function check(kind, what, read) return { kind = kind, what = what, read = read } end

-- What `read` returns for a value that needs no other reason than `what`.
local function accept(ok, value)
  if ok then return true, value end
  return false
end

local function is_finite(value)
  return type(value) == "number" and value == value and value ~= math.huge and value ~= -math.huge
end

local function limits_phrase(noun, limits)
  local parts = {}
  if limits.min then parts[#parts + 1] = ("of at least %s"):format(limits.min) end
  if limits.above then parts[#parts + 1] = ("above %s"):format(limits.above) end
  if limits.max then parts[#parts + 1] = (#parts == 0 and "of at most %s" or "at most %s"):format(limits.max) end
  if limits.below then parts[#parts + 1] = ("below %s"):format(limits.below) end
  if #parts == 0 then return noun end
  return noun .. " " .. table.concat(parts, " and ")
end

local function within(value, limits)
  return not (limits.min and value < limits.min) and not (limits.above and value <= limits.above)
    and not (limits.max and value > limits.max) and not (limits.below and value >= limits.below)
end

--- A whole number; 8.0 is taken as 8.
---@param limits { min: number?, above: number?, max: number?, below: number? }?
---@return crucible.schema.Check
function schema.integer(limits)
  limits = limits or {}
  return check("integer", limits_phrase("an integer", limits), function(value)
    local whole = is_finite(value) and math.tointeger(value)
    if not whole then return false end
    return accept(within(whole, limits), whole)
  end)
end

--- A finite number.
---@param limits { min: number?, above: number?, max: number?, below: number? }?
---@return crucible.schema.Check
function schema.number(limits)
  limits = limits or {}
  return check("number", limits_phrase("a number", limits), function(value)
    return accept(is_finite(value) and within(value, limits), value)
  end)
end

local function of_type(kind, what)
  return check(kind, what, function(value) return accept(type(value) == kind, value) end)
end

schema.boolean = of_type("boolean", "true or false")
schema.string = of_type("string", "a string")
schema.table = check("other", "a table", function(value) return accept(type(value) == "table", value) end)
schema.any = check("other", "a value", function(value) return true, value end)

schema.callable = check("other", "a function", function(value)
  local meta = getmetatable(value)
  local callable = type(value) == "function" or (type(meta) == "table" and meta.__call ~= nil)
  return accept(callable, value)
end)

schema.nonempty_string = check("string", "a string that is not empty", function(value)
  return accept(type(value) == "string" and value ~= "", value)
end)

--- One of some words.
---@param words string[]
---@return crucible.schema.Check
function schema.one_of(words)
  local quoted = {}
  for i, word in ipairs(words) do quoted[i] = ('"%s"'):format(word) end
  local made = check("string", "one of " .. table.concat(quoted, ", "), function(value)
    for _, word in ipairs(words) do
      if value == word then return true, value end
    end
    return false
  end)
  made.words = words
  return made
end

--- A list whose members satisfy `member`; copied.
---@param member crucible.schema.Check
---@param options { nonempty: boolean?, what: string? }?
---@return crucible.schema.Check
function schema.list(member, options)
  options = options or {}
  local what = options.what or ("a list, each member " .. member.what)
  local kind = member.kind == "string" and "strings" or "other"
  return check(kind, what, function(value)
    if type(value) ~= "table" or (options.nonempty and #value == 0) then return false end
    local copy = {}
    for i = 1, #value do
      local ok, kept = member.read(value[i])
      if not ok then return false, kept end
      copy[i] = kept
    end
    for key in pairs(value) do
      if math.type(key) ~= "integer" or key < 1 or key > #copy then return false end
    end
    return true, copy
  end)
end

--- The first of several checks that accepts.
---@param ... crucible.schema.Check
---@return crucible.schema.Check
function schema.either(...)
  local choices, whats = { ... }, {}
  for i, choice in ipairs(choices) do whats[i] = choice.what end
  local made = check(choices[1].kind, table.concat(whats, " or "), function(value)
    local reason
    for _, choice in ipairs(choices) do
      local ok, kept = choice.read(value)
      if ok then return true, kept end
      reason = reason or kept
    end
    return false, type(reason) == "string" and reason or nil
  end)
  made.choices = choices
  return made
end

--- A check of one's own: `test(value)` returns true, or false and perhaps a reason that is
--- shown instead of `what`.
---@param what string
---@param test fun(value: any): boolean, string?
---@return crucible.schema.Check
function schema.test(what, test)
  return check("other", what, function(value)
    local ok, reason = test(value)
    if ok then return true, value end
    return false, reason
  end)
end

-- ---- schemas ------------------------------------------------------------------------------

--- How a value reads in a message: `"text"`, `0`, `a table`.
---@param value any
---@return string
function schema.show(value)
  if type(value) == "string" then
    local short = #value > 60 and value:sub(1, 57) .. "..." or value
    return '"' .. short:gsub('[%c"\\]', function(c) return ("\\%d"):format(c:byte()) end) .. '"'
  end
  if type(value) == "table" then
    if next(value) == nil then return "an empty table" end
    return "a table"
  end
  if type(value) == "number" or type(value) == "boolean" or value == nil then return tostring(value) end
  return "a " .. type(value)
end

--- A deep copy; what has a metatable stays what it is.
---@param value any
---@return any
local function deep_copy(value)
  if type(value) ~= "table" or getmetatable(value) then return value end
  local copy = {}
  for key, inner in pairs(value) do copy[key] = deep_copy(inner) end
  return copy
end
schema.copy = deep_copy

--- Schemas by owner: what help() looks options up in.
---@type table<string, crucible.schema>
schema.by_owner = {}

--- A schema for the options of `owner`.
---@param owner string
---@param entries crucible.schema.Entry[]
---@return crucible.schema
function schema.new(owner, entries)
  local self = setmetatable({ owner = owner, entries = entries, by_name = {}, names = {} }, Schema)
  for i, entry in ipairs(entries) do
    self.by_name[entry.name] = entry
    self.names[i] = entry.name
  end
  schema.by_owner[owner] = self
  return self
end

--- Says that another function takes the same options, for help().
---@param owner string
---@return crucible.schema self
function Schema:also(owner)
  schema.by_owner[owner] = self
  return self
end

function Schema:refuse(entry, value, reason)
  if type(reason) == "string" then errors.raise("%s: %s: %s", self.owner, entry.name, reason) end
  errors.raise("%s: %s must be %s, got %s", self.owner, entry.name, entry.check.what, schema.show(value))
end

--- The options with defaults filled in; raises on an unknown option, a wrong value, or a
--- required one that is missing.
---@param options table?
---@return table
function Schema:resolve(options)
  if options == nil then options = {} end
  if type(options) ~= "table" then
    errors.raise("%s: expected a table of options, got %s", self.owner, schema.show(options))
  end
  self:refuse_unknown(options)
  local resolved = {}
  for _, entry in ipairs(self.entries) do resolved[entry.name] = self:read(entry, options[entry.name]) end
  return resolved
end

function Schema:read(entry, value)
  if value == nil then
    if entry.required then errors.raise("%s: %s is missing: %s", self.owner, entry.name, entry.check.what) end
    return deep_copy(entry.default)
  end
  local ok, kept = entry.check.read(value)
  if not ok then self:refuse(entry, value, kept) end
  return kept
end

function Schema:refuse_unknown(options)
  for key in pairs(options) do
    if type(key) ~= "string" then
      errors.raise("%s: options are named, got one without a name at %s", self.owner, schema.show(key))
    end
    if not self.by_name[key] then
      errors.raise('%s: unknown option "%s"%s', self.owner, key, suggest.phrase(key, self.names))
    end
  end
end

--- The default of every option that has one.
---@return table
function Schema:defaults()
  local defaults = {}
  for _, entry in ipairs(self.entries) do defaults[entry.name] = deep_copy(entry.default) end
  return defaults
end

--- The part of `options` that this schema knows: for functions that hand options on.
---@param options table
---@return table
function Schema:pick(options)
  local picked = {}
  for _, name in ipairs(self.names) do picked[name] = options[name] end
  return picked
end

--- The default of an option in words: `8`, `"text"`, `-` for none, `required`.
---@param entry crucible.schema.Entry
---@return string
function schema.show_default(entry)
  if entry.required then return "required" end
  local value = entry.default
  if type(value) ~= "table" then return value == nil and "-" or schema.show(value) end
  if #value > 0 then return table.concat(value, ", ") end
  local parts = {}
  for key, inner in pairs(value) do parts[#parts + 1] = ("%s = %s"):format(key, tostring(inner)) end
  table.sort(parts)
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

--- One paragraph an option: name, default, doc, what is accepted.
---@return string
function Schema:help()
  local lines = { self.owner }
  for _, entry in ipairs(self.entries) do
    lines[#lines + 1] = ("  %s = %s"):format(entry.name, schema.show_default(entry))
    lines[#lines + 1] = ("      %s (%s)"):format(entry.doc, entry.check.what)
  end
  return table.concat(lines, "\n") .. "\n"
end

return schema
