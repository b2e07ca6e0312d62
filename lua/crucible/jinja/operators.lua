-- Python's arithmetic on the values of templates, and the functions every template can call.
local arguments = require "crucible.jinja.arguments"
local dates = require "crucible.jinja.dates"
local fault = require "crucible.jinja.fault"
local values = require "crucible.jinja.values"

local operators = {}

-- ---- arithmetic --------------------------------------------------------------------------------------------------

local function mismatch(operator, left, right)
  values.refuse_undefined(left, right)
  fault.raise("format", nil, "'%s' is not supported between a %s and a %s", operator, values.type_name(left),
    values.type_name(right))
end

-- Python's integers have no end, Lua's wrap around: refused before they do.
local function whole(exact, estimate)
  if estimate > 9.2e18 or estimate < -9.2e18 then
    fault.raise("unsupported", nil, "integers beyond 64 bits are not supported")
  end
  return exact
end

local function both_integers(a, b) return math.type(a) == "integer" and math.type(b) == "integer" end

local function divide(operation)
  return function(a, b)
    if b == 0 then fault.raise("format", nil, "division by zero") end
    return operation(a, b)
  end
end

local function raised(a, b)
  if not both_integers(a, b) or b < 0 then
    if a == 0 and b < 0 then fault.raise("format", nil, "zero to a negative power") end
    local value = (a + 0.0) ^ b
    if value ~= value and a == a and b == b then fault.raise("unsupported", nil, "a root of a negative number") end
    return value
  end
  whole(0, (a + 0.0) ^ b)
  local value = 1
  if a == 0 or a == 1 then return b == 0 and 1 or a end
  if a == -1 then return b % 2 == 0 and 1 or -1 end
  for _ = 1, b do value = value * a end -- at most 63 factors, or it would be too large
  return value
end

