-- Rotary embedding beside a loop in double, both pairings and both directions. In builds with
-- crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local lists = require "spec.support.lists"

local with = lists.with

local function batch(n, heads, head_size, neighbours)
  local p = { n = n, heads = heads, head_size = head_size, neighbours = neighbours, base = 10000, positions = {} }
  for i = 1, n do p.positions[i] = i * i % 1000 end
  p.x = lists.uniform(n + heads, n * heads * head_size)
  return p
end

local function f32(x) return (string.unpack("<f", string.pack("<f", x))) end

-- Frequencies and angles are rounded to f32 as PyTorch rounds them.
local function angle_of(p, position, pair)
  local frequency = f32(1 / f32(p.base ^ f32(2 * pair / p.head_size)))
  if p.factors then frequency = f32(frequency / p.factors[pair + 1]) end
  return f32(position * frequency)
end

local function plain(p)
  local out, half = lists.slice(p.x, 1, #p.x), p.head_size // 2
  for i = 0, p.n - 1 do
    for h = 0, p.heads - 1 do
      for pair = 0, half - 1 do
        local angle = angle_of(p, p.positions[i + 1], pair) * (p.backward and -1 or 1)
        local head = i * (p.stride or p.heads * p.head_size) + h * p.head_size + 1
        local a = head + (p.neighbours and 2 * pair or pair)
        local b = a + (p.neighbours and 1 or half)
        out[a] = p.x[a] * math.cos(angle) - p.x[b] * math.sin(angle)
        out[b] = p.x[a] * math.sin(angle) + p.x[b] * math.cos(angle)
      end
    end
  end
  return out
end

for _, neighbours in ipairs({ true, false }) do
  describe("rope over " .. (neighbours and "neighbours" or "halves"), function()
    it("agrees with the plain loop, forward and backward", function()
      for _, size in ipairs({ 2, 6, 14, 64 }) do
        for _, backward in ipairs({ false, true }) do
          local p = batch(19, 3, size, neighbours)
          p.backward, p.threads = backward, 2
          assert.is_nil(lists.first_beyond(native.math.rope(p), plain(p), 1e-6))
        end
      end
    end)

    it("turns back what it turned", function()
      local p = batch(33, 2, 16, neighbours)
      local turned = native.math.rope(p)
      assert.is_nil(lists.first_beyond(native.math.rope(with(p, { x = turned, backward = true })), p.x, 1e-6))
    end)

    it("leaves position 0 as it is", function()
      local p = with(batch(4, 2, 8, neighbours), { positions = { 0, 0, 0, 0 } })
      assert.same(p.x, native.math.rope(p))
    end)

    it("keeps scores a function of the distance alone", function()
      local function score(at_q, at_k)
        local p = with(batch(2, 1, 32, neighbours), { positions = { at_q, at_k } })
        local turned = native.math.rope(p)
        return lists.dot(lists.slice(turned, 1, 32), lists.slice(turned, 33, 32))
      end
      assert.near(score(7, 3), score(104, 100), 1e-5)
      assert.is_true(math.abs(score(7, 3) - score(8, 3)) > 1e-3)
    end)

    it("divides frequencies by their factors and leaves what lies between rows", function()
      local p = with(batch(5, 2, 6, neighbours), { stride = 15, factors = { 1, 2, 8 }, x = lists.uniform(1, 5 * 15) })
      local out = native.math.rope(p)
      assert.is_nil(lists.first_beyond(out, plain(p), 1e-6))
      for i = 0, 4 do assert.same(lists.slice(p.x, i * 15 + 13, 3), lists.slice(out, i * 15 + 13, 3)) end
    end)

    it("gives the same bits at any number of threads and rows", function()
      local p = with(batch(40, 2, 8, neighbours), { threads = 1 })
      local out = native.math.rope(p)
      assert.is_true(lists.bits(out) == lists.bits(native.math.rope(with(p, { threads = 3 }))))
      local row = with(p, { n = 1, x = lists.slice(p.x, 16 * 30 + 1, 16), positions = { p.positions[31] } })
      assert.is_true(lists.bits(native.math.rope(row)) == lists.bits(lists.slice(out, 16 * 30 + 1, 16)))
    end)
  end)
end
