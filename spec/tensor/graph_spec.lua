-- The reverse walk: what it reaches, where gradients gather, what stops it, functions written in Lua.

local tensor = require "crucible.tensor"
local expect = require "spec.support.expect"

local function leaf(values, dtype) return tensor.new(values, { dtype = dtype, requires_grad = true }) end

describe("backward #many", function()
  it("adds up in grad over paths and calls", function()
    local x = leaf { 1, 2, 3 }
    local y = (x * x + x):sum()
    y:backward()
    assert.same({ 3, 5, 7 }, x.grad:totable())
    y:backward()
    assert.same({ 6, 10, 14 }, x.grad:totable());
    (x * 10):sum():backward()
    assert.same({ 16, 20, 24 }, x.grad:totable())
    x:zero_grad()
    assert.is_nil(x.grad)
  end)

  it("begins with a given slope where there is more than one value", function()
    local x = leaf { { 1, 2 }, { 3, 4 } }
    local y = x ^ 2
    expect.raises("backward: shape [2, 2] is not a single value: give the slope to begin with", y.backward, y)
    expect.raises("backward: a slope of shape [2] for a tensor of shape [2, 2]", y.backward, y, tensor.new { 1, 2 })
    y:backward(tensor.new({ { 1, 0 }, { 0, -1 } }, "f32"))
    assert.same({ { 2, 0 }, { 0, -8 } }, x.grad:totable())
  end)

  it("scales by the slope of a single value", function()
    local x = leaf(3)
    x:exp():backward(tensor.new(0))
    assert.equal(0, x.grad:item())
    x:backward()
    assert.equal(1, x.grad:item())
  end)

  it("gives gradients of the type of what they belong to", function()
    local narrow, wide = leaf({ 1, 2 }, "f32"), leaf { 3, 4 }
    local y = (narrow * wide):sum()
    assert.equal("f64", y:dtype())
    y:backward()
    assert.equal("f32", narrow.grad:dtype())
    assert.equal("f64", wide.grad:dtype())
    assert.same({ 3, 4 }, narrow.grad:totable())
  end)

  it("passes a change of type", function()
    local x = leaf({ 1, 2 }, "f32")
    assert.equal(x, x:to "f32")
    x:to("f64"):exp():sum():backward()
    assert.near(math.exp(2), x.grad:totable()[2], 1e-6)
  end)

  it("does not recurse, so that long chains work", function()
    local x = leaf(1)
    local y = x
    for _ = 1, 20000 do y = y * 1.0001 end
    y:backward()
    assert.near(1.0001 ^ 20000, x.grad:item(), 1e-9)
  end)

  it("reaches every use once, in a graph with many paths", function()
    local x = leaf(1)
    local y = x
    for _ = 1, 60 do y = y + y end
    y:backward()
    assert.equal(2.0 ^ 60, x.grad:item())
  end)

  it("leaves alone what requires no gradient", function()
    local x, constant = leaf { 1, 2 }, tensor.new { 3, 4 };
    (x * constant):sum():backward()
    assert.is_nil(constant.grad)
    expect.raises("backward: nothing that this tensor was computed from requires a gradient",
      constant.backward, constant:sum())
  end)

  it("fills grad of a computed tensor on request", function()
    local x = leaf { 1, 2 }
    local y = (x * 3):retain_grad();
    (y * y):sum():backward()
    assert.same({ 6, 12 }, y.grad:totable())
    assert.same({ 18, 36 }, x.grad:totable())
    local z = x * 2
    z:sum():backward()
    assert.is_nil(z.grad)
  end)

  it("gives every tensor a gradient of its own", function()
    local a, b = leaf { 1, 2 }, leaf { 3, 4 };
    (a + b):sum():backward()
    a.grad:fill_(9)
    assert.same({ 1, 1 }, b.grad:totable())
    assert.is_true(a.grad:is_contiguous())
  end)

  it("adds into a gradient that was given", function()
    local x = leaf { 1, 2 }
    local own = tensor.new { 10, 20 }
    x.grad = own;
    (x * 3):sum():backward()
    assert.same({ 13, 23 }, own:totable())
    expect.raises("grad: expected shape [2], got [3]", function() x.grad = tensor.zeros(3) end)
    expect.raises("grad: expected a tensor, got a string", function() x.grad = "none" end)
    x.grad = nil
    assert.is_nil(x.grad)
  end)

  it("stops at detach and at positions", function()
    local x = leaf { 3, 1, 2 }
    local loss = (x * x:detach()):sum() + x:argmax() * 5 + x:gt(1):sum()
    loss:backward()
    assert.same({ 3, 1, 2 }, x.grad:totable())
    assert.is_false(x:argsort().requires_grad)
    assert.is_false((select(2, x:max(1))).requires_grad)
  end)

  it("splits ties as documented", function()
    local a, b = leaf { 1, 5, 2 }, leaf { 1, 4, 3 }
    tensor.maximum(a, b):sum():backward()
    assert.same({ 0.5, 1, 0 }, a.grad:totable())
    assert.same({ 0.5, 0, 1 }, b.grad:totable())
    local x = leaf { { 2, 7, 7 }, { 5, 5, 1 } };
    (x:max(2)):sum():backward()
    assert.same({ { 0, 1, 0 }, { 1, 0, 0 } }, x.grad:totable())
    x:zero_grad()
    x:max():backward()
    assert.same({ { 0, 1, 0 }, { 0, 0, 0 } }, x.grad:totable())
    local zero = leaf { 0, 0 };
    (zero:abs() + zero:relu() + zero:sign()):sum():backward()
    assert.same({ 0, 0 }, zero.grad:totable())
    zero:zero_grad()
    zero:norm():backward()
    assert.same({ 0, 0 }, zero.grad:totable())
    local ends = leaf { -1, 1, 2 }
    ends:clamp(-1, 1):sum():backward()
    assert.same({ 1, 1, 0 }, ends.grad:totable())
  end)

  it("stays finite where a function is not", function()
    local x = leaf { 0, 2 };
    (x ^ tensor.new { 0, 0 }):sum():backward()
    assert.same({ 0, 0 }, x.grad:totable())
    local exponent = leaf { 2, 0 };
    (tensor.new { 0, 0 } ^ exponent):sum():backward()
    assert.same({ 0, 0 }, exponent.grad:totable())
    local nothing = leaf { -math.huge, -math.huge }
    nothing:logsumexp():backward()
    assert.same({ 0, 0 }, nothing.grad:totable())
  end)

  it("works on nothing", function()
    local x = tensor.zeros({ 0, 3 }, { requires_grad = true });
    (x:exp():sum() + x:softmax(1):sum() + (x:sort(1)):sum() + x:cumsum(1):prod() + x:norm()):backward()
    assert.same({ 0, 3 }, { x.grad:shape() })
  end)
end)

