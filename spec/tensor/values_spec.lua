-- What tensors compute beside plain loops: functions, broadcasting, reductions, order, positions, products.

local tensor = require "crucible.tensor"
local arrays = require "spec.support.arrays"
local lists = require "spec.support.lists"

local NAN, INF = 0 / 0, math.huge

local function is_near(expected, got, tolerance)
  return got == expected or (got ~= got and expected ~= expected)
    or math.abs(got - expected) <= tolerance * math.max(1, math.abs(expected))
end

-- Compares a tensor with an array; NaN equals NaN.
local function assert_near(expected, found, tolerance, title)
  local array = arrays.of(found)
  assert.same(expected.shape, array.shape, title)
  for i, value in ipairs(expected.values) do
    if not is_near(value, array.values[i], tolerance) then
      error(("%s: value %d: expected %s, got %s"):format(title or "values", i, value, array.values[i]), 2)
    end
  end
end

local tolerance = { f64 = 1e-14, f32 = 1e-6 }

local function each_dtype(f)
  for _, dtype in ipairs { "f64", "f32" } do f(dtype, tolerance[dtype]) end
end

-- ---- elementwise ---------------------------------------------------------------------------------

-- Kahan's: the rounding of 1 + x cancels.
local function log1p(x)
  local sum = 1 + x
  if sum == 1 then return x end
  return math.log(sum) * x / (sum - 1)
end

local function expm1(x)
  local power = math.exp(x)
  if power == 1 then return x end
  return power < 0.5 and power - 1 or (power - 1) * x / math.log(power)
end

local functions = {
  neg = function(x) return -x end,
  abs = math.abs,
  sign = function(x) return x > 0 and 1 or x < 0 and -1 or 0 end,
  exp = math.exp,
  expm1 = expm1,
  log = math.log,
  log1p = log1p,
  sqrt = math.sqrt,
  sin = math.sin,
  cos = math.cos,
  asin = math.asin,
  acos = math.acos,
  tanh = function(x) return 1 - 2 / (math.exp(2 * x) + 1) end,
  sigmoid = function(x) return 1 / (1 + math.exp(-x)) end,
  relu = function(x) return math.max(x, 0) end,
  softplus = function(x) return math.max(x, 0) + log1p(math.exp(-math.abs(x))) end,
}

