-- Divergences of two predicted distributions beside the plain loop and finite differences. In builds with
-- crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"

local with, divergence = lists.with, native.math.divergence

local function sides(kind, n, d, e, vocabulary, temperature)
  return {
    kind = kind, n = n, d = d, e = e, vocabulary = vocabulary, temperature = temperature or 1,
    hidden = lists.uniform(n, n * d), head = lists.uniform(vocabulary, vocabulary * d),
    other_hidden = lists.uniform(n + 1, n * e), other_head = lists.uniform(vocabulary + 1, vocabulary * e),
  }
end

local fixture = require("crucible.json").decode(assert(require("crucible.core").fs.read_file(
  "spec/fixtures/builtin_losses.json")))
local KINDS = { forward_kl = 0, reverse_kl = 1, jensen_shannon = 2, logit_square = 3 }

local function weighted(slope)
  return lists.map(slope, function(x, i) return x * fixture.weights[(i - 1) // fixture.d + 1] end)
end

-- Value and gradient of a case by the head's outputs.
local function by_head(case, kernels)
  local p = with(fixture, { kernels = kernels, entropy = true })
  local logprobs, expected, lse, entropy, tilt = native.math.head(p)
  if case.name == "entropy" then return entropy, weighted(lists.map(tilt, function(x) return -x end)) end
  local smoothing, value, slope = case.smoothing or 0, {}, {}
  for i = 1, p.n do
    local mean = lists.fill(p.d, 0)
    for v = 1, p.vocabulary do mean = lists.add(mean, 1 / p.vocabulary, lists.slice(p.head, (v - 1) * p.d + 1, p.d)) end
    local row = lists.slice(p.hidden, (i - 1) * p.d + 1, p.d)
    local target = lists.slice(p.head, p.targets[i] * p.d + 1, p.d)
    value[i] = -(1 - smoothing) * logprobs[i] - smoothing * (lists.dot(mean, row) - lse[i])
    for c = 1, p.d do
      local at = (i - 1) * p.d + c
      slope[at] = expected[at] - (1 - smoothing) * target[c] - smoothing * mean[c]
    end
  end
  return value, weighted(slope)
end

for _, kernels in ipairs(native.math.kernels()) do
  describe("what PyTorch finds", function()
    for _, case in ipairs(fixture.cases) do
      local what = ("%s at temperature %g"):format(case.name, case.temperature or 1)
      it(("is found by the %s kernels: %s"):format(kernels, what), function()
        local value, slope
        if KINDS[case.name] then
          value, slope = divergence(with(fixture, {
            kernels = kernels, kind = KINDS[case.name], temperature = case.temperature,
          }))
          slope = weighted(slope)
        else
          value, slope = by_head(case, kernels)
        end
        assert.is_nil(lists.first_beyond(value, case.value, 2e-6 * (1 + lists.largest(case.value))))
        assert.is_nil(lists.first_beyond(slope, case.gradient, 2e-6 * (1 + lists.largest(case.gradient))))
      end)
    end
  end)

  describe("divergences with the " .. kernels .. " kernels", function()
    for kind = 0, 3 do
      it(("of kind %d agree with the plain loop, at any size and temperature"):format(kind), function()
        for _, shape in ipairs({ { 5, 8, 12, 41 }, { 3, 15, 8, 257, 2 }, { 257, 4, 4, 23, 0.5 }, { 2, 16, 16, 1 },
          { 2, 4, 6, 4351 } }) do
          local p = with(sides(kind, table.unpack(shape)), { kernels = kernels, threads = 2 })
          local value, slope = divergence(p)
          local plain_value, plain_slope = divergence(with(p, { plain = true }))
          local title, bound = table.concat(shape, " "), 2e-5 * (1 + lists.largest(plain_value))
          assert.is_nil(lists.first_beyond(value, plain_value, bound), title)
          assert.is_nil(lists.first_beyond(slope, plain_slope, bound), title)
        end
      end)

      it(("of kind %d have the slope of finite differences"):format(kind), function()
        local p = with(sides(kind, 3, 9, 5, 37, 1.5), { plain = true })
        local weights = { 0.5, -1.25, 2 }
        local _, slope = divergence(with(p, { plain = false, kernels = kernels }))
        local function total(hidden) return lists.dot(weights, (divergence(with(p, { hidden = hidden })))) end
        for i = 1, #slope do
          local expected = gradient.entry(total, p.hidden, i, 0.02)
          assert.near(expected, weights[(i - 1) // 9 + 1] * slope[i], 2e-4)
        end
      end)

      it(("of kind %d are 0, and flat, where both sides are the same"):format(kind), function()
        local p = with(sides(kind, 4, 16, 16, 700), { kernels = kernels })
        p.other_hidden, p.other_head = p.hidden, p.head
        local value, slope = divergence(p)
        assert.is_true(lists.largest(value) < 1e-5)
        assert.is_true(lists.largest(slope) < 1e-5)
      end)

      it(("of kind %d have the same bits at 1 and 2 threads"):format(kind), function()
        local p = with(sides(kind, 17, 15, 8, 5000), { kernels = kernels })
        local one = lists.bits(lists.join(divergence(with(p, { threads = 1 }))))
        assert.is_true(one == lists.bits(lists.join(divergence(with(p, { threads = 2 })))))
      end)
    end
  end)
end