describe("gradients #many", function()
  it("are given without touching grad, also of computed tensors", function()
    local x, unused = leaf { 1, 2 }, leaf { 5 }
    local y = x * 3
    local list = tensor.gradients((y * y):sum(), { y, x, unused })
    assert.same({ 6, 12 }, list[1]:totable())
    assert.same({ 18, 36 }, list[2]:totable())
    assert.is_nil(list[3])
    assert.is_nil(x.grad)
    local scaled = tensor.gradients(y, { x }, tensor.new { 1, 10 })
    assert.same({ 3, 30 }, scaled[1]:totable())
  end)
end)

describe("no_grad #many", function()
  it("computes without a past and gives back what the function gives", function()
    local x = leaf { 1, 2 }
    local y, second = tensor.no_grad(function(t, more) return t * 2, more end, x, "more")
    assert.is_false(y.requires_grad)
    assert.equal("more", second)
    assert.is_true((x * 2).requires_grad)
  end)

  it("nests, and ends with an error", function()
    local x = leaf { 1, 2 }
    tensor.no_grad(function()
      tensor.no_grad(function() end)
      assert.is_false((x * 2).requires_grad)
    end)
    local problem = {}
    local ok, message = pcall(tensor.no_grad, function() error(problem) end)
    assert.is_false(ok)
    assert.equal(problem, message)
    assert.is_true((x * 2).requires_grad)
  end)

  it("holds for its own coroutine alone", function()
    local x = leaf { 1, 2 }
    local thread = coroutine.wrap(function()
      tensor.no_grad(function()
        coroutine.yield((x * 2).requires_grad)
        coroutine.yield((x * 2).requires_grad)
      end)
      return (x * 2).requires_grad
    end)
    assert.is_false(thread())
    assert.is_true((x * 2).requires_grad)
    assert.is_false(thread())
    assert.is_true(thread())
  end)

  it("is where a tensor that requires a gradient is updated", function()
    local w = leaf { 1, 2 };
    (w * w):sum():backward()
    expect.raises("add_: a tensor that requires a gradient is written inside tensor.no_grad alone", w.add_, w, w.grad)
    tensor.no_grad(function() w:add_(w.grad, -0.1) end)
    assert.same({ 0.8, 1.6 }, w:totable())
  end)
end)

