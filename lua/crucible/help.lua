-- What a function, an option, a room or a value is, in words: read from the lines of documentation in the
-- sources (crucible.docs) and from the tables of options (crucible.schema), which also check what is given.
--
--     crucible.help()                         where to begin
--     crucible.help(lora.training_loop.run)   a function with its options and their defaults
--     crucible.help(session)                  a value: its fields and methods
--     crucible.help "learning_rate"           an option, a metric, a loss, a method by name
--
-- Called, it writes to standard output; `help.text(x)` gives the text.
local docs = require "crucible.docs"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local terminal = require "crucible.terminal"

local help = {}

local WIDTH = 100

local OVERVIEW = [[
crucible: LoRA fine-tuning of language models.

  config   = lora.config.new { base_model = "smollm2-135m-instruct", learning_rate = 2e-4 }
  session  = assert(lora.create_session { config = config })
  results  = lora.training_loop.run(session, "scifact", { max_steps = 20 })
  session:sample { "Claim: …" }        texts
  session:peek "text"                  tokens, masks, top predictions, loss
  session:gradients()                  after session:forward_backward(batch)

help(x) explains a function, a room, a value; help "name" an option, a metric, a loss, a method.
Rooms of crucible: %s.
Rooms of lora: %s.
]]

-- ---- pieces --------------------------------------------------------------------------------------