describe("a function of a tensor #many", function()
  for name, f in pairs(functions) do
    it(name .. " gives what the loop gives, in runs of any length", function()
      each_dtype(function(dtype, bound)
        for _, count in ipairs { 0, 1, 3, 8, 17, 257, 600 } do
          for _, reach in ipairs { 0.999, 8 } do
            local x = arrays.uniform(count, { count }, reach)
            assert_near(arrays.map(f, x), tensor[name](arrays.tensor(x, dtype)), bound, name)
          end
        end
      end)
    end)
  end

  it("knows infinities, zeros and NaN", function()
    each_dtype(function(dtype)
      local x = tensor.new({ INF, -INF, 0, NAN, -1, 1 }, dtype)
      local expected = {
        exp = { INF, 0, 1, NAN, math.exp(-1), math.exp(1) },
        expm1 = { INF, -1, 0, NAN, math.exp(-1) - 1, math.exp(1) - 1 },
        log = { INF, NAN, -INF, NAN, NAN, 0 },
        log1p = { INF, NAN, 0, NAN, -INF, math.log(2) },
        sqrt = { INF, NAN, 0, NAN, NAN, 1 },
        sin = { NAN, NAN, 0, NAN, -math.sin(1), math.sin(1) },
        cos = { NAN, NAN, 1, NAN, math.cos(1), math.cos(1) },
        tanh = { 1, -1, 0, NAN, -0.76159415595576, 0.76159415595576 },
        sigmoid = { 1, 0, 0.5, NAN, 0.26894142136999, 0.73105857863 },
        softplus = { INF, 0, math.log(2), NAN, 0.31326168751822, 1.3132616875182 },
        relu = { INF, 0, 0, NAN, 0, 1 },
        asin = { NAN, NAN, 0, NAN, -math.pi / 2, math.pi / 2 },
        acos = { NAN, NAN, math.pi / 2, NAN, math.pi, 0 },
        abs = { INF, INF, 0, NAN, 1, 1 },
        sign = { 1, -1, 0, NAN, -1, 1 },
      }
      for name, values in pairs(expected) do
        assert_near({ shape = { 6 }, values = values }, tensor[name](x), 1e-6, name .. " in " .. dtype)
      end
    end)
  end)

  it("reaches the ends of the range", function()
    assert.same({ INF, 0, 4.9406564584124654e-324 }, tensor.exp(tensor.new { 710, -746, -744.5 }):totable())
    assert.near(1.7e308, tensor.new(709.74):exp():item(), 0.1e308)
    assert.equal(INF, tensor.new({ 89 }, "f32"):exp():item())
    assert.near(2 ^ -140, tensor.new({ -140 * math.log(2) }, "f32"):exp():item(), 2 ^ -148)
    assert.near(-744.44, tensor.new(5e-324):log():item(), 0.01)
    assert.near(-103.28, tensor.new({ 2 ^ -149 }, "f32"):log():item(), 0.01)
  end)

  it("keeps its digits for small arguments", function()
    for _, x in ipairs { 1e-3, 1e-8, 1e-15, 1e-30 } do
      assert.near(1, tensor.new(x):log1p():item() / log1p(x), 1e-15)
      assert.near(1, tensor.new(-x):expm1():item() / expm1(-x), 1e-15)
      assert.near(1, tensor.new({ x }, "f32"):expm1():item() / expm1(x), 2e-7)
      assert.near(1, tensor.new({ x }, "f32"):log1p():item() / log1p(x), 2e-7)
      assert.near(1, tensor.new(x):tanh():item() / x, 1e-6)
    end
  end)

  it("turns large angles as libm does", function()
    each_dtype(function(dtype, bound)
      for _, x in ipairs { 100, 1e4, 99999, 1e6, 123456789, 1e15 } do
        local exact = tensor.new({ x }, dtype):item()
        assert.near(math.sin(exact), tensor.new({ exact }, dtype):sin():item(), bound)
        assert.near(math.cos(exact), tensor.new({ exact }, dtype):cos():item(), bound)
      end
    end)
  end)

  it("clamps, and lets NaN through", function()
    local x = tensor.new { -3, -1, 0.5, 1, 7, NAN }
    assert_near({ shape = { 6 }, values = { -1, -1, 0.5, 1, 1, NAN } }, x:clamp(-1, 1), 0)
    assert_near({ shape = { 6 }, values = { -3, -1, 0.5, 1, 1, NAN } }, x:clamp(nil, 1), 0)
    assert_near({ shape = { 6 }, values = { 0, 0, 0.5, 1, 7, NAN } }, x:clamp(0), 0)
  end)
end)

local operators = {
  add = function(a, b) return a + b end,
  sub = function(a, b) return a - b end,
  mul = function(a, b) return a * b end,
  div = function(a, b) return a / b end,
  maximum = math.max,
  minimum = math.min,
  eq = function(a, b) return a == b and 1 or 0 end,
  ne = function(a, b) return a ~= b and 1 or 0 end,
  lt = function(a, b) return a < b and 1 or 0 end,
  le = function(a, b) return a <= b and 1 or 0 end,
  gt = function(a, b) return a > b and 1 or 0 end,
  ge = function(a, b) return a >= b and 1 or 0 end,
}

