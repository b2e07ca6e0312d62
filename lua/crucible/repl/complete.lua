-- What could follow at the cursor of a prompt: fields and methods of values, names of options inside the braces of a
-- call, and inside quotation marks the names that are known (models, data sets, losses, metrics, runs, matrices)
-- and files. Values are looked at, functions never called.
local docs = require "crucible.docs"
local fs = require "crucible.fs"
local help = require "crucible.help"
local paths = require "crucible.paths"

local complete = {}

---@class crucible.repl.Completion
---@field from integer         first byte of what is being completed
---@field candidates string[]  whole replacements for it, sorted
---@field close string         what may follow a single candidate: "(", '"', " = " or ""

-- ---- where the cursor stands ---------------------------------------------------------------------

-- The state of Lua text at its end: the open string (where it begins), the open brackets with what stands before each.
local function scan(text)
  local stack, at = {}, 1
  while at <= #text do
    local two = text:sub(at, at + 1)
    local c = two:sub(1, 1)
    if two == "--" then
      local level = text:match("^%[(=*)%[", at + 2)
      local _, last = text:find(level and "%]" .. level .. "%]" or "\n", at)
      if not last then return { comment = true } end
      at = last + 1
    elseif c == '"' or c == "'" then
      local from, place = at, at + 1
      while place <= #text and text:sub(place, place) ~= c do
        place = place + (text:sub(place, place) == "\\" and 2 or 1)
      end
      if place > #text then return { string = from, stack = stack } end
      at = place + 1
    elseif text:find("^%[=*%[", at) then
      local level = text:match("^%[(=*)%[", at)
      local _, last = text:find("%]" .. level .. "%]", at)
      if not last then return { comment = true } end
      at = last + 1
    else
      if c == "(" or c == "{" or c == "[" then
        stack[#stack + 1] = { open = c, at = at }
      elseif c == ")" or c == "}" or c == "]" then
        stack[#stack] = nil
      end
      at = at + 1
    end
  end
  return { stack = stack }
end

-- The chain of names that ends at a place: "lora.config.new" in `x = lora.config.new`.
local function chain_before(text, last)
  return text:sub(1, last):match "([%a_][%w_.:]*)%s*$"
end

-- ---- values --------------------------------------------------------------------------------------

local function index(object, key)
  local ok, value = pcall(function() return object[key] end)
  if ok then return value end
end

--- The value of a chain of names, without calling anything.
---@param chain string  "session.config"
---@param environment table
---@return any
function complete.value(chain, environment)
  local value = environment
  for word in chain:gmatch "[%w_]+" do
    if value == nil then return nil end
    value = index(value, word)
  end
  return value
end

local function add_keys(into, object)
  if type(object) ~= "table" then return end
  for key in next, object do
    if type(key) == "string" then into[key] = true end
  end
end

-- Names that may stand behind a value and a dot, whichever way it comes by them.
local function keys_of(value)
  local names = {}
  add_keys(names, value)
  local meta = debug.getmetatable(value)
  if type(meta) == "table" then
    add_keys(names, rawget(meta, "rooms"))
    add_keys(names, rawget(meta, "__index"))
  end
  return names
end

local function sorted(names, prefix, wanted)
  local list = {}
  for name in pairs(names) do
    if name:sub(1, #prefix) == prefix and (not wanted or wanted(name)) then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local KEYWORDS = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while" }

local function fields_after(owner, separator, prefix, environment)
  local value = complete.value(owner, environment)
  if value == nil then return {} end
  return sorted(keys_of(value), prefix, function(name)
    if not name:find "^[%a_][%w_]*$" or name:find "^__" then return false end
    return separator == "." or type(index(value, name)) == "function"
  end)
end

local function globals(prefix, environment)
  local names = keys_of(environment)
  for _, word in ipairs(KEYWORDS) do names[word] = true end
  return sorted(names, prefix)
end

-- ---- options -------------------------------------------------------------------------------------

-- The options that the innermost open brace belongs to: those of the function that is called with it. Inside
-- `{ … config = { … } }` they are the config's.
local function options_at(text, stack, environment)
  local brace = stack[#stack]
  if not brace or brace.open ~= "{" then return nil end
  if text:sub(1, brace.at - 1):find "config%s*=%s*$" then return require("crucible.lora.config").options end
  local call = brace.at - 1
  local outer = stack[#stack - 1]
  if outer and outer.open == "(" then call = outer.at - 1 end
  local chain = chain_before(text, call)
  local value = chain and complete.value(chain, environment)
  local entry = type(value) == "function" and docs.of(value)
  return entry and help.options_of(entry) or nil
end

local function option_names(text, stack, prefix, environment)
  local found = options_at(text, stack, environment)
  local names = {}
  for _, name in ipairs(found and found.names or {}) do names[name] = true end
  return sorted(names, prefix)
end

-- ---- inside quotation marks ----------------------------------------------------------------------

local function add_list(into, list)
  for _, name in ipairs(list or {}) do into[name] = true end
end

-- Runs of the folder "runs" and the checkpoints of those.
local function add_runs(into)
  for _, name in ipairs(paths.is_folder "runs" and fs.list "runs" or {}) do
    into[name] = true
    add_list(into, fs.list(paths.join("runs", name, "checkpoints")))
  end
end

local function add_matrices(into, environment)
  for _, value in pairs(environment) do
    local is_session = type(value) == "table" and type(value.matrices) == "function" and not rawget(value, "closed")
    for _, matrix in ipairs(is_session and value:matrices() or {}) do
      into[matrix.name] = true
      for cut in matrix.name:gmatch "()%." do into[matrix.name:sub(1, cut - 1)] = true end
    end
  end
end

local function known_names(environment)
  local names = {}
  add_list(names, require("crucible.models").names())
  add_list(names, require("crucible.lora.dataset_integration").datasets())
  add_list(names, require("crucible.lora.dataset_integration").formatters())
  add_list(names, require("crucible.lora.loss_functions").list())
  add_list(names, require("crucible.metrics").names())
  add_list(names, require("crucible.lora.config").targets)
  add_runs(names)
  add_matrices(names, environment)
  return names
end

local function files(prefix)
  local folder, start = prefix:match "^(.*/)([^/]*)$"
  folder, start = folder or "", start or prefix
  local shown = folder:gsub("^~", os.getenv "HOME" or "~")
  local list = {}
  local where = shown == "" and "." or shown
  for _, name in ipairs(paths.is_folder(where) and fs.list(where) or {}) do
    if name:sub(1, #start) == start and (name:sub(1, 1) ~= "." or start:sub(1, 1) == ".") then
      local path = shown .. name
      list[#list + 1] = path .. (paths.is_folder(path) and "/" or "")
    end
  end
  table.sort(list)
  return list
end

local function in_quotes(text, place, environment)
  local prefix, before = text:sub(place.string + 1), text:sub(1, place.string - 1)
  local list
  local owner = before:match "([%a_][%w_.]*)%[%s*$"
  if owner then -- a key: gradients["layers.0
    local value = complete.value(owner, environment)
    list = sorted(keys_of(value), prefix)
  elseif prefix:find "^[~.]?/" or prefix:find "^%.%./" then
    list = files(prefix)
  else
    list = sorted(known_names(environment), prefix)
    table.move(files(prefix), 1, 1000, #list + 1, list)
  end
  return { from = place.string + 1, candidates = list, close = text:sub(place.string, place.string) }
end

-- ---- the face ------------------------------------------------------------------------------------

local function in_code(text, place, environment)
  local owner, separator, prefix = text:match "([%a_][%w_.:]*)([.:])([%w_]*)$"
  if owner then
    return { from = #text - #prefix + 1, candidates = fields_after(owner, separator, prefix, environment), close = "" }
  end
  prefix = text:match "[%a_][%w_]*$" or ""
  local begins = text:sub(1, #text - #prefix):find "[{,;]%s*$"
  local names = begins and option_names(text, place.stack, prefix, environment) or {}
  if #names > 0 then return { from = #text - #prefix + 1, candidates = names, close = " = " } end
  if prefix == "" then return { from = #text + 1, candidates = {}, close = "" } end
  return { from = #text - #prefix + 1, candidates = globals(prefix, environment), close = "" }
end

--- What could follow `text`, of which the cursor stands at the end.
---@param text string
---@param environment table  where names are looked up
---@return crucible.repl.Completion
function complete.at(text, environment)
  local place = scan(text)
  if place.comment then return { from = #text + 1, candidates = {}, close = "" } end
  if place.string then return in_quotes(text, place, environment) end
  return in_code(text, place, environment)
end

--- The longest beginning that all candidates share.
---@param candidates string[]
---@return string
function complete.common(candidates)
  local common = candidates[1] or ""
  for _, name in ipairs(candidates) do
    while name:sub(1, #common) ~= common do common = common:sub(1, -2) end
  end
  return common
end

return complete
