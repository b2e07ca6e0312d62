-- Tokens to a tree, by the grammar of Jinja 2 (jinja2/parser.py).
--
-- A node is { kind, line, … }. Statements that this interpreter lacks are refused here, by name and line, and so
-- are filters and tests that Jinja itself does not know; those that Jinja has and this interpreter lacks are
-- refused where they are reached, for a template's tool calls may use them and a plain conversation never.
local fault = require "crucible.jinja.fault"
local filters = require "crucible.jinja.filters"
local suggest = require "crucible.suggest"
local tests = require "crucible.jinja.tests"

local parser = {}

---@class crucible.jinja.Parser
---@field tokens crucible.jinja.Token[]
---@field at integer
---@field depth integer  of nesting; bounded, for the parser calls itself
---@field loops integer  loops around, up to the nearest macro
local Parser = {}
Parser.__index = Parser

local DEPTH = 100

local closers = {
  ["for"] = "endfor", ["if"] = "endif", macro = "endmacro", set = "endset", with = "endwith", filter = "endfilter",
  generation = "endgeneration",
}

-- ---- tokens -------------------------------------------------------------------------------------------------

function Parser:current() return self.tokens[self.at] end

local function described(token)
  if token.type == "eof" then return "the end of the template" end
  if token.type == "block_end" then return "'%}'" end
  if token.type == "variable_end" then return "'}}'" end
  if token.type == "string" then return "a str" end
  return "'" .. fault.show(tostring(token.value or token.type)) .. "'"
end

function Parser:raise(format, ...) fault.raise("format", self:current().line, format, ...) end

function Parser:unexpected(expected) self:raise("expected %s, got %s", expected, described(self:current())) end

-- Whether the current token is of a type, or the name `name`.
function Parser:is(kind, name)
  local token = self:current()
  return token.type == kind and (name == nil or token.value == name)
end

function Parser:skip(kind, name)
  if not self:is(kind, name) then return nil end
  self.at = self.at + 1
  return self.tokens[self.at - 1]
end

function Parser:expect(kind, name)
  return self:skip(kind, name) or self:unexpected(name and "'" .. name .. "'" or kind == "name" and "a name"
    or kind == "block_end" and "'%}'" or kind == "variable_end" and "'}}'" or "'" .. kind .. "'")
end

function Parser:deeper(inner, ...)
  self.depth = self.depth + 1
  if self.depth > DEPTH then self:raise("the template nests deeper than %d levels", DEPTH) end
  local node = inner(self, ...)
  self.depth = self.depth - 1
  return node
end

local function node(kind, line, fields)
  fields.kind, fields.line = kind, line
  return fields
end

-- ---- expressions ----------------------------------------------------------------------------------------------

local constants = { ["true"] = true, True = true, ["false"] = false, False = false }

local function name_node(token)
  if constants[token.value] ~= nil then return node("constant", token.line, { value = constants[token.value] }) end
  if token.value == "none" or token.value == "None" then return node("none", token.line, {}) end
  return node("name", token.line, { name = token.value })
end