local meetings = {
  { {}, {} }, { { 5 }, {} }, { {}, { 2, 3 } }, { { 3, 4 }, { 4 } }, { { 4 }, { 3, 4 } }, { { 3, 1 }, { 4 } },
  { { 3, 1 }, { 1, 4 } },
  { { 2, 1, 3 }, { 5, 1 } }, { { 1 }, { 2, 2 } }, { { 0 }, { 1 } }, { { 2, 0 }, { 2, 1 } }, { { 3, 0, 2 }, { 2 } },
  { { 2, 1, 1, 2, 1, 3 }, { 2, 2, 1 } }, { { 300 }, { 2, 1 } }, { { 2, 1 }, { 300 } },
}

describe("an operation on two tensors #many", function()
  for name, f in pairs(operators) do
    it(name .. " broadcasts both ways", function()
      each_dtype(function(dtype, bound)
        for i, meeting in ipairs(meetings) do
          local a, b = arrays.uniform(i, meeting[1], 2), arrays.uniform(i + 50, meeting[2], 2)
          if i % 2 == 0 and #a.values > 0 and #b.values > 0 then b.values[1] = a.values[1] end -- equal ones too
          assert_near(arrays.map(f, a, b), tensor[name](arrays.tensor(a, dtype), arrays.tensor(b, dtype)), bound, name)
        end
      end)
    end)
  end

  it("takes a number on either side", function()
    each_dtype(function(dtype, bound)
      local x = arrays.uniform(3, { 2, 3 }, 2)
      local t = arrays.tensor(x, dtype)
      assert_near(arrays.map(function(a) return 2.5 - a end, x), 2.5 - t, bound)
      assert_near(arrays.map(function(a) return a - 2.5 end, x), t - 2.5, bound)
      assert_near(arrays.map(function(a) return 2.5 / a end, x), 2.5 / t, bound)
      assert_near(arrays.map(function(a) return a < 0.25 and 1 or 0 end, x), t:lt(0.25), 0)
      assert.equal(dtype, (t + 1):dtype())
    end)
  end)

  it("gives f64 where f32 meets f64, and keeps f32 beside numbers", function()
    local narrow, wide = tensor.new({ 0.1 }, "f32"), tensor.new { 0.2 }
    assert.equal("f64", (narrow + wide):dtype())
    assert.equal("f64", tensor.where(narrow, narrow, wide):dtype())
    assert.equal("f32", tensor.where(wide, narrow, 1):dtype())
    assert.equal("f64", tensor.concat({ narrow, wide }):dtype())
    assert.equal("f64", narrow:matmul(wide):dtype())
    assert.equal("f32", (2 ^ narrow):dtype())
    assert.equal(string.unpack("f", string.pack("f", 0.1)) + 0.2, (narrow + wide):item())
  end)

  it("raises to powers as libm does", function()
    local special = { 0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, INF, -INF, NAN, 1e-320, 1e308, 2 ^ 53, 2 ^ 53 + 2, 1.5 }
    for _, base in ipairs(special) do
      for _, exponent in ipairs(special) do
        local expected = base ^ exponent
        local pair = tensor.new({ base, base }) ^ tensor.new { exponent, exponent }
        for _, found in ipairs { pair:totable()[1], (tensor.new { base } ^ exponent):item() } do
          assert.is_true(is_near(expected, found, 0) or math.abs(found / expected - 1) < 1e-14,
            ("%s ^ %s: expected %s, got %s"):format(base, exponent, expected, found))
        end
      end
    end
    local x = arrays.map(math.abs, arrays.uniform(4, { 500 }, 30))
    local y = arrays.uniform(5, { 500 }, 12)
    assert_near(arrays.map(function(a, b) return a ^ b end, x, y), arrays.tensor(x) ^ arrays.tensor(y), 1e-14)
    local negative = arrays.map(function(a) return -a end, x)
    assert_near(arrays.map(function(a) return a ^ 3 end, negative), arrays.tensor(negative) ^ 3, 1e-15)
  end)

  it("lets NaN win in maximum and minimum", function()
    local x, y = tensor.new { NAN, 1, NAN }, tensor.new { 2, NAN, NAN }
    for _, name in ipairs { "maximum", "minimum" } do
      assert_near({ shape = { 3 }, values = { NAN, NAN, NAN } }, tensor[name](x, y), 0)
    end
  end)

  it("chooses by where, with NaN counting as true", function()
    local c = tensor.new { 1, 0, NAN, -2 }
    assert_near({ shape = { 4 }, values = { 5, -1, 5, 5 } }, tensor.where(c, 5, -1), 0)
    local x, y = arrays.uniform(1, { 3, 1 }), arrays.uniform(2, { 4 })
    local mask = arrays.map(function(a) return a > 0 and 1 or 0 end, arrays.uniform(3, { 2, 1, 4 }))
    assert_near(arrays.map(function(m, a, b) return m ~= 0 and a or b end, mask, x, y),
      tensor.where(arrays.tensor(mask), arrays.tensor(x), arrays.tensor(y)), 0)
  end)
end)

