-- Memory of tensors: what the collector sees, lent memory, failing allocations, several states of use.

local tensor = require "crucible.tensor"
local expect = require "spec.support.expect"
local lists = require "spec.support.lists"

local counted, native = pcall(require, "crucible.core.debug")

local function live_blocks()
  collectgarbage()
  collectgarbage()
  if not counted then return 0 end
  local _, live = native.memory_count()
  return live
end

local function restore_collector()
  collectgarbage("incremental", 200, 100, 13)
  dofile("spec/support/collector.lua")
end

-- One of every kind of function, forward and backward.
local function work()
  local x = tensor.randn({ 3, 4 }, { seed = 1, requires_grad = true })
  local w = tensor.randn({ 4, 2 }, { seed = 2, dtype = "f32", requires_grad = true })
  local y = x:matmul(w):softmax(1):log() + x:exp():sum(2, true)
  local sorted, at = x:sort(1)
  local parts = tensor.concat({ x:transpose(), x:transpose():slice(2, 1, 2) }, 2):split(2, 2)
  local loss = y:mean() + sorted:gather(1, at):norm() + (x:max(1)):prod() + parts[1]:cumsum(1):std()
    + tensor.where(x:gt(0), x, -x):logsumexp() + x:index_select(2, { 1, 1 }):sum() + (x ^ 2):clamp(0, 1):sum()
    + x:masked_select(x:gt(0)):sum() + x:scatter_add(2, { { 1 }, { 1 }, { 2 } }, x:slice(2, 1, 1)):sum()
    + tensor.stack({ x, x * 2 }):min()
  loss:backward()
  return loss:item(), x.grad:totable()
end

describe("tensors under the collector", function()
  it("leave nothing behind", function()
    local expected = work()
    local before = live_blocks()
    for _ = 1, 20 do assert.equal(expected, (work())) end
    assert.equal(before, live_blocks())
  end)

  local modes = {
    incremental = function() collectgarbage("incremental", 200, 100, 13) end,
    generational = function() collectgarbage("generational") end,
    frantic = function() collectgarbage("incremental", 1, 1000, 1) end,
  }
  for name, set in pairs(modes) do
    it("compute the same in " .. name .. " mode", function()
      local expected, gradient = work()
      finally(restore_collector)
      set()
      for _ = 1, 3 do
        local found, slopes = work()
        assert.equal(expected, found)
        assert.same(gradient, slopes)
      end
    end)
  end

  it("survive a finalizer that closes what is worked on", function()
    finally(restore_collector)
    collectgarbage("incremental", 1, 1000, 1)
    for _ = 1, 50 do
      local x = tensor.ones { 20, 20 }
      setmetatable({}, { __gc = function() x:close() end })
      local ok, message = pcall(function()
        for _ = 1, 50 do x = x and x:clone() * 1 end
        return tensor.concat({ x, x }):matmul(x):sum():totable()
      end)
      assert.truthy(ok or message:find("tensor is closed", 1, true), message)
    end
  end)

  it("tell it of memory that it does not see", function()
    finally(restore_collector)
    restore_collector()
    collectgarbage()
    -- Megabytes, made one at a time. Garbage may grow to what Lua itself holds, in a long run of specs a lot.
    local closed, total = 0, 200 + collectgarbage "count" // 1024 * 4
    for _ = 1, total do
      local x = tensor.zeros(131072)
      setmetatable({ x }, { __gc = function() closed = closed + 1 end })
    end
    assert.is_true(closed > total / 2, closed .. " of them were collected")
  end)

  it("leave nothing behind when a function refuses or is stopped by an error", function()
    local before = live_blocks()
    for _ = 1, 10 do
      local x = tensor.new({ 1, 2, 3 }, { requires_grad = true })
      assert.is_false(pcall(function() return x + tensor.zeros(2) end))
      assert.is_false(pcall(tensor.new, { { 1, 2 }, { 3 } }))
      assert.is_false(pcall(tensor.concat, { x, tensor.zeros { 2, 2 } }))
      local f = tensor.custom { forward = function(_, y) return y * 2 end, backward = function() error "no" end }
      assert.is_false(pcall(function() (f(x) * x):sum():backward() end))
    end
    assert.equal(before, live_blocks())
  end)
end)

describe("large blocks", function()
  it("are used again once they are released", function()
    if not counted then return pending("needs crucible.core.debug") end
    local x = tensor.zeros(100000)
    local function allocations_of(f)
      local before = native.memory_count()
      for _ = 1, 10 do f() end
      return native.memory_count() - before
    end
    local function make() (x + 1):close() end
    make()
    assert.equal(10, allocations_of(make)) -- what is not the block
    local smaller = tensor.zeros(90000)
    assert.equal(10, allocations_of(function() (smaller + 1):close() end))
    local few = tensor.zeros(100)
    assert.equal(20, allocations_of(function() (few + 1):close() end)) -- malloc's business
  end)
end)

