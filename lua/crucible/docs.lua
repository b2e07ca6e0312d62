-- What the sources say of themselves: the lines of documentation above functions and classes, read from the
-- files that the functions were loaded from. help(), the completion of the prompt and the specs of the manual
-- read here; there is no second copy of any of it.
local fs = require "crucible.fs"
local origin = require "crucible.origin"

local docs = {}

---@class crucible.docs.Parameter
---@field name string  "..." of a vararg
---@field type string  as it is annotated, with what is said of it

---@class crucible.docs.Entry
---@field name string          as it is written: "Session:forward", "training_loop.run"
---@field path string
---@field line integer
---@field text string[]        lines of description
---@field arguments string[]   of the signature, without self
---@field parameters crucible.docs.Parameter[]
---@field returns string[]
---@field alias string?        of `x.y = z`: z

---@class crucible.docs.Class
---@field name string
---@field text string          what stands behind its name, or above
---@field fields { name: string, type: string }[]
---@field path string

---@class crucible.docs.File
---@field header string[]      the comment that the file opens with
---@field entries crucible.docs.Entry[]
---@field by_line table<integer, crucible.docs.Entry>
---@field classes crucible.docs.Class[]
---@field orphans { line: integer, text: string }[]  parameters and results that belong to no function

-- ---- reading a file ------------------------------------------------------------------------------