-- ---- views as operands ------------------------------------------------------------------------------

describe("a view #many", function()
  local x = arrays.uniform(1, { 4, 5, 270 })
  local t = arrays.tensor(x)
  local views = {
    transposed = t:transpose(),
    permuted = t:permute(3, 1, 2),
    sliced = t:slice(1, 2, 3):slice(3, 2, -2),
    stepped = t:slice(3, 1, -1, 3),
    expanded = t:select(1, 1):unsqueeze(1):expand(3, 5, 270),
    selected = t:select(2, 4),
    ["of one value"] = t:slice(1, 2, 2):slice(2, 3, 3):slice(3, 270, 270),
    empty = t:slice(2, 4, 3),
  }

  for name, view in pairs(views) do
    it(name .. " computes what a copy of it does", function()
      local copy = view:clone()
      assert.same(view:totable(), copy:totable())
      assert.same((view + 1):totable(), (copy + 1):totable())
      assert.same((view * view):totable(), (copy * copy):totable())
      assert.same(view:exp():totable(), copy:exp():totable())
      assert.same(tensor.where(view:gt(0), view, 7):totable(), tensor.where(copy:gt(0), copy, 7):totable())
      assert.same(view:to("f32"):totable(), copy:to("f32"):totable())
      assert.same(view:sum(1):totable(), copy:sum(1):totable())
      assert.same(view:sum():totable(), copy:sum():totable())
      assert.same(view:softmax(1):totable(), copy:softmax(1):totable())
      assert.same(view:cumsum(2):totable(), copy:cumsum(2):totable())
      assert.same((view:sort(1)):totable(), (copy:sort(1)):totable())
      assert.same(view:index_select(1, { 1 }):totable(), copy:index_select(1, { 1 }):totable())
      assert.same(view:matmul(view:transpose()):totable(), copy:matmul(copy:transpose():contiguous()):totable())
      assert.same(tensor.concat({ view, copy }, 2):totable(), tensor.concat({ copy, view }, 2):totable())
    end)
  end

  it("sees what is written through another", function()
    local whole = tensor.zeros { 3, 4 }
    whole:transpose():slice(1, 2, 3):fill_(5)
    whole[3]:add_(tensor.arange(4), 10)
    assert.same({ { 0, 5, 5, 0 }, { 0, 5, 5, 0 }, { 10, 25, 35, 40 } }, whole:totable())
  end)
end)

-- ---- in place ---------------------------------------------------------------------------------------------

