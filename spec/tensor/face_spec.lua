-- The face of tensors: making, describing, views, fields, what refuses and how it says so, tostring.

local tensor = require "crucible.tensor"
local expect = require "spec.support.expect"

describe("making a tensor", function()
  it("reads nested lists, booleans and numbers", function()
    local x = tensor { { 1, 2, 3 }, { 4, 5, 6 } }
    assert.same({ 2, 3 }, { x:shape() })
    assert.equal("f64", x:dtype())
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, x:totable())
    assert.same({ 1, 0 }, tensor.new { true, false }:totable())
    assert.same({ 0 }, { tensor.new({}):shape() })
    assert.same({ 2, 0 }, { tensor.new({ {}, {} }):shape() })
    assert.same({}, { tensor.new(7):shape() })
    assert.equal(7, tensor.new(7):totable())
    assert.same({ 1, 1, 1, 1, 1, 1 }, { tensor.new { { { { { { 3 } } } } } }:shape() })
  end)

  it("rounds to f32 on request", function()
    assert.equal("f32", tensor.new({ 0.1 }, "f32"):dtype())
    assert.equal(string.unpack("f", string.pack("f", 0.1)), tensor.new({ 0.1 }, { dtype = "f32" }):item())
  end)

  it("makes constants and ranges", function()
    assert.same({ { 0, 0 }, { 0, 0 } }, tensor.zeros({ 2, 2 }):totable())
    assert.same({ 1, 1, 1 }, tensor.ones(3):totable())
    assert.same({ 2.5 }, tensor.full(1, 2.5, "f32"):totable())
    assert.equal(2.5, tensor.full({}, 2.5):item())
    assert.same({ 1, 2, 3 }, tensor.arange(3):totable())
    assert.same({ 2, 4, 6 }, tensor.arange(2, 7, 2):totable())
    assert.same({ 3, 2, 1 }, tensor.arange(3, 1, -1):totable())
    assert.same({}, tensor.arange(0):totable())
    assert.equal(11, tensor.arange(0, 1, 0.1):count())
    assert.equal(4, tensor.arange(0, 0.3, 0.1):count())
    assert.equal("f32", tensor.arange(1, 3, 1, "f32"):dtype())
  end)

  it("draws the same numbers from the same seed", function()
    local a, b = tensor.rand({ 3, 5 }, { seed = 7 }), tensor.rand({ 3, 5 }, { seed = 7 })
    assert.same(a:totable(), b:totable())
    assert.are_not.same(a:totable(), tensor.rand({ 3, 5 }, { seed = 8 }):totable())
    math.randomseed(3)
    local c = tensor.randn(4)
    math.randomseed(3)
    assert.same(c:totable(), tensor.randn(4):totable())
    assert.are_not.same(c:totable(), tensor.randn(4):totable())
  end)

  it("draws uniform and normal numbers", function()
    for _, dtype in ipairs { "f32", "f64" } do
      local uniform = tensor.rand(20001, { seed = 1, dtype = dtype })
      assert.near(0.5, uniform:mean():item(), 0.01)
      assert.near(1 / 12, uniform:var():item(), 0.005)
      assert.is_true(uniform:min():item() >= 0 and uniform:max():item() < 1)
      local normal = tensor.randn(20001, { seed = 2, dtype = dtype })
      assert.near(0, normal:mean():item(), 0.02)
      assert.near(1, normal:std():item(), 0.02)
      assert.near(0, (normal ^ 3):mean():item(), 0.1)
      assert.near(3, (normal ^ 4):mean():item(), 0.2)
    end
  end)

  it("is refused with the place of what is wrong", function()
    local refused = {
      { "tensor: values[2]: expected 2 values like its neighbours, got 1", tensor.new, { { 1, 2 }, { 3 } } },
      { "tensor: values[2][1]: expected a number, got a string", tensor.new, { { 1 }, { "x" } } },
      { "tensor: values[2]: expected a list, got a number", tensor.new, { { 1 }, 2 } },
      { "tensor: expected at most 6 lists within lists", tensor.new, { { { { { { { 1 } } } } } } } },
      { "tensor: expected nested lists of numbers, got a string", tensor.new, "1" },
      { "tensor: expected nested lists of numbers, got a table", tensor.new, tensor.zeros(1) },
      { 'tensor: dtype must be "f32" or "f64", got f16', tensor.new, { 1 }, "f16" },
      { 'tensor: unknown option "dtyp"; did you mean "dtype"?', tensor.new, { 1 }, { dtyp = "f32" } },
      { "zeros: expected options as a table, got 3", tensor.zeros, 2, 3 },
      { "zeros: expected a shape such as { 2, 3 }, got nil", tensor.zeros },
      { "shape: expected sizes that are integers >= 0, got -1", tensor.zeros, { 2, -1 } },
      { "shape: expected sizes that are integers >= 0, got 1.5", tensor.ones, { 1.5 } },
      { "shape: expected a shape of at most 6 axes, got 7", tensor.zeros, { 1, 1, 1, 1, 1, 1, 1 } },
      { "is too large", tensor.zeros, { 1 << 40, 1 << 40 } },
      { "is too large", tensor.zeros, { 0, 1 << 40, 1 << 40 } },
      { "full: expected a number, got nil", tensor.full, 2 },
      { "arange: a step of 0 never arrives", tensor.arange, 1, 2, 0 },
      { "arange: expected finite numbers, got inf", tensor.arange, math.huge },
      { "rand: expected an integer as seed, got 1.5", tensor.rand, 2, { seed = 1.5 } },
    }
    for _, entry in ipairs(refused) do expect.raises(table.unpack(entry)) end
  end)