local function split(text, separator)
  local list = {}
  for piece in text:gmatch("[^" .. separator .. "]+") do list[#list + 1] = piece:match "^%s*(.-)%s*$" end
  return list
end

-- Description, parameters and results out of the lines above a function.
local function annotate(entry, comment)
  for _, line in ipairs(comment) do
    local name, kind = line:match "^@param%s+([%w_.]+)%??%s*(.*)$"
    local result = line:match "^@return%s+(.*)$"
    if name then
      entry.parameters[#entry.parameters + 1] = { name = name, type = kind }
    elseif result then
      entry.returns[#entry.returns + 1] = result
    elseif not line:find "^@" then
      entry.text[#entry.text + 1] = line
    end
  end
  return entry
end

local function new_entry(file, number, name, arguments, comment)
  local entry = annotate({
    name = name, path = file.path, line = number, text = {}, arguments = split(arguments or "", ","), parameters = {},
    returns = {},
  }, comment)
  file.entries[#file.entries + 1], file.by_line[number] = entry, entry
  return entry
end

local function read_classes(file, comment)
  local class
  for _, line in ipairs(comment) do
    local name, rest = line:match "^@class%s+([%w_.]+)%s*:?%s*(.*)$"
    local field, kind = line:match "^@field%s+(%S+)%s+(.*)$"
    if name then
      class = { name = name, text = rest, fields = {}, path = file.path }
      file.classes[#file.classes + 1] = class
    elseif field and class then
      class.fields[#class.fields + 1] = { name = (field:gsub("%?$", "")), type = kind }
    end
  end
end

-- Name, arguments of a function that begins in this line; an assignment's other side.
local function definition(line)
  local name, arguments = line:match "^local function ([%w_]+)%s*(%b())"
  if not name then name, arguments = line:match "^function ([%w_.:]+)%s*(%b())" end
  if not name then name, arguments = line:match "^([%w_]+[%w_.]*)%s*=%s*function%s*(%b())" end
  if name then return name, arguments:sub(2, -2) end
  local left, right = line:match "^([%w_]+%.[%w_.]+)%s*=%s*([%w_.]+)%s*$"
  return left, nil, right
end

-- A signature over several lines, in one.
local function joined(lines, number)
  local line = lines[number]
  if not line:find "function" then return line end
  local last = number
  while not line:find("%b()") and last < number + 5 and lines[last + 1] do
    last = last + 1
    line = line .. " " .. lines[last]
  end
  return line
end

local function read_header(lines)
  local header = {}
  for _, line in ipairs(lines) do
    if line:find "^%-%-%-@meta" or line:find "^#!" then goto continue end
    if not line:find "^%-%-" or line:find "^%-%-%-" then break end
    header[#header + 1] = line:match "^%-%- ?(.*)$"
    ::continue::
  end
  return header
end

-- Annotations of a function above something else. A function may be what a module returns, or stand in a table.
local function note_orphan(file, number, line, comment)
  if line:find "function" then return end
  for _, said in ipairs(comment) do
    if said:find "^@param" or said:find "^@return" then
      file.orphans[#file.orphans + 1] = { line = number, text = line }
      return
    end
  end
end

local function parse(path, text)
  local lines = {}
  for line in (text:gsub("\r", "") .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  local file = { path = path, header = read_header(lines), entries = {}, by_line = {}, classes = {}, orphans = {} }
  local comment = {}
  for number, line in ipairs(lines) do
    local said = line:match "^%-%-%- ?(.*)$"
    if said then
      comment[#comment + 1] = said
    else
      read_classes(file, comment)
      local name, arguments, alias = definition(joined(lines, number))
      if name then
        new_entry(file, number, name, arguments, comment).alias = alias
      else
        note_orphan(file, number, line, comment)
      end
      comment = {}
    end
  end
  return file
end

local known = {} -- path → file; the sources of a running program do not change

--- What a Lua file says of itself; nil when it cannot be read.
---@param path string
---@return crucible.docs.File?
function docs.file(path)
  if known[path] == nil then
    local text = fs.read_file(path)
    known[path] = text and parse(path, text) or false
  end
  return known[path] or nil
end

--- The file of a module by its name, as `require` would find it.
---@param name string  "crucible.lora.config"; of a C module, "crucible.core.meta"
---@return crucible.docs.File?
function docs.module(name)
  local manual = name:match "^crucible%.([%w_]+%.meta)$"
  local path = package.searchpath(manual and "crucible.docs" or name, package.path)
  if path and manual then path = path:gsub("docs%.lua$", manual .. ".lua") end
  return path and docs.file(path)
end

--- The name under which a table was loaded; nil when it is no module.
---@param value any
---@return string?
function docs.module_name(value)
  for name, loaded in pairs(package.loaded) do
    if rawequal(loaded, value) and name:find "^crucible" then return name end
  end
end

-- ---- the C module --------------------------------------------------------------------------------

local CORE_CLASSES = {
  "Model", "Tokenizer", "Session", "Generation", "Constraint", "Encoder", "Lock", "Http", "Transfer", "Rows", "Tokens",
  "TokenWriter",
}

local core_names -- C function → name in the manual

local function name_functions(into, prefix, functions)
  for name, value in pairs(functions) do
    if type(value) == "function" then into[value] = prefix .. name end
  end
end

local function core_functions()
  if core_names then return core_names end
  core_names = {}
  local core = require "crucible.core"
  name_functions(core_names, "core.", core)
  for _, room in ipairs { "fs", "signals", "tensor", "topology" } do
    name_functions(core_names, ("core.%s."):format(room), core[room])
  end
  for _, class in ipairs(CORE_CLASSES) do
    local metatable = debug.getregistry()["crucible." .. class:lower()]
    if metatable then name_functions(core_names, class .. ":", metatable.__index) end
  end
  return core_names
end

local function of_core(value)
  local name = core_functions()[value]
  local manual = name and docs.module "crucible.core.meta"
  for _, entry in ipairs(manual and manual.entries or {}) do
    if entry.name == name then return entry end
  end
end

-- ---- functions -----------------------------------------------------------------------------------

-- The documentation of a class's field of the form `fun(a: T, b: T): T  what it does`.
local function of_field(place)
  local module, name = place:match "^(.-)#(.*)$"
  local file = docs.module(module)
  for _, class in ipairs(file and file.classes or {}) do
    for _, field in ipairs(class.fields) do
      local arguments, text = field.type:match "^fun(%b()):?%s*%S*%s*(.*)$"
      if field.name == name and arguments then
        local entry = { name = name, path = file.path, line = 0, text = { text }, arguments = {}, parameters = {},
          returns = { (field.type:match "%):%s*(%S+)") } }
        for argument, kind in arguments:sub(2, -2):gmatch "([%w_.]+)%??:%s*([^,]+)" do
          entry.arguments[#entry.arguments + 1] = argument
          entry.parameters[#entry.parameters + 1] = { name = argument, type = kind }
        end
        return entry
      end
    end
  end
end

--- The documentation of a function of this library; nil for any other, and for one without.
---@param value function
---@return crucible.docs.Entry?
function docs.of(value)
  if type(value) ~= "function" or not debug then return nil end
  value = origin[value] or value
  if type(value) == "string" then return of_field(value) end
  local info = debug.getinfo(value, "S")
  if info.what == "C" then return of_core(value) end
  local path = info.source:match "^@(.*)$"
  local file = path and docs.file(path)
  return file and file.by_line[info.linedefined]
end

--- The class of that name in a file.
---@param file crucible.docs.File
---@param name string
---@return crucible.docs.Class?
function docs.class(file, name)
  for _, class in ipairs(file.classes) do
    if class.name == name then return class end
  end
end

--- The first sentence of an entry, for lists.
---@param entry crucible.docs.Entry
---@return string
function docs.summary(entry)
  local text = table.concat(entry.text, " ")
  return text:match "^(.-[^%.]%.)%s" or text:match "^(.-):%s" or text
end

--- "session:forward(batch, options)"
---@param entry crucible.docs.Entry
---@return string
function docs.signature(entry)
  local name = entry.name:gsub("^%u", string.lower)
  return ("%s(%s)"):format(name, table.concat(entry.arguments, ", "))
end

return docs
