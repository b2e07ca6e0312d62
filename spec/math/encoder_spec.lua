-- LayerNorm, the encoders' activations and attention over whole rows, beside plain loops. In builds with
-- crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local lists = require "spec.support.lists"
local with = lists.with

local function plain_layernorm(p)
  local y = {}
  for i = 0, p.n - 1 do
    local mean, variance = 0.0, 0.0
    for c = 1, p.d do mean = mean + p.x[i * p.d + c] / p.d end
    for c = 1, p.d do variance = variance + (p.x[i * p.d + c] - mean) ^ 2 / p.d end
    for c = 1, p.d do
      y[i * p.d + c] = p.weight[c] * (p.x[i * p.d + c] - mean) / math.sqrt(variance + p.epsilon) + p.bias[c]
    end
  end
  return y
end

for _, kernels in ipairs(native.math.kernels()) do
  describe("with the " .. kernels .. " kernels", function()
    local setup = { kernels = kernels, threads = 2 }

    it("LayerNorm agrees with the plain loop at every odd size, far from zero too", function()
      for _, d in ipairs({ 1, 3, 15, 17, 65, 385 }) do
        for _, far in ipairs({ 0, 1000 }) do
          local x = lists.map(lists.uniform(d, 19 * d, 4), function(value) return value + far end)
          local p = { n = 19, d = d, epsilon = 1e-5, x = x, weight = lists.uniform(1, d, 2),
            bias = lists.uniform(2, d, 1) }
          local expected = plain_layernorm(p)
          local y = native.math.layernorm(with(p, setup))
          assert.is_nil(lists.first_beyond(y, expected, far == 0 and 5e-6 or 1e-2))
        end
      end
    end)

    it("activations agree with the plain functions", function()
      local x = lists.uniform(3, 7 * 101, 9)
      for _, extreme in ipairs({ 0, -0.0, 1e-20, -1e-20, 30, -30, 1e20, -1e20 }) do x[#x + 1] = extreme end
      while #x % 101 ~= 0 do x[#x + 1] = 1 end
      for kind = 0, 3 do
        local p = { kind = kind, x = x, bias = lists.uniform(4, 101, 0.5), n = #x // 101, f = 101 }
        local y, expected = native.math.activate(with(p, setup))
        for i, value in ipairs(expected) do
          -- Below zero 1 + erf is the small difference of two near numbers, taken times x.
          local rounding = 1e-7 * math.min(math.max(math.abs(x[i]), 2), 8)
          assert.near(value, y[i], rounding + 1e-6 * math.abs(value), ("kind %d at %g"):format(kind, x[i]))
        end
      end
    end)

    it("attention over whole rows agrees with the plain loop", function()
      local shapes = { { heads = 2, kv_heads = 2, head_size = 8 }, { heads = 4, kv_heads = 2, head_size = 17 } }
      for _, shape in ipairs(shapes) do
        local starts = { 0, 1, 66, 199 }
        local n = starts[#starts]
        local p = with(shape, { starts = starts, whole = true,
          q = lists.uniform(1, n * shape.heads * shape.head_size, 2),
          k = lists.uniform(2, n * shape.kv_heads * shape.head_size, 2),
          v = lists.uniform(3, n * shape.kv_heads * shape.head_size, 2) })
        local out, lse = native.math.attention(with(p, setup))
        local plain_out, plain_lse = native.math.attention(with(p, { plain = true }))
        assert.is_nil(lists.first_beyond(out, plain_out, 3e-6))
        assert.is_nil(lists.first_beyond(lse, plain_lse, 3e-6))
      end
    end)
  end)
end