describe("when memory runs out", function()
  it("every function says so and leaves nothing behind", function()
    if not counted then return pending("needs crucible.core.debug") end
    finally(function() native.memory_fail_at(0) end)
    local expected = work()
    local before, failures, at = live_blocks(), 0, 0
    repeat
      at = at + 1
      native.memory_fail_at(at)
      local ok, result = pcall(work)
      native.memory_fail_at(0)
      if ok then
        assert.equal(expected, result)
      else
        assert.matches("out of memory", result)
        failures = failures + 1
      end
      if at % 25 == 0 then assert.equal(before, live_blocks()) end
    until ok
    assert.is_true(failures > 100)
    assert.equal(before, live_blocks())
  end)
end)

describe("lent memory", function()
  local function lend(values) return native.tensor.lend(values, "the step is over") end

  it("is read and written where it lies", function()
    if not counted then return pending("needs crucible.core.debug") end
    local values = lend { 1, 2, 3, 4 }
    local x = tensor.wrap(values)
    assert.equal("f32", x:dtype())
    x:reshape(2, 2):transpose():scale_(10)
    assert.same({ 10, 20, 30, 40 }, x:totable())
    assert.same({ 20, 30 }, x:slice(1, 2, 3):totable())
    assert.is_true((select(5, require("crucible.core").tensor.info(values))))
  end)

  it("is gone, loudly, once the loan is over, also for views; copies stay", function()
    if not counted then return pending("needs crucible.core.debug") end
    local values, call_back = lend { 1, 2, 3, 4 }
    local x = tensor.wrap(values)
    local view, copy = x:reshape(2, 2)[1], x:clone()
    local tracked = x:detach()
    tracked.requires_grad = true
    local y = (tracked * tracked):sum()
    call_back()
    for _, f in ipairs {
      function() return x + 1 end, function() return x:totable() end, function() return x:shape() end,
      function() return view:sum(1) end, function() return x:fill_(0) end, function() return copy:add_(view) end,
      function() return x:item(1) end, function() return x:slice(1, 1, 1) end, function() return copy:matmul(x) end,
      function() return tensor.where(copy, copy, x) end, function() return #x end, function() return y:backward() end,
      function() return tensor.concat { copy, x } end, function() return copy:scatter_add(1, { 1 }, x) end,
    } do
      expect.raises("tensor is gone: the step is over", f)
    end
    assert.equal("tensor(gone: the step is over)", tostring(x))
    assert.matches("^crucible%.tensor%(gone%)$", tostring(values))
    assert.same({ 1, 2, 3, 4 }, copy:totable())
    x:close()
  end)

  it("may be called back before and after its tensors are collected", function()
    if not counted then return pending("needs crucible.core.debug") end
    local before = live_blocks()
    for _ = 1, 10 do
      local values, call_back = lend { 1, 2 }
      local x = tensor.wrap(values):slice(1, 1, 1) -- luacheck: ignore
      call_back()
      values, x = nil, nil -- luacheck: ignore
      collectgarbage()
      call_back()
      lend { 3 }
    end
    assert.equal(before, live_blocks())
  end)
end)

describe("the loops of every instruction set", function()
  local sets = { "portable", "avx2", "avx512" }
  local functions = {
    "neg", "abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "asin", "acos", "tanh", "sigmoid",
    "relu", "softplus",
  }
  local operators = { "add", "sub", "mul", "div", "pow", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge",
    "pow_base_slope", "pow_exponent_slope" }

  local function compare(name, x, y, bound)
    local expected = native.tensor.apply("portable", "f64", name, x, y)
    for _, set in ipairs(sets) do
      for dtype, slack in pairs { f64 = bound, f32 = 1e9 * bound } do
        local found = native.tensor.apply(set, dtype, name, x, y)
        if found then
          for i, value in ipairs(expected) do
            local got = found[i]
            local same = got == value or (got ~= got and value ~= value)
              or math.abs(got - value) <= slack * math.max(math.abs(value), 1)
            if not same then
              local other = y and (y[i] or y[1]) or "-"
              error(("%s of %s (%s) in %s %s: expected %.17g, got %.17g"):format(name, x[i], other, set, dtype,
                value, got))
            end
          end
        end
      end
    end
  end

  -- Exact in f32, so that both types compute the same thing.
  local numbers = lists.join(lists.uniform(1, 203, 8), lists.uniform(2, 100, 1), { 0, 1, -1, 0.5, -0.5, 64, -64 })
  local special = { math.huge, -math.huge, 0 / 0, 0, 1, -1, 2 ^ 100, -2 ^ 100 }

  it("agree on functions", function()
    if not counted then return pending("needs crucible.core.debug") end
    for _, name in ipairs(functions) do
      compare(name, numbers, nil, 1e-15)
      if name ~= "exp" and name ~= "expm1" then compare(name, special, nil, 1e-15) end
    end
  end)

  it("agree on operators, with single values on the right", function()
    if not counted then return pending("needs crucible.core.debug") end
    local other = lists.uniform(9, #numbers, 4)
    for _, name in ipairs(operators) do
      local left = name:find("^pow") and lists.map(numbers, math.abs) or numbers
      local bound = name:find("^pow") and 4e-15 or 1e-15
      compare(name, left, other, bound)
      for _, single in ipairs { 2, 1, -1, 0.5, 0, -3 } do compare(name, left, { single }, bound) end
    end
  end)
end)