-- Expressions with commas between them up to a closing token.
function Parser:items(close)
  local items = {}
  while not self:is(close) do
    if #items > 0 then
      self:expect ","
      if self:is(close) then break end
    end
    items[#items + 1] = self:expression()
  end
  self:expect(close)
  return items
end

function Parser:dict_node(line)
  local keys, items = {}, {}
  while not self:is "}" do
    if #keys > 0 then
      self:expect ","
      if self:is "}" then break end
    end
    keys[#keys + 1] = self:expression()
    self:expect ":"
    items[#keys] = self:expression()
  end
  self:expect "}"
  return node("dict", line, { keys = keys, items = items })
end

function Parser:string_node(token)
  local parts = { token.value }
  while self:is "string" do parts[#parts + 1] = self:expect("string").value end
  return node("constant", token.line, { value = table.concat(parts) })
end

function Parser:primary()
  local token = self:current()
  self.at = self.at + 1
  if token.type == "name" then return name_node(token) end
  if token.type == "string" then return self:string_node(token) end
  if token.type == "number" then return node("constant", token.line, { value = token.value }) end
  if token.type == "[" then return node("list", token.line, { items = self:items "]" }) end
  if token.type == "{" then return self:dict_node(token.line) end
  if token.type == "(" then
    local inner = self:tuple { empty = true }
    self:expect ")"
    return inner
  end
  self.at = self.at - 1
  self:unexpected "an expression"
end

local function ends_tuple(self, stop)
  local token = self:current()
  return token.type == "variable_end" or token.type == "block_end" or token.type == ")"
    or stop ~= nil and token.type == "name" and token.value == stop
end

-- An expression, or a tuple of several. rules.empty: "()" is one; rules.plain: no ternary; rules.stop: a name
-- that ends it.
function Parser:tuple(rules)
  local line, items, is_tuple = self:current().line, {}, false
  while true do
    if #items > 0 then self:expect "," end
    if ends_tuple(self, rules.stop) then break end
    items[#items + 1] = self:expression(rules.plain)
    if not self:is "," then break end
    is_tuple = true
  end
  if not is_tuple then
    if items[1] then return items[1] end
    if not rules.empty then self:unexpected "an expression" end
  end
  return node("tuple", line, { items = items })
end

function Parser:arguments()
  local given = { items = {}, names = {}, named = {} }
  self:expect "("
  while not self:is ")" do
    if #given.items + #given.names > 0 then
      self:expect ","
      if self:is ")" then break end
    end
    if self:is "*" or self:is "**" then
      fault.raise("unsupported", self:current().line, "arguments by * and ** are not supported")
    end
    local next_token = self.tokens[self.at + 1]
    if self:is "name" and next_token.type == "=" then
      local name = self:expect("name").value
      self:expect "="
      if given.named[name] then self:raise("the argument '%s' is given twice", fault.show(name)) end
      given.names[#given.names + 1], given.named[name] = name, self:expression()
    else
      if #given.names > 0 then self:raise "an argument without a name stands behind one with a name" end
      given.items[#given.items + 1] = self:expression()
    end
  end
  self:expect ")"
  return given
end

function Parser:slice_part()
  if self:is ":" or self:is "]" or self:is "," then return nil end
  return self:expression()
end

function Parser:subscript(target)
  local line = self:expect("[").line
  local start = self:slice_part()
  if self:skip ":" then
    local stop, step = self:slice_part(), nil
    if self:skip ":" then step = self:slice_part() end
    self:expect "]"
    return node("slice", line, { target = target, start = start, stop = stop, step = step })
  end
  if not start then self:unexpected "an expression" end
  if self:is "," then fault.raise("unsupported", line, "subscripts of several values are not supported") end
  self:expect "]"
  return node("item", line, { target = target, key = start })
end

function Parser:attribute(target)
  local line = self:expect(".").line
  local token = self:current()
  if token.type == "number" and math.type(token.value) == "integer" then
    self.at = self.at + 1
    return node("item", line, { target = target, key = node("constant", line, { value = token.value }) })
  end
  return node("attribute", line, { target = target, name = self:expect("name").value })
end

function Parser:call(target)
  local line = self:current().line
  return node("call", line, { target = target, arguments = self:arguments() })
end

function Parser:postfix(target)
  while true do
    if self:is "." then
      target = self:attribute(target)
    elseif self:is "[" then
      target = self:subscript(target)
    elseif self:is "(" then
      target = self:call(target)
    else
      return target
    end
  end
end

function Parser:filter(target)
  local token = self:expect "name"
  local name = token.value
  while self:skip "." do name = name .. "." .. self:expect("name").value end
  if not filters.exists(name) then
    fault.raise("format", token.line, "unknown filter '%s'%s", fault.show(name), filters.advice(name))
  end
  local given = self:is "(" and self:arguments() or { items = {}, names = {}, named = {} }
  return node("filter", token.line, { target = target, name = name, arguments = given })
end

local starts_argument = { name = true, string = true, number = true, ["("] = true, ["["] = true, ["{"] = true }
local follows_test = { ["else"] = true, ["or"] = true, ["and"] = true }

function Parser:test_arguments()
  local token = self:current()
  if token.type == "(" then return self:arguments() end
  local given = { items = {}, names = {}, named = {} }
  if not starts_argument[token.type] or token.type == "name" and follows_test[token.value] then return given end
  if token.type == "name" and token.value == "is" then self:raise "tests cannot be chained with is" end
  given.items[1] = self:postfix(self:primary())
  return given
end

function Parser:test(target)
  self:expect("name", "is")
  local negated = self:skip("name", "not")
  local token = self:expect "name"
  if not tests.exists(token.value) then
    fault.raise("format", token.line, "unknown test '%s'%s", fault.show(token.value), tests.advice(token.value))
  end
  local test = node("test", token.line, { target = target, name = token.value, arguments = self:test_arguments() })
  return negated and node("not", token.line, { value = test }) or test
end

function Parser:filters_and_tests(target)
  while true do
    if self:skip "|" then
      target = self:filter(target)
    elseif self:is("name", "is") then
      target = self:test(target)
    elseif self:is "(" then
      target = self:call(target)
    else
      return target
    end
  end
end

local signs = { ["-"] = "negative", ["+"] = "positive" }

function Parser:unary(inner)
  local token, value = self:current(), nil
  if signs[token.type] then
    self.at = self.at + 1
    value = node(signs[token.type], token.line, { value = self:deeper(Parser.unary, true) })
  end
  local whole = self:postfix(value or self:primary())
  return inner and whole or self:filters_and_tests(whole)
end

-- Left-associative operators of one strength over what binds tighter.
local function left_associative(operators, tighter)
  return function(self)
    local line, left = self:current().line, tighter(self)
    while operators[self:current().type] do
      local operator = self:current().type
      self.at = self.at + 1
      left = node("binary", line, { operator = operator, left = left, right = tighter(self) })
    end
    return left
  end
end

local power = left_associative({ ["**"] = true }, Parser.unary)
local product = left_associative({ ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }, power)

local function concatenation(self)
  local line, items = self:current().line, { product(self) }
  while self:skip "~" do items[#items + 1] = product(self) end
  return items[2] and node("concatenation", line, { items = items }) or items[1]
end

local sum = left_associative({ ["+"] = true, ["-"] = true }, concatenation)
local comparisons = { ["=="] = true, ["!="] = true, ["<"] = true, ["<="] = true, [">"] = true, [">="] = true }

function Parser:comparison_operator()
  local token = self:current()
  if comparisons[token.type] then
    self.at = self.at + 1
    return token.type
  end
  if self:skip("name", "in") then return "in" end
  local next_token = self.tokens[self.at + 1]
  if self:is("name", "not") and next_token.type == "name" and next_token.value == "in" then
    self.at = self.at + 2
    return "not in"
  end
end

local function comparison(self)
  local line, first, rest = self:current().line, sum(self), {}
  while true do
    local operator = self:comparison_operator()
    if not operator then break end
    rest[#rest + 1] = { operator = operator, value = sum(self) }
  end
  return rest[1] and node("comparison", line, { first = first, rest = rest }) or first
end

local function negation(self)
  local token = self:skip("name", "not")
  if token then return node("not", token.line, { value = self:deeper(negation) }) end
  return comparison(self)
end

local function logical(word, tighter)
  return function(self)
    local line, left = self:current().line, tighter(self)
    while self:skip("name", word) do left = node(word, line, { left = left, right = tighter(self) }) end
    return left
  end
end

local conjunction = logical("and", negation)
local disjunction = logical("or", conjunction)

local function conditional(self)
  local line, value = self:current().line, disjunction(self)
  while self:skip("name", "if") do
    local condition, otherwise = disjunction(self), nil
    if self:skip("name", "else") then otherwise = self:deeper(conditional) end
    value = node("conditional", line, { condition = condition, value = value, otherwise = otherwise })
  end
  return value
end

function Parser:expression(plain) return self:deeper(plain and disjunction or conditional) end

-- ---- statements -------------------------------------------------------------------------------------------------

-- A name, name.attribute (with `dotted`), or several in a tuple.
function Parser:target(dotted, stop)
  local line, items, is_tuple = self:current().line, {}, false
  repeat
    if self:is "=" or stop and self:is("name", stop) then break end
    local parenthesised = self:skip "("
    local item
    if parenthesised then
      item = self:deeper(Parser.target, dotted, stop)
      self:expect ")"
    else
      local token = self:expect "name"
      item = node("name", token.line, { name = token.value })
      if dotted and self:skip "." then item.kind, item.attribute = "member", self:expect("name").value end
      if constants[item.name] ~= nil or item.name == "none" or item.name == "None" then
        self:raise("'%s' cannot be set", item.name)
      end
    end
    items[#items + 1] = item
    local comma = self:skip ","
    is_tuple = is_tuple or comma ~= nil
  until not comma
  if not items[1] then self:unexpected "a name" end
  return is_tuple and node("tuple", line, { items = items }) or items[1]
end

-- The statements up to one of the closing words, which is left behind the tag's beginning.
function Parser:body(...)
  self:skip ":"
  self:expect "block_end"
  return self:deeper(Parser.statements, { ... })
end

-- A body in a place of its own, out of which no loop is left.
function Parser:closed_body(close)
  local loops = self.loops
  self.loops = 0
  local body = self:body(close)
  self:expect("name", close)
  self.loops = loops
  return body
end

local statements = {}

statements["for"] = function(self, line)
  local target = self:target(false, "in")
  self:expect("name", "in")
  local source, condition, otherwise = self:tuple { plain = true, stop = "recursive" }, nil, nil
  if self:skip("name", "if") then condition = self:expression() end
  if self:is("name", "recursive") then
    fault.raise("unsupported", line, "recursive loops are not supported")
  end
  self.loops = self.loops + 1
  local body = self:body("endfor", "else")
  self.loops = self.loops - 1
  if self:skip("name", "else") then otherwise = self:body "endfor" end
  self:expect("name", "endfor")
  return node("for", line, { target = target, source = source, condition = condition, body = body,
    otherwise = otherwise })
end

statements["if"] = function(self, line)
  local branches, otherwise = {}, nil
  repeat
    local condition = self:tuple { plain = true }
    branches[#branches + 1] = { condition = condition, body = self:body("elif", "else", "endif") }
  until not self:skip("name", "elif")
  if self:skip("name", "else") then otherwise = self:body "endif" end
  self:expect("name", "endif")
  return node("if", line, { branches = branches, otherwise = otherwise })
end

statements.set = function(self, line)
  local target = self:target(true)
  if self:skip "=" then return node("set", line, { target = target, value = self:tuple {} }) end
  local filtered
  while self:skip "|" do filtered = self:filter(filtered) end
  return node("set_block", line, { target = target, filter = filtered, body = self:closed_body "endset" })
end

function Parser:parameters()
  local names, defaults = {}, {}
  self:expect "("
  while not self:is ")" do
    if #names > 0 then self:expect "," end
    names[#names + 1] = self:expect("name").value
    if self:skip "=" then
      defaults[#names] = self:expression()
    elseif next(defaults) then
      self:raise "a parameter without a default stands behind one with a default"
    end
  end
  self:expect ")"
  return names, defaults
end

statements.macro = function(self, line)
  local name = self:expect("name").value
  local names, defaults = self:parameters()
  return node("macro", line, { name = name, parameters = names, defaults = defaults,
    body = self:closed_body "endmacro" })
end

statements.with = function(self, line)
  local targets, sources = {}, {}
  while not self:is "block_end" do
    if #targets > 0 then self:expect "," end
    targets[#targets + 1] = node("name", line, { name = self:expect("name").value })
    self:expect "="
    sources[#targets] = self:expression()
  end
  return node("with", line, { targets = targets, sources = sources, body = self:closed_body "endwith" })
end

statements.filter = function(self, line)
  local filtered = self:filter(nil)
  while self:skip "|" do filtered = self:filter(filtered) end
  return node("filter_block", line, { filter = filtered, body = self:closed_body "endfilter" })
end

statements.generation = function(self, line)
  return node("generation", line, { body = self:closed_body "endgeneration" })
end

statements.print = function(self, line)
  return node("output", line, { value = self:tuple {} })
end

for _, word in ipairs { "break", "continue" } do
  statements[word] = function(self, line)
    if self.loops == 0 then fault.raise("format", line, "'%s' outside of a loop", word) end
    return node(word, line, {})
  end
end

-- What Jinja has and this interpreter has not.
local refused = { "autoescape", "block", "call", "do", "extends", "from", "import", "include", "trans" }

local function known_statements()
  local names = {}
  for name in pairs(statements) do names[#names + 1] = name end
  table.sort(names)
  return names
end

function Parser:statement()
  local token = self:expect "name"
  local parse = statements[token.value]
  if parse then return parse(self, token.line) end
  for _, name in ipairs(refused) do
    if name == token.value then
      fault.raise("unsupported", token.line, "the statement '%s' is not supported", name)
    end
  end
  for open, close in pairs(closers) do
    if token.value == close then fault.raise("format", token.line, "'%s' without '%s'", close, open) end
  end
  fault.raise("format", token.line, "unknown statement '%s'%s", fault.show(token.value),
    suggest.phrase(token.value, known_statements()))
end

-- "| safe" at the end of what is written changes nothing, for nothing is escaped.
local function without_safe(value)
  while value.kind == "filter" and value.name == "safe" do value = value.target end
  return value
end

function Parser:output()
  local line = self:expect("variable_begin").line
  local value = without_safe(self:tuple {})
  self:expect "variable_end"
  return node("output", line, { value = value })
end

local function one_of(list, value)
  for _, other in ipairs(list) do
    if other == value then return true end
  end
  return false
end

function Parser:statements(closing)
  local list = {}
  while not self:is "eof" do
    if self:is "data" then
      local token = self:expect "data"
      list[#list + 1] = node("data", token.line, { text = token.value })
    elseif self:is "variable_begin" then
      list[#list + 1] = self:output()
    else
      self:expect "block_begin"
      local token = self:current()
      if closing and token.type == "name" and one_of(closing, token.value) then return list end
      list[#list + 1] = self:statement()
      self:expect "block_end"
    end
  end
  if closing then self:raise("the template ends before '%s'", closing[#closing]) end
  return list
end

--- The statements of a template; raises a fault.
---@param tokens crucible.jinja.Token[]
---@return table[]
function parser.parse(tokens)
  local self = setmetatable({ tokens = tokens, at = 1, depth = 0, loops = 0 }, Parser)
  return self:statements(nil)
end

return parser