describe("writing in place #many", function()
  it("is refused where the graph would notice", function()
    local x = leaf { 1, 2 }
    local y = x * 2
    expect.raises("scale_: this tensor was computed by mul and gradients depend on its values", y.scale_, y, 2)
    expect.raises("requires_grad: this tensor was computed by mul; detach() it first",
      function() y.requires_grad = false end)
  end)

  it("makes the gradient that needs the old value raise", function()
    local x, constant = leaf { 1, 2 }, tensor.new { 3, 4 }
    local y = (x * constant):sum()
    constant:fill_(0)
    expect.raises("backward: a value that mul was computed with has been changed in place since", y.backward, y)
    local z = x:exp()
    tensor.no_grad(function() z:detach():fill_(0) end)
    expect.raises("changed in place", z.backward, z:sum())
    local w = (x * 2):sum()
    tensor.no_grad(function() x:fill_(5) end)
    expect.raises("changed in place", w.backward, w)
  end)

  it("after the gradient was taken is fine", function()
    local x = leaf { 1, 2 }
    for _ = 1, 3 do
      (x * x):sum():backward()
      tensor.no_grad(function() x:add_(x.grad, -0.1) end)
      x:zero_grad()
    end
    assert.near(0.8 ^ 3, x:item(1), 1e-12)
  end)
end)

describe("a custom function #many", function()
  local double = tensor.custom {
    name = "double",
    forward = function(_, x) return x * 2 end,
    backward = function(_, slope) return slope * 2 end,
  }

  it("takes part in the walk", function()
    local x = leaf { 1, 2 }
    local y = double(x)
    assert.same({ 2, 4 }, y:totable())
    assert.matches("from double", tostring(y))
    double(y):sum():backward()
    assert.same({ 4, 4 }, x.grad:totable())
    assert.is_false(double(tensor.new { 1 }).requires_grad)
  end)

  it("may have a gradient that its forward has not", function()
    local straight_through = tensor.custom {
      forward = function(_, x) return x:gt(0) end,
      backward = function(_, slope) return slope end,
    }
    local x = leaf { -1, 2 };
    (straight_through(x) * tensor.new { 3, 4 }):sum():backward()
    assert.same({ 3, 4 }, x.grad:totable())
  end)

  it("sees every argument, its own context, and may return more", function()
    local f = tensor.custom {
      forward = function(context, a, factor, b, nothing)
        assert.is_nil(nothing)
        context.factor = factor
        return a * factor + b, "extra", nil
      end,
      backward = function(context, slope) return slope * context.factor, nil, 5 end,
    }
    local a, b = leaf { 1, 2 }, leaf { { 1, 1 }, { 1, 1 } }
    local y, extra = f(a:unsqueeze(1):expand(2, 2), 3, b, nil)
    assert.equal("extra", extra)
    y:sum():backward()
    assert.same({ 6, 6 }, a.grad:totable())
    assert.same({ { 5, 5 }, { 5, 5 } }, b.grad:totable())
  end)

  it("may give its argument back", function()
    local identity = tensor.custom {
      forward = function(_, x) return x end,
      backward = function(_, slope) return slope end,
    }
    local x = leaf { 1, 2 }
    local y = identity(x)
    y:sum():backward()
    assert.same({ 1, 1 }, x.grad:totable())
  end)

  it("keeps the slope that its backward kept", function()
    local kept
    local f = tensor.custom {
      forward = function(_, x) return x * 1 end,
      backward = function(_, slope)
        kept = slope
        return slope
      end,
    }
    local x = leaf { 1, 2 };
    (f(x) * 3):sum():backward()
    assert.same({ 3, 3 }, kept:totable())
  end)

  it("is refused by name when it breaks its word", function()
    local function custom(definition)
      definition.name = "broken"
      definition.forward = definition.forward or function(_, x) return x * 1 end
      definition.backward = definition.backward or function(_, slope) return slope end
      return tensor.custom(definition)
    end
    local x = leaf { 1, 2 }
    expect.raises("forward of broken: expected a tensor, got 3", custom { forward = function() return 3 end }, x)
    expect.raises("backward of broken: result 1 has shape [3], its argument [2]", function()
      custom { backward = function() return tensor.zeros(3) end }(x):sum():backward()
    end)
    expect.raises("backward of broken, result 1: expected a tensor, got a string", function()
      custom { backward = function() return "slope" end }(x):sum():backward()
    end)
    expect.raises("my own words", function()
      custom { backward = function() error("my own words", 0) end }(x):sum():backward()
    end)
    expect.raises("tensor.custom: expected { forward = function, backward = function", tensor.custom,
      { forward = print })
    assert.is_true((x * 2).requires_grad)
  end)
end)
