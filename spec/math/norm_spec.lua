-- RMSNorm beside a loop in double and finite differences. In builds with crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"

local with = lists.with
local EPSILON = 1e-5

local function rows(n, d)
  return { n = n, d = d, epsilon = EPSILON, x = lists.uniform(n + d, n * d, 4), weight = lists.uniform(d, d, 2) }
end

local function plain(p)
  local y, inverse = {}, {}
  for i = 0, p.n - 1 do
    local squares = 0.0
    for c = 1, p.d do squares = squares + p.x[i * p.d + c] ^ 2 end
    inverse[i + 1] = 1 / math.sqrt(squares / p.d + p.epsilon)
    for c = 1, p.d do y[i * p.d + c] = p.weight[c] * p.x[i * p.d + c] * inverse[i + 1] end
  end
  return y, inverse
end

for _, kernels in ipairs(native.math.kernels()) do
  describe("RMSNorm with the " .. kernels .. " kernels", function()
    local setup = { kernels = kernels, threads = 2 }

    it("agrees with the plain loop at every odd size", function()
      for _, d in ipairs({ 1, 3, 15, 17, 63, 65, 577 }) do
        local p = rows(17, d)
        local y, inverse = native.math.rmsnorm(with(p, setup))
        local plain_y, plain_inverse = plain(p)
        assert.is_nil(lists.first_beyond(y, plain_y, 2e-6 * lists.largest(plain_y)))
        assert.is_nil(lists.first_beyond(inverse, plain_inverse, 1e-6 * lists.largest(plain_inverse)))
      end
    end)

    it("gives the same values again from what forward kept", function()
      local p = with(rows(19, 65), setup)
      local y, inverse = native.math.rmsnorm(p)
      assert.is_true(lists.bits(y) == lists.bits(native.math.rmsnorm_again(with(p, { inverse = inverse }))))
    end)

    it("has the gradient that finite differences find, added to what was there", function()
      local p = rows(3, 17)
      local dy, before = lists.uniform(5, 51), lists.uniform(6, 51)
      local function loss(x) return lists.dot(dy, (plain(with(p, { x = x })))) end
      local _, inverse = native.math.rmsnorm(with(p, setup))
      local dx = native.math.rmsnorm_backward(with(with(p, setup), { dx = before, dy = dy, inverse = inverse }))
      for i = 1, #dx do
        assert.near(gradient.entry(loss, p.x, i, 1e-3), dx[i] - before[i], 2e-6)
      end
    end)

    it("keeps its sense for rows of zeros and of large numbers", function()
      local p = with(rows(2, 8), setup)
      p.x = lists.join(lists.fill(8, 0), lists.fill(8, 1e15))
      local y, inverse = native.math.rmsnorm(p)
      assert.same(lists.fill(8, 0), lists.slice(y, 1, 8))
      assert.near(1 / math.sqrt(EPSILON), inverse[1], 1e-2)
      assert.is_nil(lists.first_beyond(lists.slice(y, 9, 8), p.weight, 1e-5))
    end)

    it("gives a row the bits that it has alone, at any number of threads", function()
      local p = with(rows(40, 33), setup)
      local dy = lists.uniform(7, #p.x)
      local y, inverse = native.math.rmsnorm(p)
      local back = with(p, { dx = lists.fill(#p.x, 0), dy = dy, inverse = inverse })
      local dx = native.math.rmsnorm_backward(back)
      for threads = 1, 3, 2 do
        assert.is_true(lists.bits(y) == lists.bits((native.math.rmsnorm(with(p, { threads = threads })))))
        assert.is_true(lists.bits(dx) == lists.bits(native.math.rmsnorm_backward(with(back, { threads = threads }))))
      end
      for _, i in ipairs({ 1, 16, 17, 40 }) do
        local function row(list) return lists.slice(list, (i - 1) * p.d + 1, p.d) end
        local alone = with(p, { n = 1, x = row(p.x) })
        assert.is_true(lists.bits(row(y)) == lists.bits((native.math.rmsnorm(alone))))
      end
    end)

    it("keeps NaN to its row", function()
      local p = with(rows(5, 9), setup)
      p.x[2 * 9 + 4] = 0 / 0
      local y = native.math.rmsnorm(p)
      for i = 1, #y do assert.equal((i - 1) // 9 == 2, y[i] ~= y[i]) end
    end)
  end)
end