end)

describe("a tensor", function()
  local x = tensor.arange(6):reshape(2, 3)

  it("describes itself", function()
    assert.equal(2, x:rank())
    assert.equal(6, x:count())
    assert.equal(2, #x)
    assert.equal(3, x:size(2))
    assert.equal(3, x:size(-1))
    assert.equal("[2, 3]", x:shape_text())
    assert.is_true(x:is_contiguous())
    assert.is_false(x:transpose():is_contiguous())
    assert.is_true(tensor.is(x))
    assert.is_false(tensor.is {})
    assert.equal(x.array, tensor.wrap(x.array).array)
  end)

  it("gives single values", function()
    assert.equal(5, x:item(2, 2))
    assert.equal(6, x:item(-1, -1))
    assert.equal(4, x[2][1]:item())
    assert.equal(3, tensor.new { { 3 } }:item())
  end)

  it("is a function of the module too", function()
    assert.same(x:exp():totable(), tensor.exp(x):totable())
    assert.same((x + 1):totable(), tensor.add(x, 1):totable())
    assert.same(x:sum(1):totable(), tensor.sum(x, 1):totable())
  end)

  it("gives views by index, slice and shape", function()
    assert.same({ 4, 5, 6 }, x[2]:totable())
    assert.same({ 4, 5, 6 }, x[-1]:totable())
    assert.same({ 2, 5 }, x:select(2, 2):totable())
    assert.same({ { 2, 3 }, { 5, 6 } }, x:slice(2, 2):totable())
    assert.same({ { 1, 3 }, { 4, 6 } }, x:slice(2, 1, 3, 2):totable())
    assert.same({ {}, {} }, x:slice(2, 3, 2):totable())
    assert.same({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, x:reshape(3, -1):totable())
    assert.same({ 0, 5 }, { tensor.zeros { 5, 0 }:reshape(0, 5):shape() })
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, x:transpose():totable())
    assert.same({ 3, 1, 2 }, { x:unsqueeze(1):permute(3, 1, 2):shape() })
    assert.same({ 2, 3 }, { x:unsqueeze(-1):unsqueeze(1):squeeze():shape() })
    assert.same({ 4, 2, 3 }, { x:expand(4, 2, 3):shape() })
    assert.same({ { 1 }, { 1 } }, tensor.ones(1):expand(2, 1):totable())
  end)

  it("is copied on demand alone", function()
    local y = tensor.zeros { 2, 2 }
    assert.equal(y, y:contiguous())
    assert.equal(y, y:to "f64")
    local copy = y:clone()
    copy:fill_(1)
    assert.equal(0, y:sum():item())
    y:transpose():unsqueeze(2):squeeze():select(1, 1):fill_(3) -- views all the way
    assert.same({ { 3, 0 }, { 3, 0 } }, y:totable())
  end)

  it("is joined and cut", function()
    local a, b = tensor.new { { 1, 2 } }, tensor.new { { 3, 4 }, { 5, 6 } }
    assert.same({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, tensor.concat({ a, b }):totable())
    assert.same({ { 1, 2, 1, 2 } }, tensor.concat({ a, a }, -1):totable())
    assert.same({ { 1, 2 } }, tensor.concat({ a, tensor.zeros { 0, 2 } }):totable())
    assert.same({ { { 1, 2 }, { 1, 2 } } }, tensor.stack({ a, a }, 2):totable())
    assert.same({ 1, 2, 2 }, { tensor.stack({ a, a }, -1):shape() })
    local pieces = tensor.arange(5):split(2)
    assert.equal(3, #pieces)
    assert.same({ 5 }, pieces[3]:totable())
    pieces = b:split({ 2, 0 }, 2)
    assert.same({ {}, {} }, pieces[2]:totable())
  end)

  it("says what does not fit, at the caller's line", function()
    local y, closed = tensor.zeros { 3, 4 }, tensor.zeros(2)
    closed:close()
    local refused = {
      { "add: shapes [2, 3] and [3, 4] do not broadcast", function() return x + y end },
      { "pow: shapes [2, 3] and [4] do not broadcast", function() return x ^ y[1] end },
      { "where: shapes [2, 3] and [3, 4] do not broadcast", function() return tensor.where(x, y, 1) end },
      { "matmul: shapes [2, 3] and [2, 3] do not fit", function() return x:matmul(x) end },
      { "matmul: shapes [2, 3] and [2] do not fit", function() return x:matmul(tensor.zeros(2)) end },
      { "matmul: shapes [] and [2, 3]: a number is no matrix", function() return tensor.new(1):matmul(x) end },
      { "sum: expected an axis from 1 to 2 (or -2 to -1), got 3", function() return x:sum(3) end },
      { "sum: expected an axis from 1 to 2 (or -2 to -1), got 0", function() return x:sum(0) end },
      { "sum: expected an axis from 1 to 2 (or -2 to -1), got rows", function() return x:sum("rows") end },
      { "mean: a single number has no axis 1", function() return tensor.new(1):mean(1) end },
      { "sum: expected axes from 1 to 2 (or -2 to -1), got 4", function() return x:sum { 1, 4 } end },
      { "max: shape [0] has no values to choose from", function() return tensor.zeros(0):max() end },
      { "norm: expected 1, 2 or math.huge as order, got 3", function() return x:norm(3) end },
      { "reshape: shape [2, 3] holds 6 values, [4] would hold 4", function() return x:reshape(4) end },
      { "reshape: expected sizes that are integers >= 0, got -1", function() return x:reshape(4, -1) end },
      { "permute: expected 2 axes, got 1", function() return x:permute(1) end },
      { "permute: an axis is named twice", function() return x:permute(1, -2) end },
      { "expand: shape [2, 3] does not broadcast to [2, 4]", function() return x:expand(2, 4) end },
      { "squeeze: axis 1 of shape [2, 3] is not 1", function() return x:squeeze(1) end },
      { "unsqueeze: expected an axis from 1 to 3 (or -3 to -1), got 4", function() return x:unsqueeze(4) end },
      { "transpose: shape [3] has no two axes", function() return x[1]:transpose() end },
      { "select: axis 1 of shape [2, 3] has no position 3", function() return x[3] end },
      { "select: axis 1 of shape [2, 3] has no position 0", function() return x[0] end },
      { "select: a single number has no position 1", function() return tensor.new(1)[1] end },
      { "slice: expected positions on an axis of 3, got 2 to 4", function() return x:slice(2, 2, 4) end },
      { "slice: expected a step >= 1, got 0", function() return x:slice(2, 1, 2, 0) end },
      { "slice: expected integers, got 1.5", function() return x:slice(2, 1.5) end },
      { "item: shape [2, 3] is not a single value: give its position", function() return x:item() end },
      { "item: expected 2 positions, got 1", function() return x:item(1) end },
      { "at: the position is outside of shape [2, 3]", function() return x:item(1, 4) end },
      { "size: shape [2, 3] has no axis 3", function() return x:size(3) end },
      { "gather: position 4 is not on an axis of 3 (positions count from 1)",
        function() return x:gather(2, { { 4 }, { 1 } }) end },
      { "gather: position 1.5 is not on an axis", function() return x:gather(2, { { 1.5 }, { 1 } }) end },
      { "gather: positions of shape [1, 1] do not fit [2, 3]: expected the same sizes on the other axes",
        function() return x:gather(2, { { 1 } }) end },
      { "select: position 0 is not on an axis of 2", function() return x:index_select(1, { 0 }) end },
      { "select: positions of shape [1, 1] do not fit [2, 3]: expected a list",
        function() return x:index_select(1, { { 1 } }) end },
      { "gather: expected positions as a list or a tensor, got 1", function() return x:gather(1, 1) end },
      { "scatter_add: expected a source of shape [2, 1], got [2, 2]",
        function() return x:scatter_add(2, { { 1 }, { 1 } }, tensor.zeros { 2, 2 }) end },
      { "expand: shape [2] does not broadcast to [2, 3]", function() return x:masked_select(tensor.zeros(2)) end },
      { "concat: shapes [2, 3] and [3, 4] differ beside the axis", function() return tensor.concat { x, y } end },
      { "concat: expected a list of at least one tensor", function() return tensor.concat {} end },
      { "concat: expected a tensor, got 1", function() return tensor.concat { x, 1 } end },
      { "stack: shapes [2, 3] and [3, 4] differ", function() return tensor.stack { x, y } end },
      { "split: the sizes add up to 1, the axis has 2", function() return x:split { 1 } end },
      { "split: size 2 is 2, expected an integer of 0 to 1", function() return x:split { 1, 2 } end },
      { "split: expected a size >= 1", function() return x:split(0) end },
      { "clamp: expected numbers as bounds", function() return x:clamp("a") end },
      { 'to: expected "f32" or "f64", got a string', function() return x:to "f16" end },
      { "add: expected a tensor or a number, got a string", function() return x + "1" end },
      { "add: expected a tensor, got two numbers", function() return tensor.add(1, 2) end },
      { "lt: expected a tensor, got two numbers", function() return tensor.lt(1, 2) end },
      { "exp: expected a tensor, got 3", function() return tensor.exp(3) end },
      { "where: expected a tensor, got false", function() return tensor.where(x, false, 1) end },
      { "tensors are compared by a:lt(b)", function() return x < y end },
      { "tensors are compared by a:lt(b)", function() return x <= 1 end },
      { "a tensor is not written by index", function() x[1] = 3 end },
      { "a tensor has no field shap", function() x.shap = 3 end },
      { "requires_grad: expected a boolean, got 1", function() x.requires_grad = 1 end },
      { "fill_: expected a number, got nil", function() x:fill_() end },
      { "add: shape [3, 4] does not broadcast to [2, 3] in place", function() x:add_(y) end },
      { "assign: shape [2, 3] does not broadcast to [3] in place", function() x[1]:assign_(x) end },
      { "fill: an expanded tensor cannot be written; copy it first", function() x[1]:expand(2, 3):fill_(1) end },
      { "add: tensor is closed", function() return closed + 1 end },
      { "tensor is closed", function() return closed:shape() end },
      { "tensor is closed", function() return closed:sum(1) end },
    }
    for _, entry in ipairs(refused) do
      local text, f = table.unpack(entry)
      local ok, message = pcall(f)
      assert.is_false(ok, "expected: " .. text)
      assert.truthy(message:find(text, 1, true), ("expected %q in: %s"):format(text, message))
      assert.matches("^[^\n]*spec/tensor/face_spec%.lua:%d+: ", message)
    end
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, x:totable())
  end)

  it("may be closed twice, and at the end of its block", function()
    local y = tensor.zeros(2)
    local view = y:slice(1, 1, 1)
    y:close()
    y:close()
    assert.same({ 0 }, view:totable())
    local outside
    do
      local inside <close> = tensor.ones(2)
      outside = inside
    end
    expect.raises("closed", outside.item, outside, 1)
    assert.equal("tensor(closed)", tostring(outside))
  end)

  it("has a place in crucible", function() assert.equal(tensor, require("crucible").tensor) end)
end)

describe("tostring", function()
  it("shows values, type and shape", function()
    assert.equal("tensor(3.5000, f64)", tostring(tensor.new(3.5)))
    assert.equal("tensor([1, 2, 3], f32 [3])", tostring(tensor.new({ 1, 2, 3 }, "f32")))
    assert.equal("tensor([[  1,  -2],\n        [100,   0]], f64 [2, 2])",
      tostring(tensor.new { { 1, -2 }, { 100, 0 } }))
    assert.equal("tensor([[[1],\n         [2]],\n\n        [[3],\n         [4]]], f64 [2, 2, 1])",
      tostring(tensor.new { { { 1 }, { 2 } }, { { 3 }, { 4 } } }))
    assert.equal("tensor([], f64 [2, 0])", tostring(tensor.zeros { 2, 0 }))
  end)

  it("cuts what is long to its ends", function()
    assert.equal("tensor([  1,   2,   3, ..., 997, 998, 999], f64 [999])", tostring(tensor.arange(999)))
    local text = tostring(tensor.zeros { 50, 50 })
    assert.equal(7, select(2, text:gsub("\n", "")) + 1)
    assert.truthy(text:find("\n        ...,\n", 1, true))
  end)

  it("chooses one format for all values", function()
    assert.equal("tensor([0.2500, 1.0000], f64 [2])", tostring(tensor.new { 0.25, 1 }))
    assert.equal("tensor([1.0000e-09, 1.0000e+00], f64 [2])", tostring(tensor.new { 1e-9, 1 }))
    assert.equal("tensor([ nan,  inf, -inf,    2], f64 [4])", tostring(tensor.new { 0 / 0, math.huge, -math.huge, 2 }))
  end)

  it("says where gradients go", function()
    local x = tensor.new({ 1 }, { requires_grad = true })
    assert.equal("tensor([1], f64 [1], requires_grad)", tostring(x))
    assert.equal("tensor([2], f64 [1], from mul)", tostring(x * 2))
  end)
end)
