-- Slopes of every differentiable function of a tensor beside finite differences, in f64.
--
-- To add a function: one case in `cases`, { inputs..., f }. Inputs are shapes (filled with numbers
-- away from kinks) or lists; f gets the tensors and returns one. Every method of a tensor stands
-- either in a case or in `without_gradient`.

local tensor = require "crucible.tensor"
local graph = require "crucible.tensor.graph"
local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"

local STEP, BOUND = 1e-3, 1e-7 -- of the four-point estimate; relative, in norms

-- Numbers in ±bound, none of them within 0.05 of a whole number or 0.
local function away_from_kinks(seed, count, bound)
  return lists.map(lists.uniform(seed, count, bound), function(x)
    local nearest = math.floor(x + 0.5)
    if math.abs(x - nearest) < 0.05 then return nearest + (x < nearest and -0.1 or 0.1) end
    return x
  end)
end

local function input(shape, options)
  options = options or {}
  return { shape = shape, bound = options.bound or 2, shift = options.shift or 0, values = options.values }
end

local function positive(shape) return input(shape, { bound = 0.9, shift = 1.5 }) end
local function inside(shape) return input(shape, { bound = 0.8 }) end

-- ---- the cases ------------------------------------------------------------------------------------

local cases = {}
local function case(name, inputs, f) cases[#cases + 1] = { name = name, inputs = inputs, f = f } end

-- functions of one tensor
for _, name in ipairs { "neg", "abs", "sign", "exp", "expm1", "sin", "cos", "tanh", "sigmoid", "relu", "softplus" } do
  case(name, { input { 3, 4 } }, function(x) return x[name](x) end)
end
for _, name in ipairs { "log", "log1p", "sqrt" } do
  case(name, { positive { 3, 4 } }, function(x) return x[name](x) end)
end
for _, name in ipairs { "asin", "acos" } do
  case(name, { inside { 3, 4 } }, function(x) return x[name](x) end)
end
case("log1p below 0", { inside { 5 } }, function(x) return x:log1p() end)
case("clamp", { input { 3, 4 } }, function(x) return x:clamp(-1, 1) end)
case("clamp at one end", { input { 7 } }, function(x) return x:clamp(nil, 1) end)

-- functions of two, broadcasting both ways
local meetings = {
  { "of one shape", { 3, 4 }, { 3, 4 } },
  { "with a row", { 3, 4 }, { 4 } },
  { "of a column and a row", { 3, 1 }, { 1, 4 } },
  { "with a single value", {}, { 2, 3 } },
  { "of ranks 1 and 3", { 4 }, { 2, 3, 4 } },
  { "with a size 1 in the middle", { 2, 1, 3 }, { 2, 4, 3 } },
}
for _, meeting in ipairs(meetings) do
  local title, a, b = table.unpack(meeting)
  for _, name in ipairs { "add", "sub", "mul", "maximum", "minimum" } do
    case(name .. " " .. title, { input(a), input(b) }, function(x, y) return x[name](x, y) end)
  end
  case("div " .. title, { input(a), positive(b) }, function(x, y) return x / y end)
  case("pow " .. title, { positive(a), input(b) }, function(x, y) return x ^ y end)
  case("where " .. title, { input(a), input(b) }, function(x, y) return tensor.where(x:gt(0), x, y) end)
end
case("numbers beside a tensor", { positive { 5 } }, function(x)
  return 2 - x + 3 * x - 1 / x + x / 4 + (x - 1) + 2 ^ x
end)
for _, exponent in ipairs { 2, 1, -1, 0.5, 3, 0, -2.5 } do
  case("pow " .. exponent, { positive { 5 } }, function(x) return x ^ exponent end)
end
case("pow of a negative base", { input({ 5 }, { bound = 0.9, shift = -1.5 }) }, function(x)
  return x ^ 3 + x ^ 2 + x ^ -1
end)
case("where with numbers", { input { 3, 4 } }, function(x) return tensor.where(x:gt(0), x * 2, -1) end)
case("a tensor with itself", { positive { 5 } }, function(x) return x * x + x / x - x ^ x end)

-- reductions, along each axis and all
local reductions = { "sum", "mean", "prod", "max", "min", "logsumexp", "norm1", "norm2", "norm_inf", "var", "std" }
for _, name in ipairs(reductions) do
  local orders = { norm1 = 1, norm2 = 2, norm_inf = math.huge }
  local function reduce(x, axis, keepdims)
    if orders[name] then return x:norm(orders[name], axis, keepdims) end
    if name == "var" or name == "std" then return x[name](x, axis, { keepdims = keepdims }) end
    return (x[name](x, axis, keepdims))
  end
  for _, axis in ipairs { 1, 2, 3, -1 } do
    case(("%s along axis %d"):format(name, axis), { input { 3, 2, 4 } }, function(x) return reduce(x, axis) end)
  end
  case(name .. " keeping the axis", { input { 3, 4 } }, function(x) return reduce(x, 2, true) end)
  case(name .. " of all", { input { 3, 4 } }, function(x) return reduce(x) end)
  case(name .. " of all, kept", { input { 3, 4 } }, function(x) return reduce(x, nil, true) end)
  case(name .. " along two axes", { input { 3, 2, 4 } }, function(x) return reduce(x, { 1, 3 }) end)
  case(name .. " along two axes, kept", { input { 3, 2, 4 } }, function(x) return reduce(x, { 3, 1 }, true) end)
end
case("prod with one zero", { input({ 2, 3 }, { values = { 0, 2, 3, 4, 0, 5 } }) }, function(x) return x:prod(2) end)
case("prod with two zeros", { input({ 4 }, { values = { 0, 2, 0, 4 } }) }, function(x) return x:prod() end)

-- softmax
for _, name in ipairs { "softmax", "log_softmax" } do
  for _, axis in ipairs { 1, 2, -1 } do
    case(("%s along axis %d"):format(name, axis), { input { 3, 4, 2 } }, function(x) return x[name](x, axis) end)
  end
end
case("log_softmax of large numbers", { input({ 2, 5 }, { shift = 1000 }) }, function(x) return x:log_softmax() end)

-- products of matrices
local products = {
  { "of matrices", { 3, 4 }, { 4, 2 } },
  { "of vectors", { 4 }, { 4 } },
  { "of a vector and a matrix", { 3 }, { 3, 2 } },
  { "of a matrix and a vector", { 3, 2 }, { 2 } },
  { "of batches", { 2, 3, 4 }, { 2, 4, 2 } },
  { "of batches that broadcast", { 2, 1, 3, 4 }, { 3, 4, 2 } },
  { "of a batch and a matrix", { 2, 3, 4 }, { 4, 2 } },
  { "of a vector and a batch", { 4 }, { 2, 4, 3 } },
  { "of a batch and a vector", { 2, 3, 4 }, { 4 } },
}
for _, product in ipairs(products) do
  local title, a, b = table.unpack(product)
  case("matmul " .. title, { input(a), input(b) }, function(x, y) return x:matmul(y) end)
end
case("matmul of transposed views", { input { 4, 3 }, input { 2, 4 } }, function(x, y)
  return x:transpose():matmul(y:transpose())
end)

-- views and copies
case("reshape", { input { 2, 6 } }, function(x) return x:reshape(3, 4):exp() end)
case("reshape with a size left open", { input { 2, 6 } }, function(x) return x:reshape { 4, -1 }:exp() end)
case("reshape of a transposed view", { input { 2, 6 } }, function(x) return x:transpose():reshape(4, 3) ^ 2 end)
case("flatten", { input { 2, 3 } }, function(x) return x:flatten():exp() end)
case("squeeze", { input { 2, 1, 3, 1 } }, function(x) return x:squeeze():exp() + x:squeeze(2):squeeze(-1) end)
case("unsqueeze", { input { 2, 3 } }, function(x) return x:unsqueeze(2):exp() end)
case("permute", { input { 2, 3, 4 } }, function(x) return x:permute(3, 1, 2):exp() end)
case("permute from behind", { input { 2, 3, 4 } }, function(x) return x:permute { -1, 1, -2 }:exp() end)
case("transpose", { input { 2, 3, 4 } }, function(x) return x:transpose():exp() + x:transpose(-1, 2) end)
case("expand", { input { 3, 1 } }, function(x) return x:expand(2, 3, 4) * tensor.arange(24):reshape(2, 3, 4) end)
case("slice", { input { 5, 4 } }, function(x) return x:slice(1, 2, -1, 2):exp() + x:slice(2, 1, -1):slice(1, 1, 2) end)
case("slice of nothing", { input { 5 } }, function(x) return x:slice(1, 3, 2):sum() + x:sum() end)
case("select", { input { 3, 4 } }, function(x) return x[2] * x[-1] + x:select(1, 1):exp() end)
case("select of a column", { input { 3, 4 } }, function(x) return x:select(2, 3):exp() end)
case("clone", { input { 3 } }, function(x) return x:clone():exp() end)
case("contiguous", { input { 2, 3 } }, function(x) return x:transpose():contiguous():exp() end)
case("concat", { input { 2, 3 }, input { 1, 3 } }, function(x, y) return tensor.concat { x, y, x }:exp() end)
case("concat along axis 2", { input { 2, 3 }, input { 2, 1 } }, function(x, y)
  return tensor.concat({ x, y }, 2):exp()
end)
case("stack", { input { 2, 3 }, input { 2, 3 } }, function(x, y) return tensor.stack({ x, y, x }, 2):exp() end)
case("split", { input { 5, 2 } }, function(x)
  local parts = x:split(2)
  return parts[1] * parts[2] + parts[3]
end)

-- positions and order
case("gather", { input { 3, 4 } }, function(x) return x:gather(2, { { 1, 1 }, { 4, 2 }, { 3, 3 } }):exp() end)
case("gather along axis 1", { input { 3, 2, 2 } }, function(x)
  return x:gather(1, tensor.new { { { 1, 2 }, { 3, 3 } }, { { 2, 2 }, { 3, 1 } } }):exp()
end)
case("scatter_add", { input { 3, 4 }, input { 3, 2 } }, function(x, y)
  return x:scatter_add(2, { { 1, 1 }, { 4, 2 }, { 3, 3 } }, y):exp()
end)
case("index_select", { input { 3, 4 } }, function(x) return x:index_select(1, { 3, 1, 3 }):exp() end)
case("index_select along axis 2", { input { 3, 4 } }, function(x) return x:index_select(-1, { 4, 4 }):exp() end)
case("masked_select", { input { 3, 4 } }, function(x)
  return x:masked_select(tensor.new { true, false, true, true }):exp()
end)
case("cumsum", { input { 3, 4 } }, function(x) return x:cumsum():exp() + x:cumsum(1) end)
case("sort", { input { 3, 4 } }, function(x) return (x:sort()) * tensor.arange(4) + (x:sort(1, true)) end)

-- what other functions are made of
case("a longer expression", { input { 3, 4 }, input { 4 } }, function(x, w)
  local p = (x * w):log_softmax()
  return (p:exp() * p):sum(2) + (x:max(2)) - x:mean(2)
end)
case("a custom function", { input { 3 }, positive { 3 } }, function(x, y)
  local cube = tensor.custom {
    forward = function(context, a, b, factor)
      context.a, context.b, context.factor = a, b, factor
      return a * a * a * b * factor
    end,
    backward = function(context, slope)
      local a, b = context.a, context.b
      return slope * a * a * b * (3 * context.factor), slope * a * a * a * context.factor
    end,
  }
  return cube(x, y, 2):exp()
end)

-- ---- checking -----------------------------------------------------------------------------------------

local function count_of(shape)
  local count = 1
  for _, size in ipairs(shape) do count = count * size end
  return count
end

local function start_values(spec, seed)
  if spec.values then return spec.values end
  return lists.map(away_from_kinks(seed, count_of(spec.shape), spec.bound), function(x) return x + spec.shift end)
end

-- The inputs as tensors, and one number made of the result: its values weighted unevenly.
local function evaluate(case_of, values, requires_grad)
  local inputs = {}
  for i, spec in ipairs(case_of.inputs) do
    inputs[i] = tensor.new(values[i], { requires_grad = requires_grad }):reshape(spec.shape)
    if requires_grad then inputs[i]:retain_grad() end
  end
  local y = case_of.f(table.unpack(inputs))
  local weights = lists.map(lists.uniform(99, y:count()), function(w) return w + 1.5 end)
  return (y * tensor.new(weights):reshape { y:shape() }):sum(), inputs
end

local function flat(x) return x:contiguous():flatten():totable() end

describe("the gradient of #many", function()
  for number, case_of in ipairs(cases) do
    it(case_of.name .. " is that of finite differences", function()
      local values = {}
      for i, spec in ipairs(case_of.inputs) do values[i] = start_values(spec, 10 * number + i) end
      local loss, inputs = evaluate(case_of, values, true)
      loss:backward()
      for i, spec in ipairs(case_of.inputs) do
        local found = inputs[i].grad and flat(inputs[i].grad) or lists.fill(count_of(spec.shape), 0)
        local function f(x)
          local changed = table.move(values, 1, #values, 1, {})
          changed[i] = x
          return (evaluate(case_of, changed, false)):item()
        end
        local expected = {}
        for k = 1, #found do expected[k] = gradient.entry(f, values[i], k, STEP) end
        local error_norm = lists.norm(lists.add(found, -1, expected))
        assert.is_true(error_norm <= BOUND * math.max(1, lists.norm(expected)),
          ("input %d: found %s, expected %s"):format(i, table.concat(found, " "), table.concat(expected, " ")))
      end
    end)
  end
end)

describe("the list of gradients #many", function()
  -- Methods that give positions, truth values, descriptions or write in place.
  local without_gradient = {
    "eq", "ne", "lt", "le", "gt", "ge", "any", "all", "argmax", "argmin", "argsort", "nonzero", "shape", "shape_text",
    "size", "rank", "count", "dtype", "is_contiguous", "item", "totable", "detach", "close", "backward", "retain_grad",
    "zero_grad", "fill_", "zero_", "assign_", "add_", "scale_", "to", "norm",
  }

  it("has every method of a tensor", function()
    local named = {}
    for _, name in ipairs(without_gradient) do named[name] = true end
    for _, case_of in ipairs(cases) do named[case_of.name:match("^[%w_]+")] = true end
    for name, method in pairs(graph.Tensor) do
      if type(method) == "function" and name:sub(1, 2) ~= "__" then
        assert.truthy(named[name], name .. " stands in no case")
      end
    end
  end)
end)

describe("the gradient of f32 #many", function()
  -- The same cases in f32 against f64: forward and backward loops of both types.
  for number, case_of in ipairs(cases) do
    it(case_of.name .. " is that of f64, rounded", function()
      local gradients = {}
      for _, dtype in ipairs { "f64", "f32" } do
        local inputs, given = {}, {}
        for i, spec in ipairs(case_of.inputs) do
          local values = start_values(spec, 10 * number + i)
          given[i] = tensor.new(values, "f32"):to(dtype):reshape(spec.shape) -- both start from rounded numbers
          given[i].requires_grad = true
          inputs[i] = given[i]
        end
        local y = case_of.f(table.unpack(inputs))
        y:sum():backward()
        gradients[dtype] = { lists = {}, y = flat(y) }
        for i, x in ipairs(given) do gradients[dtype].lists[i] = x.grad and flat(x.grad) or {} end
      end
      local scale = math.max(1, lists.largest(gradients.f64.y))
      assert.is_nil(lists.first_beyond(gradients.f32.y, gradients.f64.y, 1e-5 * scale))
      for i, wide in ipairs(gradients.f64.lists) do
        local bound = 2e-5 * math.max(1, lists.largest(wide))
        assert.is_nil(lists.first_beyond(gradients.f32.lists[i], wide, bound))
      end
    end)
  end
end)
