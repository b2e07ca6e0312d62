-- The single kernels of each instruction set beside loops in double. In builds with crucible.core.debug
-- alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"

local with = lists.with
local kernel = native.math
local EPSILON = 2.0 ^ -24
local COUNTS = { 0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 575, 577 }

-- The engine's hash of a mask (csrc/math/kernels.h), in Lua.
local function mask_hash(key, column)
  local x = (key + column * 0x9E3779B1) & 0xFFFFFFFF
  x = x ~ (x >> 16)
  x = x * 0x7FEB352D & 0xFFFFFFFF
  x = x ~ (x >> 15)
  x = x * 0x846CA68B & 0xFFFFFFFF
  x = x ~ (x >> 16)
  return x ~ (key >> 32)
end

local function tanh(x) return 1 - 2 / (math.exp(2 * x) + 1) end

local function sigmoid(x) return 1 / (1 + math.exp(-x)) end

for _, kernels in ipairs(native.math.kernels()) do
  describe("the " .. kernels .. " kernels", function()
    local function ulps(x)
      local values = kernel.exp_sum({ kernels = kernels, x = x })
      local worst, at = 0, nil
      for i = 1, #x do
        local distance = math.abs(lists.ordinal(values[i]) - lists.ordinal(math.exp(x[i])))
        if distance > worst then worst, at = distance, x[i] end
      end
      return worst, at
    end

    it("exponentiate to within 2 units in the last place", function()
      local x = {}
      for i = 0, 40000 do x[i + 1] = string.unpack("<f", string.pack("<f", -87.3 + i * (175.3 / 40000))) end
      local worst, at = ulps(x)
      assert.is_true(worst <= 2, ("%d units at %.9g"):format(worst, at or 0))
      worst, at = ulps(lists.uniform(1, 5000, 2.0 ^ -6))
      assert.is_true(worst <= 2, ("%d units at %.9g"):format(worst, at or 0))
    end)

    it("exponentiate the ends of the range sensibly, in every place of a vector", function()
      for _, case in ipairs({ { -87.5, 0 }, { -1e30, 0 }, { -math.huge, 0 }, { 0, 1 }, { 1e30, math.exp(88) } }) do
        for i, value in ipairs(kernel.exp_sum({ kernels = kernels, x = lists.fill(37, case[1]) })) do
          assert.near(case[2], value, 1e-6 * case[2], ("exp(%g), place %d"):format(case[1], i))
        end
      end
      for place = 1, 37 do
        local x = lists.fill(37, -1)
        x[place] = 0 / 0
        local values, sum = kernel.exp_sum({ kernels = kernels, x = x })
        assert.is_true(sum ~= sum)
        for i, value in ipairs(values) do assert.equal(i == place, value ~= value) end
      end
    end)

    it("sum what they exponentiated after the shift", function()
      for _, count in ipairs(COUNTS) do
        local x = lists.uniform(count, count, 8)
        local values, sum = kernel.exp_sum({ kernels = kernels, x = x, shift = 3 })
        local expected = 0.0
        for i = 1, count do
          expected = expected + values[i]
          assert.near(math.exp(x[i] - 3), values[i], 4 * EPSILON * values[i])
        end
        assert.near(expected, sum, count * EPSILON * expected)
      end
    end)

    it("find the largest wherever it stands", function()
      assert.equal(-math.huge, kernel.max({ kernels = kernels, x = {} }))
      for _, count in ipairs(COUNTS) do
        for place = 1, count, 1 + count // 20 do
          local x = lists.fill(count, -3)
          x[place] = -2
          assert.equal(-2, kernel.max({ kernels = kernels, x = x }))
        end
      end
    end)

    it("sum products and squares to within rounding", function()
      for _, count in ipairs(COUNTS) do
        local a, b = lists.uniform(count + 1, count, 4), lists.uniform(count + 2, count)
        local bound = (count + 1) * EPSILON * lists.dot(lists.map(a, math.abs), lists.map(b, math.abs))
        assert.near(lists.dot(a, b), kernel.dot({ kernels = kernels, a = a, b = b }), bound)
        bound = (count + 1) * EPSILON * lists.dot(a, a)
        assert.near(lists.dot(a, a), kernel.sum_squares({ kernels = kernels, x = a }), bound)
      end
    end)

    it("sum four products at once, each as if it were the only one", function()
      for _, count in ipairs(COUNTS) do
        local stride = count + 3
        local a, b = lists.uniform(count + 1, count, 4), lists.uniform(count + 2, 3 * stride + count)
        local four = kernel.dot4({ kernels = kernels, a = a, b = b, stride = stride })
        for j = 0, 3 do
          local row = lists.slice(b, j * stride + 1, count)
          local bound = (count + 1) * EPSILON * lists.dot(lists.map(a, math.abs), lists.map(row, math.abs))
          assert.near(lists.dot(a, row), four[j + 1], bound)
          local alone = kernel.dot4({ kernels = kernels, a = a, b = row, stride = 0 })
          assert.same(lists.fill(4, four[j + 1]), alone)
        end
      end
    end)

    it("scale and add rows", function()
      for _, count in ipairs(COUNTS) do
        local x, y = lists.uniform(count, count), lists.uniform(count + 1, count)
        local sum = kernel.axpy({ kernels = kernels, x = x, y = y, alpha = 0.375 })
        assert.is_nil(lists.first_beyond(sum, lists.add(y, 0.375, x), 1e-7))
        local scaled = kernel.scale({ kernels = kernels, x = x, alpha = 0.375 })
        assert.same(lists.map(x, function(v) return v * 0.375 end), scaled)
      end
    end)

    it("drop what the hash of key and column says, and nothing else", function()
      for _, key in ipairs({ 0, 1, 0x123456789ABCDEF0, -1, math.mininteger }) do
        local x = lists.fill(577, 3)
        local fields = { kernels = kernels, x = x, key = key, threshold = 0x40000000, factor = 4 / 3 }
        local out = kernel.dropout(fields)
        local added = kernel.dropout(with(fields, { out = lists.fill(577, 1) }))
        local kept = 0
        for i = 1, #x do
          local keep = mask_hash(key, i - 1) >= 0x40000000
          kept = kept + (keep and 1 or 0)
          assert.near(keep and 4 or 0, out[i], 1e-6)
          assert.near(keep and 5 or 1, added[i], 1e-6)
        end
        assert.near(0.75, kept / #x, 0.1) -- five standard deviations
      end
    end)

    it("drop the same columns of a shorter row", function()
      local fields = { kernels = kernels, x = lists.uniform(1, 577), key = 42, threshold = 0x80000000, factor = 2 }
      local out = kernel.dropout(fields)
      for _, count in ipairs(COUNTS) do
        assert.same(lists.slice(out, 1, count), kernel.dropout(with(fields, { x = lists.slice(fields.x, 1, count) })))
      end
    end)

    it("compute SwiGLU as silu(gate) · up", function()
      for _, f in ipairs({ 1, 3, 15, 17, 65, 577 }) do
        local p = { kernels = kernels, threads = 2, n = 3, f = f }
        p.gate, p.up = lists.uniform(f, 3 * f, 16), lists.uniform(f + 1, 3 * f, 4)
        local out = kernel.swiglu(p)
        for i = 1, 3 * f do
          local expected = p.gate[i] * sigmoid(p.gate[i]) * p.up[i]
          assert.near(expected, out[i], 1e-6 * math.abs(expected) + 1e-9)
        end
      end
    end)

    it("have SwiGLU's gradients", function()
      local p = { kernels = kernels, n = 1, f = 37, gate = lists.uniform(1, 37, 8), up = lists.uniform(2, 37, 4) }
      local dout = lists.uniform(3, 37)
      local function loss(gate, up)
        local total = 0.0
        for i = 1, 37 do total = total + dout[i] * gate[i] * sigmoid(gate[i]) * up[i] end
        return total
      end
      local dgate, dup = kernel.swiglu_backward(with(p, { dout = dout }))
      for i = 1, 37 do
        assert.near(gradient.entry(function(x) return loss(x, p.up) end, p.gate, i, 1e-3), dgate[i], 4e-6)
        assert.near(gradient.entry(function(x) return loss(p.gate, x) end, p.up, i, 1e-3), dup[i], 4e-6)
      end
    end)

    -- GELU's tanh form in double.
    local function gelu(x)
      return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3)))
    end

    it("compute GeGLU as gelu(gate) · up", function()
      for _, f in ipairs({ 1, 3, 15, 17, 65, 577 }) do
        local p = { kernels = kernels, threads = 2, n = 3, f = f }
        p.gate, p.up = lists.uniform(f, 3 * f, 6), lists.uniform(f + 1, 3 * f, 4)
        local out = kernel.geglu(p)
        for i = 1, 3 * f do
          -- Relative to the gate: far below zero gelu is the small difference of two near numbers.
          assert.near(gelu(p.gate[i]) * p.up[i], out[i], 1e-6 * math.abs(p.gate[i] * p.up[i]) + 1e-9)
        end
      end
    end)

    it("have GeGLU's gradients", function()
      local p = { kernels = kernels, n = 1, f = 37, gate = lists.uniform(1, 37, 5), up = lists.uniform(2, 37, 4) }
      local dout = lists.uniform(3, 37)
      local function loss(gate, up)
        local total = 0.0
        for i = 1, 37 do total = total + dout[i] * gelu(gate[i]) * up[i] end
        return total
      end
      local dgate, dup = kernel.geglu_backward(with(p, { dout = dout }))
      for i = 1, 37 do
        assert.near(gradient.entry(function(x) return loss(x, p.up) end, p.gate, i, 1e-3), dgate[i], 1e-5)
        assert.near(gradient.entry(function(x) return loss(p.gate, x) end, p.up, i, 1e-3), dup[i], 1e-5)
      end
    end)

    it("keep GeGLU finite for gates of any size, and NaN where it was", function()
      local p = { kernels = kernels, n = 1, f = 20, gate = lists.fill(20, 1e30), up = lists.fill(20, 2) }
      for i = 1, 20, 2 do p.gate[i] = -1e30 end
      p.gate[20] = 0 / 0
      local out = kernel.geglu(p)
      local dgate, dup = kernel.geglu_backward(with(p, { dout = lists.fill(20, 1) }))
      for i = 1, 19 do
        assert.near(i % 2 == 1 and 0 or 2e30, out[i], 1e24)
        assert.near(i % 2 == 1 and 0 or 2, dgate[i], 1e-3)
        assert.near(i % 2 == 1 and 0 or 1e30, dup[i], 1e24)
      end
      assert.is_true(out[20] ~= out[20] and dgate[20] ~= dgate[20] and dup[20] ~= dup[20])
    end)

    it("keep SwiGLU finite for gates of any size, and NaN where it was", function()
      local p = { kernels = kernels, n = 1, f = 20, gate = lists.fill(20, 1000), up = lists.fill(20, 2) }
      for i = 1, 20, 2 do p.gate[i] = -1000 end
      p.gate[20] = 0 / 0
      local out = kernel.swiglu(p)
      local dgate, dup = kernel.swiglu_backward(with(p, { dout = lists.fill(20, 1) }))
      for i = 1, 19 do
        assert.near(i % 2 == 1 and 0 or 2000, out[i], 1e-3)
        assert.near(i % 2 == 1 and 0 or 2, dgate[i], 1e-3)
        assert.near(i % 2 == 1 and 0 or 1000, dup[i], 1e-3)
      end
      assert.is_true(out[20] ~= out[20] and dgate[20] ~= dgate[20] and dup[20] ~= dup[20])
    end)
  end)
end
