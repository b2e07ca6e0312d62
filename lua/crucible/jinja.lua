-- Jinja templates, the part of the language that chat templates are written in, rendered as Hugging Face
-- transformers renders them: Jinja 2's immutable sandbox with trim_blocks, lstrip_blocks, loop controls and the tag
-- `generation`, a tojson without escapes for HTML, raise_exception and strftime_now.
--
-- Templates come with models from anywhere. One that does not end, nests without end or makes more than memory
-- holds is an error in bounded time and memory (crucible.jinja.run); nothing in it reaches files, the environment
-- or Lua. What the interpreter lacks is refused by name and line, never ignored. Differences from Jinja, all of
-- them refusals: no include, import, extends, block, call, do, recursive loops or escaping; integers of 64 bits;
-- upper(), lower() and the like on ASCII; no formatting by format() or %.
local cjson_null = require("crucible.json").null
local errors = require "crucible.errors"
local fault = require "crucible.jinja.fault"
local interpreter = require "crucible.jinja.interpreter"
local lexer = require "crucible.jinja.lexer"
local operators = require "crucible.jinja.operators"
local parser = require "crucible.jinja.parser"
local run = require "crucible.jinja.run"
local values = require "crucible.jinja.values"

local jinja = {}

---@class crucible.jinja.Template
---@field source string
---@field name string  for messages
local Template = { __name = "crucible.jinja.template" }
Template.__index = Template

--- The day that strftime_now tells unless another time is given, 2024-07-26: what is made of the same data is
--- the same tomorrow.
jinja.day = 1721952000

--- What a template may use unless told otherwise.
---@type crucible.jinja.Limits
jinja.limits = run.limits

-- Calls a function; a fault it raises becomes nil, message, code.
local function guarded(name, where, inner, ...)
  local ok, value = pcall(inner, ...)
  if ok then return value end
  if not fault.is(value) then error(value, 0) end
  local line = value.line or where and where.line
  return errors.failure(value.code, "%s%s: %s", name, line and (" line %d"):format(line) or "", value.message)
end

--- Reads a template. Fails with "format" (it is no template) or "unsupported" (it uses what is not supported),
--- naming the line.
---@param source string
---@param name string?  for messages; default "template"
---@return crucible.jinja.Template? template, string? message, string? code
function jinja.compile(source, name)
  if type(source) ~= "string" then
    errors.raise("jinja.compile: expected the text of a template, got a %s", type(source))
  end
  name = name or "template"
  local tree, message, code = guarded(name, nil, function() return parser.parse(lexer.tokens(source)) end)
  if not tree then return nil, message, code end
  return setmetatable({ source = source, name = name, tree = tree }, Template)
end

---@class crucible.jinja.Options
---@field limits crucible.jinja.Limits?
---@field now integer?  seconds since 1970, for strftime_now (UTC); default crucible.jinja.day

local function rendered(state, tree, given)
  local names = operators.functions()
  for name, value in pairs(given) do names[name] = values.from_lua(value, cjson_null) end
  return interpreter.render(state, tree, names)
end

--- The text of a template for values by name: strings, booleans, numbers and tables (a list where it has items or
--- is a crucible.json.array, else a dict); crucible.json.null is None. Fails with "data" where the template itself
--- says so (raise_exception), with "unsupported" or "format" where it goes wrong or uses too much, naming the line.
---@param given table<string, any>
---@param options crucible.jinja.Options?
---@return string? text, string? message, string? code
function Template:render(given, options)
  options = options or {}
  local state = run.new(options.limits or run.limits, options.now or jinja.day)
  return guarded(self.name, state, rendered, state, self.tree, given)
end

function Template:__tostring() return ("%s(%d bytes)"):format(self.name, #self.source) end

return jinja
