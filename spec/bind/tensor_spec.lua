-- The functions of core.tensor: what they take and give, how they fail. What they compute is in spec/tensor.

local core = require "crucible.core"
local expect = require "spec.support.expect"

local array = core.tensor

local function new(values) return assert(array.new(values, "f64")) end
local function values_of(x, ...) return array.totable(assert(x, ...)) end

describe("an array", function()
  local x, at

  before_each(function()
    x = new { { 1, 2, 3 }, { 4, 5, 6 } }
    at = new { 2, 1 }
  end)

  it("is made, described and read", function()
    assert.same({ 2, 3 }, array.shape(x))
    assert.same({ "f64", 2, 6, true, false }, { array.info(x) })
    assert.equal(6, array.item(x, 2, -1))
    assert.same({ { 7, 7 } }, values_of(array.full({ 1, 2 }, 7, "f32")))
    assert.same({ 3, 5, 7 }, values_of(array.range(3, 2, 3, "f64")))
    assert.same(values_of(array.random({ 4 }, "normal", 1, "f32")), values_of(array.random({ 4 }, "normal", 1, "f32")))
  end)

  it("is seen in other shapes", function()
    assert.same({ 1, 2, 3, 4, 5, 6 }, values_of(array.reshape(x, { 6 })))
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, values_of(array.permute(x, { 2, 1 })))
    assert.same({ { 4, 6 } }, values_of(array.slice(array.slice(x, 1, 2, 2, 1), 2, 1, -1, 2)))
    assert.same({ 2, 2, 3 }, array.shape(array.expand(x, { 2, 2, 3 })))
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, values_of(array.view(x)))
    assert.same({ 3, 2 }, array.shape(array.contiguous(array.permute(x, { 2, 1 }))))
    assert.equal("f32", (array.info(array.copy(x, "f32"))))
  end)

  it("counts its writes, through whatever view", function()
    local version = array.version(x)
    local row = assert(array.slice(x, 1, 1, 1, 1))
    assert.equal(row, array.fill(row, 0))
    assert.not_equal(version, array.version(x))
    version = array.version(x)
    array.scale(x, 2)
    array.add(x, row, 1)
    array.assign(x, row)
    assert.equal(version + 3, array.version(row))
    assert.same({ { 0, 0, 0 }, { 0, 0, 0 } }, values_of(x))
  end)

  it("computes by families", function()
    assert.same({ { -1, -2, -3 }, { -4, -5, -6 } }, values_of(array.unary.neg(x)))
    assert.same({ { 10, 20, 30 }, { 40, 50, 60 } }, values_of(array.binary.mul(10, x)))
    assert.same({ { 1, 1, 1 }, { 1, 1, 1 } }, values_of(array.unary_slope.log(x, x, array.unary.log(x))))
    assert.same({ 5, 7, 9 }, values_of(array.reduce.sum(x, 1)))
    assert.same({ { 6 }, { 15 } }, values_of(array.reduce.sum(x, -1, true)))
    assert.equal(21, values_of(array.reduce.sum(x)))
    assert.same({ { 0.5 }, { 0.5 } }, values_of(array.softmax.softmax(new { { 3 }, { 3 } }, 1)))
    assert.same({ 0, 0 }, values_of(array.softmax_slope.softmax(new { 1, 1 }, new { 0, 0 }, new { 0.5, 0.5 }, 1)))
  end)

  it("computes the rest", function()
    assert.same({ { 0, 2, 3 }, { 0, 5, 6 } }, values_of(array.where(new { 0, 1, 1 }, x, new(0))))
    assert.same({ { 2, 2, 3 }, { 4, 5, 5 } }, values_of(array.clamp(x, 2, 5)))
    assert.same({ { 0, 1, 1 }, { 1, 1, 0 } }, values_of(array.clamp_slope(array.full({ 2, 3 }, 1, "f64"), x, 2, 5)))
    local values, places = array.extreme(x, "max", 2)
    assert.same({ 3, 6 }, values_of(values))
    assert.same({ 3, 3 }, values_of(places))
    assert.same({ 5, 7, 9 }, values_of(array.sum_to(x, new { 0, 0, 0 })))
    assert.equal("f32", (array.info(array.sum_to(x, assert(array.new(0, "f32"))))))
    assert.same({ { 6, 3, 2 }, { 30, 24, 20 } }, values_of(array.prod_slope(new { { 1 }, { 1 } }, x, 2)))
    assert.same({ { 14, 32 }, { 32, 77 } }, values_of(array.matmul(x, array.permute(x, { 2, 1 }))))
    assert.same({ { 2 }, { 4 } }, values_of(array.gather(x, 2, new { { 2 }, { 1 } })))
    assert.same({ { 4, 5, 6 }, { 1, 2, 3 } }, values_of(array.select(x, 1, at)))
    local source = new { { 10 }, { 20 } }
    assert.same({ { 1, 12, 3 }, { 24, 5, 6 } }, values_of(array.scatter_add(x, 2, new { { 2 }, { 1 } }, source)))
    assert.same({ { 5, 7, 9 }, { 5, 7, 9 } }, values_of(array.select_add(x, 1, at, x)))
    assert.same({ 2, 3 }, values_of(array.nonzero(new { 0, 5, -1 })))
    assert.same({ { 1, 3, 6 }, { 4, 9, 15 } }, values_of(array.cumsum(x, 2)))
    assert.same({ { 6, 5, 3 }, { 15, 11, 6 } }, values_of(array.cumsum(x, 2, true)))
    local sorted, from = array.sort(x, 2, true)
    assert.same({ { 3, 2, 1 }, { 6, 5, 4 } }, values_of(sorted))
    assert.same({ { 3, 2, 1 }, { 3, 2, 1 } }, values_of(from))
    assert.same({ { 1, 2, 3, 1, 2, 3 }, { 4, 5, 6, 4, 5, 6 } }, values_of(array.concat({ x, x }, 2)))
  end)

  it("fails by values, with a code", function()
    expect.fails("argument", "add: shapes [2, 3] and [2] do not broadcast", array.binary.add(x, at))
    expect.fails("argument", "sum: expected an axis from 1 to 2", array.reduce.sum(x, 3))
    expect.fails("argument", "softmax: expected an axis from 1 to 2", array.softmax.softmax(x, 0))
    expect.fails("argument", "reshape: shape [2, 3] holds 6 values", array.reshape(x, { 5 }))
    expect.fails("argument", "concat: expected at least one tensor", array.concat({}, 1))
    expect.fails("argument", "select: position 2 is not on an axis of 1", array.select(new { 1 }, 1, at))
    expect.fails("memory", "is too large", array.full({ 1 << 40, 1 << 30 }, 0, "f64"))
    expect.fails("argument", "values[1]: expected a number, got a string", array.new({ "1" }, "f64"))
    expect.fails("argument", "a slope of shape [2, 3] does not fit a tensor of shape [2]", array.sum_to(x, at))
  end)

  it("raises at a wrong type", function()
    expect.raises("crucible.tensor expected, got table", array.unary.exp, {})
    expect.raises("crucible.tensor expected, got nil", array.matmul, x, nil)
    expect.raises("invalid option 'f16'", array.new, { 1 }, "f16")
    expect.raises("table expected", array.full, 3, 0, "f64")
    expect.raises("invalid option 'cauchy'", array.random, { 1 }, "cauchy", 1, "f64")
    expect.raises("expected a count >= 0", array.range, 1, 1, -1, "f64")
    expect.raises("number expected", array.fill, x, "x")
  end)

  it("hides its metatable behind its type's name and reads well as text", function()
    assert.equal("crucible.tensor", getmetatable(x))
    assert.equal("crucible.tensor(f64, rank 2, 6 values)", tostring(x))
    array.close(x)
    array.close(x)
    assert.equal("crucible.tensor(closed)", tostring(x))
  end)

  -- Arguments that would do if the array were open.
  local others = {
    slice = { 1, 1, 1, 1 }, permute = { {} }, expand = { {} }, reshape = { {} }, copy = { "f64" }, fill = { 0 },
    scale = { 0 }, clamp = { 0, 1 }, extreme = { "max", 1 }, cumsum = { 1 }, sort = { 1 }, item = { 1 },
  }

  it("says that it is closed, in every function", function()
    local open, closed = new { 1 }, new { 1 }
    array.close(closed)
    for name, f in pairs(array) do
      local made = name == "new" or name == "full" or name == "range" or name == "random"
      if type(f) == "function" and not made and name ~= "close" and name ~= "concat" then
        local arguments = others[name] or { open, open, open }
        if name == "gather" or name == "select" or name == "scatter_add" or name == "select_add" then
          arguments = { 1, open, open }
        elseif name == "add" then
          arguments = { open, 1 }
        elseif name == "clamp_slope" then
          arguments = { open, 0, 1 }
        elseif name == "prod_slope" then
          arguments = { open, 1 }
        end
        expect.fails("argument", "tensor is closed", f(closed, table.unpack(arguments)))
      end
    end
    expect.fails("argument", "tensor is closed", array.concat({ open, closed }, 1))
    expect.fails("argument", "tensor is closed", array.concat({ closed }, 1))
    for _, family in ipairs { "unary", "binary", "reduce" } do
      for _, f in pairs(array[family]) do expect.fails("argument", "tensor is closed", f(closed, open)) end
    end
    for _, f in pairs(array.unary_slope) do expect.fails("argument", "tensor is closed", f(open, closed, open)) end
    for _, f in pairs(array.softmax) do expect.fails("argument", "tensor is closed", f(closed, 1)) end
    for _, f in pairs(array.softmax_slope) do expect.fails("argument", "tensor is closed", f(open, open, closed, 1)) end
  end)
end)