describe("writing in place #many", function()
  it("fills, scales, adds and assigns", function()
    each_dtype(function(dtype)
      local x = tensor.new({ { 1, 2 }, { 3, 4 } }, dtype)
      assert.same({ { 2, 4 }, { 6, 8 } }, x:scale_(2):totable())
      assert.same({ { 1, 2 }, { 5, 6 } }, x:add_(tensor.new { 1, 2 }, -1):totable())
      assert.same({ { 1.5, 2.5 }, { 5.5, 6.5 } }, x:add_(0.5):totable())
      assert.same({ { 9, 9 }, { 8, 8 } }, x:assign_(tensor.new { { 9 }, { 8 } }):totable())
      assert.same({ { 0, 0 }, { 0, 0 } }, x:zero_():totable())
      assert.equal(dtype, x:dtype())
    end)
  end)

  it("reads a source of the same memory before it writes", function()
    local x = tensor.arange(6):reshape(2, 3)
    x:assign_(x[2])
    assert.same({ { 4, 5, 6 }, { 4, 5, 6 } }, x:totable())
    local y = tensor.arange(4)
    y:slice(1, 2, 4):add_(y:slice(1, 1, 3))
    assert.same({ 1, 3, 5, 7 }, y:totable())
  end)
end)

-- ---- reductions ----------------------------------------------------------------------------------------------

local function sum_of(list)
  local sum = 0.0
  for _, value in ipairs(list) do sum = sum + value end
  return sum
end