local function paragraph(text, indent)
  return terminal.wrap(text, WIDTH - #indent, indent)
end

-- "name = default", and what it is.
local function option_lines(owner, lines)
  for _, entry in ipairs(owner.entries) do
    lines[#lines + 1] = ("  %s = %s"):format(entry.name, schema.show_default(entry))
    lines[#lines + 1] = paragraph(("%s (%s)"):format(entry.doc, entry.check.what), "      ")
  end
end

-- The last word of "training_loop.run" or "session:sample".
local function last_word(name) return name:match "[%w_]+$" end

-- Whether an owner is meant by a function's name: the same, or more before it.
local function belongs(owner, name)
  local a, b = owner:lower():gsub(":", "."), name:lower():gsub(":", ".")
  return a == b or a:sub(-#b - 1) == "." .. b
end

--- The table of options that a documented function takes; nil when it takes none.
---@param entry crucible.docs.Entry
---@return crucible.schema?
function help.options_of(entry)
  local alike = {}
  for owner, found in pairs(schema.by_owner) do
    if belongs(owner, entry.name) then return found end
    if last_word(owner) == last_word(entry.name) then alike[#alike + 1] = found end
  end
  local common = { new = true, run = true, register = true, write = true, open = true }
  if #alike == 1 and not common[last_word(entry.name)] then return alike[1] end
end

local function function_text(entry)
  local lines = { docs.signature(entry), paragraph(table.concat(entry.text, " "), "  ") }
  for _, parameter in ipairs(entry.parameters) do
    lines[#lines + 1] = ("  %s: %s"):format(parameter.name, parameter.type)
  end
  for _, result in ipairs(entry.returns) do lines[#lines + 1] = "  → " .. result end
  local options = #entry.arguments > 0 and help.options_of(entry)
  if options then
    lines[#lines + 1] = "options"
    option_lines(options, lines)
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- rooms and values ----------------------------------------------------------------------------

local function sorted_names(object)
  local names = {}
  for name in pairs(object) do
    if type(name) == "string" and not name:find "^_" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

-- Functions of a table with the first sentence of each; those without documentation by name alone.
local function function_list(object, prefix)
  local lines = {}
  for _, name in ipairs(sorted_names(object)) do
    local value = rawget(object, name)
    if type(value) == "function" then
      local entry = docs.of(value)
      local signature = entry and docs.signature(entry):match "%b()$" or "()"
      lines[#lines + 1] = ("  %s%s%s"):format(prefix, name, signature)
      local summary = entry and docs.summary(entry) or ""
      if summary ~= "" then lines[#lines + 1] = paragraph(summary, "      ") end
    end
  end
  return lines
end

local function header_text(file)
  local lines = {}
  for _, line in ipairs(file.header) do lines[#lines + 1] = line end
  return table.concat(lines, "\n")
end

-- Rooms of a table that loads them when they are looked at, by the annotation of its class.
local function room_lines(file, name, lines)
  local class = docs.class(file, name)
  for _, field in ipairs(class and class.fields or {}) do
    lines[#lines + 1] = ("  %-22s %s"):format(field.name, field.type:match "%s%s+(.*)$" or field.type)
  end
end

local function module_text(name, value)
  local file = docs.module(name)
  local lines = { name }
  if file then
    lines[#lines + 1] = header_text(file)
    if getmetatable(value) and getmetatable(value).rooms then room_lines(file, name, lines) end
  end
  local functions = function_list(value, "")
  table.move(functions, 1, #functions, #lines + 1, lines)
  return table.concat(lines, "\n") .. "\n"
end

-- Where the methods of a class stand: in its __index, or beside it.
local function methods_of(meta) return type(meta.__index) == "table" and meta.__index or meta end

-- The class that a metatable's functions are documented with: that of the same file whose name ends alike.
local function class_of(meta)
  for _, value in pairs(methods_of(meta)) do
    local entry = docs.of(value)
    local file = entry and docs.file(entry.path)
    local written = entry and entry.name:match "^(%u[%w_]*)[:.]"
    for _, class in ipairs(file and written and file.classes or {}) do
      if class.name:match "[%w_]+$" == written then return class end
    end
  end
end

local function object_text(value, meta)
  local lines = { tostring(value) }
  local class = class_of(meta)
  if class and #class.fields > 0 then
    lines[#lines + 1] = "fields"
    for _, field in ipairs(class.fields) do
      lines[#lines + 1] = ("  %-22s %s"):format(field.name, field.type)
    end
  end
  local methods = function_list(methods_of(meta), ":")
  if #methods > 0 then lines[#lines + 1] = "methods" end
  table.move(methods, 1, #methods, #lines + 1, lines)
  return table.concat(lines, "\n") .. "\n"
end

-- ---- names ---------------------------------------------------------------------------------------

local function walk(object, path)
  for word in path:gmatch "[%w_]+" do
    if type(object) ~= "table" then return nil end
    object = object[word]
  end
  return object
end

-- A function or room by its path, wherever it begins.
local function by_path(name)
  if not name:find "^[%a_][%w_.:]*$" then return nil end
  local crucible = require "crucible"
  for _, root in ipairs { { crucible = crucible, lora = crucible.lora }, crucible, crucible.lora } do
    local ok, found = pcall(walk, root, name)
    if ok and (type(found) == "function" or type(found) == "table") then return found end
  end
end

local METHODS = {
  session = "crucible.adapters.local.session", gradient = "crucible.adapters.local.gradients", model = "crucible.model",
  tokenizer = "crucible.tokenizer", run = "crucible.lora.run", hooks = "crucible.lora.gradient_hooks",
}

-- Methods of that name, "sample" or "session:sample", as the files of the classes have them.
local function methods_named(name)
  local class, method = name:match "^([%w_]+):([%w_]+)$"
  local found = {}
  for owner, module in pairs(METHODS) do
    local file = (not class or owner == class:lower()) and docs.module(module)
    for _, entry in ipairs(file and file.entries or {}) do
      if entry.name:find(":", 1, true) and last_word(entry.name) == (method or name) and #entry.text > 0 then
        found[#found + 1] = function_text(entry)
      end
    end
  end
  table.sort(found)
  return found
end

-- The rooms whose options help knows without having been loaded by anything else.
local OPTION_ROOMS = { "crucible.lora.config", "crucible.lora.training_loop", "crucible.lora.evaluation",
  "crucible.lora.gradient_hooks", "crucible.lora" }

-- Options of that name: the same text, with the functions that take it.
local function options_named(name)
  for _, room in ipairs(OPTION_ROOMS) do require(room) end
  local texts, owners = {}, {}
  for owner, found in pairs(schema.by_owner) do
    local entry = not owner:find "^crucible %l" and found.by_name[name]
    if entry then
      local lines = { ("%s = %s"):format(name, schema.show_default(entry)),
        paragraph(("%s (%s)"):format(entry.doc, entry.check.what), "  ") }
      local text = table.concat(lines, "\n")
      if not owners[text] then texts[#texts + 1] = text end
      owners[text] = owners[text] or {}
      table.insert(owners[text], owner)
    end
  end
  -- Where a default is known first.
  table.sort(texts, function(a, b)
    local bare_a, bare_b = a:find "^[%w_]+ = %-\n" ~= nil, b:find "^[%w_]+ = %-\n" ~= nil
    if bare_a ~= bare_b then return bare_b end
    return a < b
  end)
  for i, text in ipairs(texts) do
    table.sort(owners[text])
    texts[i] = ("%s\n%s\n"):format(text, paragraph("option of " .. table.concat(owners[text], ", "), "  "))
  end
  return texts
end

local function loss_named(name)
  local loss = require("crucible.lora.loss_functions").get(name)
  if not loss then return nil end
  local file = docs.module("crucible.losses." .. name)
  local about = file and header_text(file) or "built into the engine"
  return ('loss "%s"\n%s\n'):format(name, about)
end

local function metric_named(name)
  local metrics = require "crucible.metrics"
  for _, known in ipairs(metrics.names()) do
    if known == name then return ('metric "%s"\n%s\n'):format(name, paragraph(metrics.find(name).doc or "", "  ")) end
  end
end

local function known_names()
  local names = {}
  for _, room in ipairs(OPTION_ROOMS) do require(room) end
  for _, found in pairs(schema.by_owner) do
    for _, name in ipairs(found.names) do names[#names + 1] = name end
  end
  for name in pairs(getmetatable(require "crucible").rooms) do names[#names + 1] = name end
  for name in pairs(getmetatable(require "crucible.lora").rooms) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function name_text(name)
  local parts = options_named(name)
  parts[#parts + 1] = loss_named(name)
  parts[#parts + 1] = metric_named(name)
  local found = by_path(name)
  if found then parts[#parts + 1] = help.text(found) end
  table.move(methods_named(name), 1, 20, #parts + 1, parts)
  if #parts > 0 then return table.concat(parts, "\n") end
  local nearest = suggest.nearest(name, known_names())
  return ('nothing is called "%s"%s; help() says where to begin\n'):format(name,
    nearest and ('; did you mean "%s"?'):format(nearest) or "")
end

-- ---- the face ------------------------------------------------------------------------------------

local function rooms_of(object) return table.concat(sorted_names(getmetatable(object).rooms), ", ") end

--- What `x` is, as text: a function with its options, a room with its functions, a value with its fields and
--- methods, a name with all that bears it. Without an argument: where to begin.
---@param x any
---@return string
function help.text(x)
  if x == nil then
    local crucible = require "crucible"
    return OVERVIEW:format(rooms_of(crucible), rooms_of(crucible.lora))
  end
  if type(x) == "string" then return name_text(x) end
  if type(x) == "function" then
    local entry = docs.of(x)
    return entry and function_text(entry) or ("%s has no documentation here\n"):format(tostring(x))
  end
  local name = docs.module_name(x)
  if name then return module_text(name, x) end
  local meta = debug.getmetatable(x)
  if type(meta) == "table" and meta.__name then return object_text(x, meta) end
  return ("a %s\n"):format(type(x))
end

return setmetatable(help, {
  __call = function(_, x) io.stdout:write(help.text(x)) end,
  __tostring = function() return "help(x), or help \"name\"" end,
})
