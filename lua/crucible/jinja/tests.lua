-- What stands behind `is`: Jinja's tests.
local arguments = require "crucible.jinja.arguments"
local fault = require "crucible.jinja.fault"
local strings = require "crucible.jinja.strings"
local suggest = require "crucible.suggest"
local values = require "crucible.jinja.values"

local tests = {}

---@type table<string, { parameters: string[], call: fun(run: crucible.jinja.Run, value: any, ...): boolean }>
local known = {}

local function test(name, call, ...) known[name] = { parameters = { ... }, call = call } end

local function number_of(value)
  local number = values.number(value)
  if number then return number end
  values.refuse_undefined(value)
  fault.raise("format", nil, "expected a number, got a %s", values.type_name(value))
end

test("defined", function(_, value) return not values.is_undefined(value) end)
test("undefined", function(_, value) return values.is_undefined(value) end)
test("none", function(_, value) return value == values.none end)
test("boolean", function(_, value) return type(value) == "boolean" end)
test("true", function(_, value) return value == true end)
test("false", function(_, value) return value == false end)
test("string", function(_, value) return type(value) == "string" end)
test("number", function(_, value) return values.number(value) ~= nil end)
test("integer", function(_, value) return math.type(value) == "integer" end)
test("float", function(_, value) return math.type(value) == "float" end)
test("mapping", function(_, value) return values.is_dict(value) end)
test("callable", function(_, value) return values.is_callable(value) end)
test("iterable", function(_, value)
  return type(value) == "string" or values.is_list(value) or values.is_dict(value) or values.is_undefined(value)
    or values.type_name(value) == "LoopContext"
end)
test("sequence", function(_, value)
  if values.is_list(value) then return value.kind == "list" or value.kind == "tuple" or value.kind == "range" end
  return type(value) == "string" or values.is_dict(value) or values.is_undefined(value)
end)
test("odd", function(_, value) return number_of(value) % 2 == 1 end)
test("even", function(_, value) return number_of(value) % 2 == 0 end)
test("divisibleby", function(_, value, divisor)
  divisor = number_of(divisor)
  if divisor == 0 then fault.raise("format", nil, "division by zero") end
  return number_of(value) % divisor == 0
end, "num")
test("sameas", function(_, value, other)
  if type(value) == "string" or type(value) == "number" then
    fault.raise("unsupported", nil, "sameas is supported for true, false and none")
  end
  return value == other
end, "other")
test("in", function(run, value, container) return tests.contains(run, container, value) end, "seq")
test("upper", function(run, value) return strings.call(run, values.text(run, value), "isupper") end)
test("lower", function(run, value) return strings.call(run, values.text(run, value), "islower") end)

for _, names in ipairs {
  { function(run, a, b) return values.equal(run, a, b) end, "eq", "equalto", "==" },
  { function(run, a, b) return not values.equal(run, a, b) end, "ne", "!=" },
  { function(run, a, b) return values.less(run, a, b, "<") end, "lt", "lessthan", "<" },
  { function(run, a, b) return values.less(run, b, a, ">") end, "gt", "greaterthan", ">" },
  { function(run, a, b) return not values.less(run, b, a, "<=") end, "le", "<=" },
  { function(run, a, b) return not values.less(run, a, b, ">=") end, "ge", ">=" },
} do
  for i = 2, #names do test(names[i], names[1], "other") end
end

-- What Jinja has and this file has not.
local others = { filter = true, test = true, escaped = true }

--- Whether a test's name is one of Jinja's.
---@param name string
---@return boolean
function tests.exists(name) return known[name] ~= nil or others[name] ~= nil end

--- The names that are supported, sorted.
---@return string[]
function tests.names()
  local names = {}
  for name in pairs(known) do
    if name:find "^%a" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- What stands at the end of a message about an unknown name.
---@param name string
---@return string
function tests.advice(name) return suggest.phrase(name, tests.names()) end

--- Whether a value passes the test of a name.
---@param run crucible.jinja.Run
---@param name string
---@param value any
---@param given crucible.jinja.Arguments
---@return boolean
function tests.holds(run, name, value, given)
  local found = known[name]
  if not found then
    if others[name] then fault.raise("unsupported", nil, "the test '%s' is not supported", name) end
    fault.raise("format", nil, "unknown test '%s'%s", fault.show(name), tests.advice(name))
  end
  run:work(1)
  return found.call(run, value,
    arguments.unpack("the test '" .. name .. "'", given, found.parameters, #found.parameters))
end

--- Python's `value in container`.
---@param run crucible.jinja.Run
---@param container any
---@param value any
---@return boolean
function tests.contains(run, container, value)
  if type(container) == "string" then
    if type(value) ~= "string" then
      values.refuse_undefined(value)
      fault.raise("format", nil, "'in' a str expects a str, got a %s", values.type_name(value))
    end
    run:searched(container, value)
    return container:find(value, 1, true) ~= nil
  end
  if values.is_dict(container) then
    if type(value) == "table" and value ~= values.none or value ~= value then return false end
    return container.map[value] ~= nil
  end
  local items, n = values.items(run, container)
  for i = 1, n do
    if values.equal(run, items[i], value) then return true end
  end
  return false
end

return tests