local arithmetic = {
  ["+"] = function(a, b) return both_integers(a, b) and whole(a + b, a + 0.0 + b) or a + b end,
  ["-"] = function(a, b) return both_integers(a, b) and whole(a - b, a + 0.0 - b) or a - b end,
  ["*"] = function(a, b) return both_integers(a, b) and whole(a * b, (a + 0.0) * b) or a * b end,
  ["/"] = divide(function(a, b) return a / b end),
  ["//"] = divide(function(a, b) return a // b end),
  ["%"] = divide(function(a, b) return a % b end),
  ["**"] = raised,
}

local function joined(run, left, right)
  if type(left) == "string" and type(right) == "string" then
    run:bytes(#left + #right)
    return run:made(left .. right)
  end
  local lists = values.is_list(left) and values.is_list(right) and left.kind == right.kind
  if not lists or left.kind ~= "list" and left.kind ~= "tuple" then return nil end
  run:work(left.n + right.n)
  run:bytes(64 + 16 * (left.n + right.n))
  local items = table.move(left, 1, left.n, 1, {})
  table.move(right, 1, right.n, left.n + 1, items)
  return values.list(items, left.n + right.n, left.kind)
end

local function repeated_list(run, list, times)
  run:work(list.n * times)
  run:bytes(64 + 16 * list.n * times)
  local items = {}
  for i = 0, times - 1 do table.move(list, 1, list.n, i * list.n + 1, items) end
  return values.list(items, list.n * times, list.kind)
end

local function repeated(run, left, right)
  if math.type(values.number(left)) == "integer" then left, right = right, left end
  local times = values.number(right)
  if math.type(times) ~= "integer" then return nil end
  times = math.max(0, times)
  if type(left) == "string" then
    run:bytes((#left + 0.0) * times)
    return run:made(left:rep(times))
  end
  if values.is_list(left) and (left.kind == "list" or left.kind == "tuple") then
    run:bytes(16.0 * left.n * times)
    return repeated_list(run, left, left.n > 0 and times or 0)
  end
end

--- left operator right.
---@param run crucible.jinja.Run
---@param operator string
---@param left any
---@param right any
---@return any
function operators.binary(run, operator, left, right)
  local a, b = values.number(left), values.number(right)
  if a and b then return arithmetic[operator](a, b) end
  local made
  if operator == "+" then made = joined(run, left, right) end
  if operator == "*" then made = repeated(run, left, right) end
  if operator == "%" and type(left) == "string" then
    fault.raise("unsupported", nil, "formatting a str by %% is not supported")
  end
  if made == nil then mismatch(operator, left, right) end
  return made
end

local function signed(value, sign)
  local number = values.number(value)
  if number then return sign * number end
  values.refuse_undefined(value)
  fault.raise("format", nil, "a %s has no sign", values.type_name(value))
end

function operators.negative(value) return signed(value, -1) end
function operators.positive(value) return signed(value, 1) end

--- left <= right.
---@param run crucible.jinja.Run
---@param left any
---@param right any
---@param operator string  named in the error of values without an order
---@return boolean
function operators.at_most(run, left, right, operator)
  local a, b = values.number(left), values.number(right)
  if a and b then return a <= b end
  return not values.less(run, right, left, operator)
end

-- ---- functions ---------------------------------------------------------------------------------------------------

--- Refuses names of attributes that Python keeps for itself.
---@param name string
function operators.check_attribute(name)
  if name:find "^_" then fault.raise("format", nil, "the attribute '%s' of a namespace is unsafe", fault.show(name)) end
end

-- The dict of a call: of one dict, or of pairs, and of arguments by name.
local function dict_of(run, what, given)
  local dict = values.dict()
  if given.n > 1 then
    fault.raise("format", nil, "%s takes at most 1 argument without a name, got %d", what, given.n)
  end
  local source = given[1]
  if values.is_dict(source) then
    run:work(#source.keys)
    run:bytes(64 * #source.keys)
    for _, key in ipairs(source.keys) do values.put(dict, key, source.map[key]) end
  elseif source ~= nil then
    local items, n = values.items(run, source)
    run:bytes(64 * n)
    for i = 1, n do
      local pair, length = values.items(run, items[i])
      if length ~= 2 then fault.raise("format", nil, "%s expects pairs", what) end
      values.put(dict, pair[1], pair[2])
    end
  end
  for _, name in ipairs(given.names) do values.put(dict, name, given.named[name]) end
  return dict
end

local MOST_RANGE = 100000 -- Jinja's sandbox

local function range_numbers(given)
  if #given.names > 0 or given.n < 1 or given.n > 3 then fault.raise("format", nil, "range takes 1 to 3 numbers") end
  local numbers = {}
  for i = 1, given.n do
    numbers[i] = values.number(given[i])
    if math.type(numbers[i]) ~= "integer" then
      values.refuse_undefined(given[i])
      fault.raise("format", nil, "range takes int, got a %s", values.type_name(given[i]))
    end
  end
  if given.n == 1 then return 0, numbers[1], 1 end
  return numbers[1], numbers[2], numbers[3] or 1
end

local function range(run, given)
  local start, stop, step = range_numbers(given)
  if step == 0 then fault.raise("format", nil, "the step of a range is 0") end
  local count = math.max(0, math.ceil((stop - (start + 0.0)) / step))
  if count > MOST_RANGE then fault.raise("format", nil, "a range of more than %d numbers", MOST_RANGE) end
  run:work(count)
  run:bytes(64 + 16 * count)
  local items = {}
  for i = 1, math.tointeger(count) do items[i] = start + (i - 1) * step end
  local list = values.list(items, #items, "range")
  list.start, list.stop, list.step = start, stop, step
  return list
end

local functions = {
  namespace = function(run, given)
    for _, name in ipairs(given.names) do operators.check_attribute(name) end
    return values.namespace(dict_of(run, "namespace()", given))
  end,
  dict = function(run, given) return dict_of(run, "dict()", given) end,
  range = range,
  raise_exception = function(run, given)
    local message = arguments.unpack("raise_exception()", given, { "message" }, 1)
    fault.raise("data", run.line, "%s", fault.show(values.text(run, message)))
  end,
  strftime_now = function(run, given)
    local format = arguments.unpack("strftime_now()", given, { "format" }, 1)
    if type(format) ~= "string" then fault.raise("format", nil, "strftime_now expects a str") end
    if #format > 1000 then fault.raise("format", nil, "strftime_now: the format is longer than 1000 bytes") end
    return run:made(dates.text(format, run.now))
  end,
}

for _, name in ipairs { "cycler", "joiner", "lipsum" } do -- Jinja's others
  functions[name] = function() fault.raise("unsupported", nil, "%s() is not supported", name) end
end

--- The functions that templates find under their names.
---@return table<string, crucible.jinja.Callable>
function operators.functions()
  local named = {}
  for name, call in pairs(functions) do named[name] = values.callable(name, call) end
  return named
end

return operators