local reductions = {
  sum = sum_of,
  mean = function(list) return sum_of(list) / #list end,
  prod = function(list)
    local product = 1.0
    for _, value in ipairs(list) do product = product * value end
    return product
  end,
  max = function(list) return math.max(table.unpack(list)) end,
  min = function(list) return math.min(table.unpack(list)) end,
  norm = lists.norm,
  norm1 = function(list) return sum_of(lists.map(list, math.abs)) end,
  logsumexp = function(list) return math.log(sum_of(lists.map(list, math.exp))) end,
  var = function(list)
    local mean = sum_of(list) / #list
    return sum_of(lists.map(list, function(x) return (x - mean) ^ 2 end)) / (#list - 1)
  end,
}

local function reduce(name, x, axis, keepdims)
  if name == "norm1" then return x:norm(1, axis, keepdims) end
  if name == "norm" then return x:norm(2, axis, keepdims) end
  if name == "var" then return x:var(axis, { keepdims = keepdims }) end
  return (x[name](x, axis, keepdims))
end

describe("a reduction #many", function()
  for name, f in pairs(reductions) do
    it(name .. " gives what the loop gives, along every axis and of all", function()
      each_dtype(function(dtype, bound)
        local shapes = { { 2 }, { 37 }, { 3, 4 }, { 2, 3, 5 }, { 5, 2, 700 }, { 1, 2, 1, 3 }, { 2, 9, 2, 2 } }
        for i, shape in ipairs(shapes) do
          local x = arrays.uniform(i, shape, 2)
          local t = arrays.tensor(x, dtype)
          for axis = 1, #shape do
            if shape[axis] > 1 then
              local expected = arrays.along(x, axis, f)
              assert_near(expected, reduce(name, t, axis), 10 * bound, name)
              table.insert(expected.shape, axis, 1)
              assert_near(expected, reduce(name, t, axis - #shape - 1, true), 10 * bound, name)
            end
          end
          if arrays.count_of(shape) < 200 then
            assert_near(arrays.along(x, nil, f), reduce(name, t), 10 * bound, name)
          end
        end
      end)
    end)
  end

  it("takes several axes as one", function()
    local x = arrays.uniform(3, { 2, 3, 4 }, 2)
    local flat = arrays.of(arrays.tensor(x):permute(2, 1, 3):reshape(3, 8))
    assert_near(arrays.along(flat, 2, sum_of), arrays.tensor(x):sum { 1, 3 }, 1e-14)
    assert_near(arrays.along(flat, 2, reductions.max), (arrays.tensor(x):max { -1, 1 }), 0)
    assert.same({ 1, 3, 1 }, { arrays.tensor(x):logsumexp({ 1, 3 }, true):shape() })
  end)

  it("of nothing is 0, 1, NaN or refused", function()
    local x = tensor.zeros { 3, 0 }
    assert.same({ 0, 0, 0 }, x:sum(2):totable())
    assert.same({ 1, 1, 1 }, x:prod(2):totable())
    assert.same({ 0, 0, 0 }, x:norm(2, 2):totable())
    assert.same({ -INF, -INF, -INF }, x:logsumexp(2):totable())
    assert.same({}, x:sum(1):totable())
    assert.equal(0, x:sum():item())
    assert.is_true(x:mean():item() ~= x:mean():item())
    assert.has_error(function() return x:max(2) end)
    assert.equal(0, x:any():item())
    assert.equal(1, x:all():item())
  end)

  it("sums many values in double or in pairs", function()
    local tenth = tensor.full(1000003, 0.1, "f32")
    assert.near(1000003 * tensor.new({ 0.1 }, "f32"):item(), tenth:sum():item(), 0.01)
    local many = tensor.full(3000001, 0.1)
    assert.near(300000.1, many:sum():item(), 1e-8)
    local columns = tensor.full({ 100000, 3 }, 0.1, "f32"):sum(1):totable()
    assert.near(10000.0001490116, columns[1], 1e-3)
  end)

  it("does not overflow where the result does not", function()
    local large = tensor.new({ 1e30, 1e30 }, "f32")
    assert.near(math.sqrt(2) * 1e30, large:norm():item(), 1e24)
    assert.equal(1e30, large:mean():item() // 1e24 * 1e24)
    assert.near(1000 + math.log(2), tensor.new { 1000, 1000 }:logsumexp():item(), 1e-12)
    assert.equal(-INF, tensor.new { -INF, -INF }:logsumexp():item())
    assert.equal(INF, tensor.new { 0, INF }:logsumexp():item())
  end)

  it("says where the first of equal extremes stands", function()
    each_dtype(function(dtype)
      local x = tensor.new({ { 3, 7, 7, 1 }, { 2, 2, 1, 1 }, { 5, 5, 5, 5 } }, dtype)
      local largest, at = x:max(2)
      assert.same({ 7, 2, 5 }, largest:totable())
      assert.same({ 2, 1, 1 }, at:totable())
      local least, columns = x:min(1)
      assert.same({ 2, 2, 1, 1 }, least:totable())
      assert.same({ 2, 2, 2, 1 }, columns:totable())
      assert.same({ { 2 }, { 1 }, { 1 } }, x:argmax(2, true):totable())
      assert.equal(2, x:argmax():item())
      assert.equal(4, x:argmin():item())
      assert.same({ 3, 1, 1, 3 }, x:argmax(1):totable())
    end)
  end)

  it("finds NaN first", function()
    each_dtype(function(dtype)
      local x = tensor.new({ { 3, NAN, 7 }, { 1, 2, 3 } }, dtype)
      local largest, at = x:max(2)
      assert.is_true(largest[1]:item() ~= largest[1]:item())
      assert.same({ 2, 3 }, at:totable())
      local _, columns = x:min(1)
      assert.same({ 2, 1, 2 }, columns:totable())
      assert.equal(2, x:argmin():item())
    end)
  end)

  it("finds the place of an extreme in any length", function()
    for _, count in ipairs { 1, 2, 63, 64, 65, 128, 1000, 5000 } do
      for _, place in ipairs { 1, count // 2 + 1, count } do
        for _, dtype in ipairs { "f32", "f64" } do
          local x = tensor.zeros(count, dtype)
          x:slice(1, place, place):fill_(1)
          assert.equal(place, x:argmax():item())
          assert.equal(place, x:unsqueeze(2):expand(count, 3):argmax(1):totable()[2])
        end
      end
    end
  end)

  it("tells any and all", function()
    local x = tensor.new { { 0, 0, 0 }, { 0, 2, 0 }, { 1, 2, 3 }, { NAN, 1, 1 } }
    assert.same({ 0, 1, 1, 1 }, x:any(2):totable())
    assert.same({ 0, 0, 1, 1 }, x:all(2):totable())
  end)
end)

describe("softmax #many", function()
  local function softmax_of(list)
    local largest = math.max(table.unpack(list))
    local powers = lists.map(list, function(x) return math.exp(x - largest) end)
    local sum = sum_of(powers)
    return lists.map(powers, function(x) return x / sum end)
  end

  it("gives what the loop gives, along every axis", function()
    each_dtype(function(dtype, bound)
      local x = arrays.uniform(8, { 3, 70, 2 }, 16)
      for axis = 1, 3 do
        local expected = arrays.along(x, axis, softmax_of)
        assert_near(expected, arrays.tensor(x, dtype):softmax(axis), 10 * bound)
        assert_near(arrays.map(math.log, expected), arrays.tensor(x, dtype):log_softmax(axis), 20 * bound)
      end
    end)
  end)

  it("is stable for large, single and infinite values", function()
    assert.same({ 0.5, 0.5 }, tensor.new { 5000, 5000 }:softmax():totable())
    assert.same({ { 1 }, { 1 } }, tensor.new { { 3 }, { -9 } }:softmax():totable())
    assert.same({ 0, -INF }, tensor.new { 0, -INF }:log_softmax():totable())
    assert.same({ 1, 0 }, tensor.new { 0, -INF }:softmax():totable())
    assert.near(-1e-30, tensor.new { 0, math.log(1e-30) }:log_softmax():totable()[1], 1e-16)
  end)
end)

-- ---- order and positions ---------------------------------------------------------------------------------------

describe("sorting #many", function()
  local function sorted_places(list, descending)
    local places = {}
    for i = 1, #list do places[i] = i end
    table.sort(places, function(a, b)
      if list[a] == list[b] then return a < b end
      if descending then return list[a] > list[b] end
      return list[a] < list[b]
    end)
    return places
  end

  it("orders lists of any length and keeps the order of equals", function()
    for _, count in ipairs { 0, 1, 2, 15, 16, 17, 33, 100, 1000 } do
      local x = lists.map(lists.uniform(count, count, 8), math.floor) -- many equals
      for _, descending in ipairs { false, true } do
        for _, dtype in ipairs { "f32", "f64" } do
          local places = sorted_places(x, descending)
          local values, at = tensor.new(x, dtype):sort(1, descending)
          assert.same(places, lists.map(at:totable(), math.tointeger))
          assert.same(lists.map(places, function(i) return x[i] end), values:totable())
          assert.same(at:totable(), tensor.new(x, dtype):argsort(1, descending):totable())
        end
      end
    end
  end)

  it("works along any axis and puts NaN last", function()
    local x = tensor.new { { 3, 1, NAN }, { NAN, 2, 0 } }
    assert.same({ { 2, 1, 3 }, { 3, 2, 1 } }, x:argsort(2):totable())
    assert.same({ { 1, 2, 3 }, { 2, 3, 1 } }, x:argsort(2, true):totable())
    assert.same({ { 1, 1, 2 }, { 2, 2, 1 } }, x:argsort(1):totable())
  end)

  it("sums on", function()
    local x = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }
    assert.same({ { 1, 3, 6 }, { 4, 9, 15 } }, x:cumsum():totable())
    assert.same({ { 1, 2, 3 }, { 5, 7, 9 } }, x:cumsum(1):totable())
    assert.same({}, tensor.zeros(0):cumsum():totable())
    assert.equal(3000, tensor.full(30000, 0.1, "f32"):cumsum():item(30000) // 1)
  end)
end)

describe("positions #many", function()
  local x = tensor.new { { 11, 12, 13 }, { 21, 22, 23 } }

  it("gather along an axis", function()
    assert.same({ { 13, 11 }, { 22, 22 } }, x:gather(2, { { 3, 1 }, { 2, 2 } }):totable())
    assert.same({ { 21, 12, 23 } }, x:gather(1, { { 2, 1, 2 } }):totable())
    assert.same({ {}, {} }, x:gather(2, tensor.zeros { 2, 0 }):totable())
  end)

  it("scatter adds up where places repeat", function()
    local source = tensor.new { { 1, 2 }, { 3, 4 } }
    assert.same({ { 14, 12, 13 }, { 21, 25, 27 } }, x:scatter_add(2, { { 1, 1 }, { 2, 3 } }, source):totable())
    assert.same({ { 11, 12, 13 }, { 21, 22, 23 } }, x:totable())
  end)

  it("select lists of positions and masks", function()
    assert.same({ { 21, 22, 23 }, { 11, 12, 13 }, { 21, 22, 23 } }, x:index_select(1, { 2, 1, 2 }):totable())
    assert.same({ { 13 }, { 23 } }, x:index_select(2, { 3 }):totable())
    assert.same({ {}, {} }, x:index_select(2, {}):totable())
    assert.same({ 12, 13, 22, 23 }, x:masked_select(tensor.new { 0, 1, 1 }):totable())
    assert.same({ 13, 21, 22, 23 }, x:masked_select(x:gt(12)):totable())
    assert.same({}, x:masked_select(x:gt(99)):totable())
    assert.same({ 3, 4, 5, 6 }, x:gt(12):nonzero():totable())
  end)
end)

-- ---- products -----------------------------------------------------------------------------------------------------

describe("the matrix product #many", function()
  it("gives what the loop gives, at every edge of a tile", function()
    each_dtype(function(dtype, bound)
      local sizes = {
        { 1, 1, 1 }, { 2, 3, 4 }, { 6, 5, 8 }, { 7, 9, 17 }, { 13, 1, 33 }, { 12, 40, 16 }, { 25, 70, 65 },
        { 1, 50, 3 }, { 40, 3, 1 },
      }
      for i, size in ipairs(sizes) do
        local m, k, n = table.unpack(size)
        local a, b = arrays.uniform(i, { m, k }), arrays.uniform(i + 30, { k, n })
        local expected, ta, tb = arrays.matmul(a, b), arrays.tensor(a, dtype), arrays.tensor(b, dtype)
        assert_near(expected, ta:matmul(tb), 40 * bound)
        assert_near(expected, ta:transpose():contiguous():transpose():matmul(tb), 40 * bound)
        assert_near(expected, ta:matmul(tb:transpose():contiguous():transpose()), 40 * bound)
      end
    end)
  end)

  it("broadcasts batches and drops the axes of vectors", function()
    local a, b = arrays.tensor(arrays.uniform(1, { 2, 1, 3, 4 })), arrays.tensor(arrays.uniform(2, { 5, 4, 2 }))
    local c = a:matmul(b)
    assert.same({ 2, 5, 3, 2 }, { c:shape() })
    assert.same(a[2][1]:matmul(b[4]):totable(), c[2][4]:totable())
    local v = tensor.new { 1, 2, 3, 4 }
    assert.same({ 2, 1, 3 }, { a:matmul(v):shape() })
    assert.same({ 5, 2 }, { v:matmul(b):shape() })
    assert.equal(30, v:matmul(v):item())
    assert.same(v:matmul(b[3]):totable(), v:matmul(b):totable()[3])
  end)

  it("of nothing is 0", function()
    assert.same({ { 0, 0 }, { 0, 0 } }, tensor.zeros { 2, 0 }:matmul(tensor.zeros { 0, 2 }):totable())
    assert.same({ 0, 3 }, { tensor.zeros { 0, 2 }:matmul(tensor.zeros { 2, 3 }):shape() })
    assert.same({ 2, 0 }, { tensor.zeros { 2, 3 }:matmul(tensor.zeros { 3, 0 }):shape() })
    assert.same({ 0, 2, 3 }, { tensor.zeros { 0, 2, 2 }:matmul(tensor.zeros { 2, 3 }):shape() })
  end)
end)
