-- Walks the tree of a template.
--
-- Names live in scopes as Jinja has them: a loop's body, a macro, a block of set, with, filter or generation has its
-- own, a condition has none; what is set in a scope is gone with it, but for attributes of a namespace.
local access = require "crucible.jinja.access"
local arguments = require "crucible.jinja.arguments"
local fault = require "crucible.jinja.fault"
local filters = require "crucible.jinja.filters"
local operators = require "crucible.jinja.operators"
local tests = require "crucible.jinja.tests"
local values = require "crucible.jinja.values"

local interpreter = {}

---@class crucible.jinja.Scope
---@field names table<string, any>
---@field outer crucible.jinja.Scope?

local function new_scope(run, outer)
  run:bytes(240)
  return { names = {}, outer = outer }
end

local function find(scope, name)
  while scope do
    local value = scope.names[name]
    if value ~= nil then return value end
    scope = scope.outer
  end
end

local function set(run, scope, name, value)
  run:bytes(40)
  scope.names[name] = value
end

-- ---- expressions ------------------------------------------------------------------------------------------------

---@type table<string, fun(run: crucible.jinja.Run, scope: crucible.jinja.Scope, node: table): any>
local evaluators = {}

local function evaluate(run, scope, node)
  local limits = run.limits
  run.steps_used = run.steps_used + 1
  run.depth = run.depth + 1
  if run.steps_used > limits.steps then run:work(0) end
  if run.depth > limits.depth then
    fault.raise("format", node.line, "the template nests deeper than %d levels", limits.depth)
  end
  run.line = node.line
  local value = evaluators[node.kind](run, scope, node)
  run.depth = run.depth - 1
  return value
end

function evaluators.constant(_, _, node) return node.value end
function evaluators.none() return values.none end

function evaluators.name(_, scope, node)
  local value = find(scope, node.name)
  if value == nil then return values.undefined("'" .. fault.show(node.name) .. "' is undefined") end
  return value
end

local function items_of(run, scope, node, kind)
  local items = {}
  run:bytes(160 + 16 * #node.items)
  for i, item in ipairs(node.items) do items[i] = evaluate(run, scope, item) end
  return values.list(items, #node.items, kind)
end

function evaluators.list(run, scope, node) return items_of(run, scope, node, "list") end
function evaluators.tuple(run, scope, node) return items_of(run, scope, node, "tuple") end

function evaluators.dict(run, scope, node)
  local dict = values.dict()
  run:bytes(240 + 64 * #node.keys)
  for i, key in ipairs(node.keys) do
    local made = evaluate(run, scope, key)
    values.put(dict, made, evaluate(run, scope, node.items[i]))
  end
  return dict
end

function evaluators.attribute(run, scope, node)
  local target = evaluate(run, scope, node.target)
  run.line = node.line
  return access.attribute(target, node.name)
end

function evaluators.item(run, scope, node)
  local target = evaluate(run, scope, node.target)
  local key = evaluate(run, scope, node.key)
  run.line = node.line
  return access.item(run, target, key)
end

local function optional(run, scope, node) return node and evaluate(run, scope, node) or values.none end

function evaluators.slice(run, scope, node)
  local target = evaluate(run, scope, node.target)
  local start, stop, step = optional(run, scope, node.start), optional(run, scope, node.stop),
    optional(run, scope, node.step)
  run.line = node.line
  return access.slice(run, target, start, stop, step)
end

local function given_of(run, scope, node)
  local list, named = {}, {}
  for i, item in ipairs(node.items) do list[i] = evaluate(run, scope, item) end
  for _, name in ipairs(node.names) do named[name] = evaluate(run, scope, node.named[name]) end
  local given = arguments.new(list)
  given.n, given.names, given.named = #node.items, node.names, named
  return given
end

function evaluators.call(run, scope, node)
  local target = evaluate(run, scope, node.target)
  local given = given_of(run, scope, node.arguments)
  run.line = node.line
  values.refuse_undefined(target)
  if not values.is_callable(target) then
    fault.raise("format", node.line, "a %s cannot be called", values.type_name(target))
  end
  return target.call(run, given)
end

function evaluators.filter(run, scope, node)
  local target = evaluate(run, scope, node.target)
  local given = given_of(run, scope, node.arguments)
  run.line = node.line
  return filters.apply(run, node.name, target, given)
end

function evaluators.test(run, scope, node)
  local target = evaluate(run, scope, node.target)
  local given = given_of(run, scope, node.arguments)
  run.line = node.line
  return tests.holds(run, node.name, target, given)
end

function evaluators.binary(run, scope, node)
  local left = evaluate(run, scope, node.left)
  local right = evaluate(run, scope, node.right)
  run.line = node.line
  return operators.binary(run, node.operator, left, right)
end

function evaluators.negative(run, scope, node) return operators.negative(evaluate(run, scope, node.value)) end
function evaluators.positive(run, scope, node) return operators.positive(evaluate(run, scope, node.value)) end

function evaluators.concatenation(run, scope, node)
  local parts = {}
  for i, item in ipairs(node.items) do
    parts[i] = values.text(run, evaluate(run, scope, item))
    run:bytes(#parts[i])
  end
  return run:made(table.concat(parts))
end

local comparisons = {
  ["=="] = function(run, a, b) return values.equal(run, a, b) end,
  ["!="] = function(run, a, b) return not values.equal(run, a, b) end,
  ["<"] = function(run, a, b) return values.less(run, a, b, "<") end,
  [">"] = function(run, a, b) return values.less(run, b, a, ">") end,
  ["<="] = function(run, a, b) return operators.at_most(run, a, b, "<=") end,
  [">="] = function(run, a, b) return operators.at_most(run, b, a, ">=") end,
  ["in"] = function(run, a, b) return tests.contains(run, b, a) end,
  ["not in"] = function(run, a, b) return not tests.contains(run, b, a) end,
}

function evaluators.comparison(run, scope, node)
  local left = evaluate(run, scope, node.first)
  for _, step in ipairs(node.rest) do
    local right = evaluate(run, scope, step.value)
    run.line = node.line
    if not comparisons[step.operator](run, left, right) then return false end
    left = right
  end
  return true
end

local function holds(run, scope, node) return values.truth(evaluate(run, scope, node)) end

evaluators["not"] = function(run, scope, node) return not holds(run, scope, node.value) end

evaluators["and"] = function(run, scope, node)
  local left = evaluate(run, scope, node.left)
  if not values.truth(left) then return left end
  return evaluate(run, scope, node.right)
end

evaluators["or"] = function(run, scope, node)
  local left = evaluate(run, scope, node.left)
  if values.truth(left) then return left end
  return evaluate(run, scope, node.right)
end

function evaluators.conditional(run, scope, node)
  if holds(run, scope, node.condition) then return evaluate(run, scope, node.value) end
  if node.otherwise then return evaluate(run, scope, node.otherwise) end
  return values.undefined "an if without else in an expression was false"
end

-- ---- statements ----------------------------------------------------------------------------------------------------

-- A statement returns nothing, or "break" or "continue".
---@type table<string, fun(run: crucible.jinja.Run, scope: crucible.jinja.Scope, node: table): string?>
local executors = {}

local function execute(run, scope, list)
  for _, node in ipairs(list) do
    run:work(1)
    run.line = node.line
    local left = executors[node.kind](run, scope, node)
    if left then return left end
  end
end

local function execute_nested(run, scope, list) return run:nested(execute, scope, list) end

function executors.data(run, _, node) run:write(node.text) end

function executors.output(run, scope, node) run:write(values.text(run, evaluate(run, scope, node.value))) end

executors["if"] = function(run, scope, node)
  for _, branch in ipairs(node.branches) do
    if holds(run, scope, branch.condition) then return execute_nested(run, scope, branch.body) end
  end
  if node.otherwise then return execute_nested(run, scope, node.otherwise) end
end

local assign -- forward: a tuple's parts are targets too

local function unpack_into(run, scope, targets, value)
  local items, n = values.items(run, value)
  if n ~= #targets then
    fault.raise("format", targets[1].line, "expected %d values to unpack, got %d", #targets, n)
  end
  for i, target in ipairs(targets) do assign(run, scope, target, items[i]) end
end

local function assign_member(run, scope, target, value)
  local namespace = find(scope, target.name)
  if not values.is_namespace(namespace) then
    fault.raise("format", target.line, "'%s.%s' cannot be set: '%s' is no namespace", fault.show(target.name),
      fault.show(target.attribute), fault.show(target.name))
  end
  run:bytes(40)
  operators.check_attribute(target.attribute)
  values.put(namespace.dict, target.attribute, value)
end

function assign(run, scope, target, value)
  if target.kind == "tuple" then return unpack_into(run, scope, target.items, value) end
  if target.kind == "member" then return assign_member(run, scope, target, value) end
  set(run, scope, target.name, value)
end

-- The items of a loop, without those that its condition leaves out.
local function loop_items(run, scope, node)
  local items, n = values.items(run, evaluate(run, scope, node.source))
  run:bytes(16 * n)
  if not node.condition then return items, n end
  local kept = {}
  for i = 1, n do
    local inner = new_scope(run, scope)
    assign(run, inner, node.target, items[i])
    if holds(run, inner, node.condition) then kept[#kept + 1] = items[i] end
  end
  return kept, #kept
end

executors["for"] = function(run, scope, node)
  local items, n = loop_items(run, scope, node)
  if n == 0 then
    if node.otherwise then return execute_nested(run, new_scope(run, scope), node.otherwise) end
    return
  end
  local loop = access.loop(items, n, 1)
  for i = 1, n do
    loop.at = i
    local inner = new_scope(run, scope)
    inner.names.loop = loop
    assign(run, inner, node.target, items[i])
    if execute_nested(run, inner, node.body) == "break" then break end
  end
end

executors["break"] = function() return "break" end
executors["continue"] = function() return "continue" end

function executors.set(run, scope, node) assign(run, scope, node.target, evaluate(run, scope, node.value)) end

local function captured(run, scope, body) return run:captured(execute_nested, run, new_scope(run, scope), body) end

-- A text through filters that stand without a value of their own.
local function filtered(run, scope, node, text)
  if not node then return text end
  local value = filtered(run, scope, node.target, text)
  run.line = node.line
  return filters.apply(run, node.name, value, given_of(run, scope, node.arguments))
end

function executors.set_block(run, scope, node)
  assign(run, scope, node.target, filtered(run, scope, node.filter, captured(run, scope, node.body)))
end

function executors.filter_block(run, scope, node)
  run:write(values.text(run, filtered(run, scope, node.filter, captured(run, scope, node.body))))
end

function executors.generation(run, scope, node) run:write(captured(run, scope, node.body)) end

executors["with"] = function(run, scope, node)
  local inner = new_scope(run, scope)
  for i, target in ipairs(node.targets) do set(run, inner, target.name, evaluate(run, scope, node.sources[i])) end
  execute_nested(run, inner, node.body)
end

local function bind_parameters(run, scope, node, given)
  local filled = table.pack(arguments.unpack(node.name .. "()", given, node.parameters, 0))
  for i, name in ipairs(node.parameters) do
    local value = filled[i]
    if value == nil and node.defaults[i] then value = evaluate(run, scope, node.defaults[i]) end
    if value == nil then value = values.undefined(("parameter '%s' was not provided"):format(fault.show(name))) end
    set(run, scope, name, value)
  end
end

function executors.macro(run, scope, node)
  set(run, scope, node.name, values.callable(node.name, function(_, given)
    local inner = new_scope(run, scope)
    return run:nested(function()
      bind_parameters(run, inner, node, given)
      return run:captured(execute_nested, run, inner, node.body)
    end)
  end))
end

--- Executes a template's statements and returns what they write; raises a fault.
---@param run crucible.jinja.Run
---@param tree table[]
---@param names table<string, any>  values of crucible.jinja.values
---@return string
function interpreter.render(run, tree, names)
  return run:captured(execute, run, new_scope(run, { names = names }), tree)
end

return interpreter
