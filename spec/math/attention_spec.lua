-- Attention beside the plain loop and finite differences. In builds with crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"

local with = lists.with

local attend, attend_backward = native.math.attention, native.math.attention_backward

-- Several texts one after another; scores reach about ±`sharpness`.
local function batch(lengths, heads, kv_heads, head_size, sharpness)
  local starts = { 0 }
  for i, length in ipairs(lengths) do starts[i + 1] = starts[i] + length end
  local n, reach = starts[#starts], sharpness or 2
  return {
    starts = starts, heads = heads, kv_heads = kv_heads, head_size = head_size, n = n,
    q = lists.uniform(n, n * heads * head_size, reach), k = lists.uniform(n + 1, n * kv_heads * head_size, reach),
    v = lists.uniform(n + 2, n * kv_heads * head_size, 1),
  }
end

-- The positions of one text of a batch, of a list with `width` values a position.
local function of_row(b, list, row, width)
  return lists.slice(list, b.starts[row] * width + 1, (b.starts[row + 1] - b.starts[row]) * width)
end

local function row_alone(b, row)
  local q, kv = b.heads * b.head_size, b.kv_heads * b.head_size
  return with(b, {
    starts = { 0, b.starts[row + 1] - b.starts[row] },
    q = of_row(b, b.q, row, q), k = of_row(b, b.k, row, kv), v = of_row(b, b.v, row, kv),
    dout = b.dout and of_row(b, b.dout, row, q),
  })
end

local function backward(b)
  local out, lse = attend(b)
  return attend_backward(with(b, { out = out, lse = lse }))
end

local SHAPES = { -- heads, key heads, size
  { "as many key heads", 2, 2, 16 },
  { "groups of three", 6, 2, 8 },
  { "one key head", 3, 1, 14 },
  { "a head wider than a tile", 2, 1, 66 },
}
local WINDOWS = { 1, 5, 63, 64, 65, 100 } -- beside no window
local ROWS = { { 1 }, { 63 }, { 64 }, { 65 }, { 200 }, { 1, 63, 2, 65 }, { 64, 64, 1 } }

-- Attention in double, one query head after another: what the finite differences are taken of.
local function query(b, row, i, head)
  local size, scale = b.head_size, 1 / math.sqrt(b.head_size)
  local kv = head // (b.heads // b.kv_heads)
  local weights, sum, top = {}, 0.0, -math.huge
  for j = math.max(b.starts[row], b.window and i - b.window + 1 or 0), i do
    local score = 0.0
    for c = 1, size do
      score = score + b.q[(i * b.heads + head) * size + c] * b.k[(j * b.kv_heads + kv) * size + c]
    end
    weights[j] = score * scale
    top = math.max(top, weights[j])
  end
  for j, score in pairs(weights) do
    weights[j] = math.exp(score - top)
    sum = sum + weights[j]
  end
  return weights, sum, kv
end

-- Σ dout · out.
local function loss(b)
  local total, size = 0.0, b.head_size
  for row = 1, #b.starts - 1 do
    for i = b.starts[row], b.starts[row + 1] - 1 do
      for head = 0, b.heads - 1 do
        local weights, sum, kv = query(b, row, i, head)
        for j, weight in pairs(weights) do
          for c = 1, size do
            total = total + b.dout[(i * b.heads + head) * size + c] * weight / sum
              * b.v[(j * b.kv_heads + kv) * size + c]
          end
        end
      end
    end
  end
  return total
end

for _, kernels in ipairs(native.math.kernels()) do
  describe("attention with the " .. kernels .. " kernels", function()
    for _, shape in ipairs(SHAPES) do
      local title, heads, kv_heads, size = table.unpack(shape)

      it("agrees with the plain loop: " .. title, function()
        for _, lengths in ipairs(ROWS) do
          local b = batch(lengths, heads, kv_heads, size)
          local out, lse = attend(with(b, { kernels = kernels, threads = 2 }))
          local plain_out, plain_lse = attend(with(b, { plain = true }))
          -- A mean of values in ±1, and a log-sum of scores of about size · 4 / √size.
          assert.is_nil(lists.first_beyond(out, plain_out, 1e-5))
          assert.is_nil(lists.first_beyond(lse, plain_lse, 1e-5))
        end
      end)
    end

    it("agrees with the plain loop where a query sees a window of keys", function()
      for _, window in ipairs(WINDOWS) do
        local b = with(batch({ 1, 63, 200, 65 }, 4, 2, 14), { window = window })
        local out, lse = attend(with(b, { kernels = kernels, threads = 2 }))
        local plain_out, plain_lse = attend(with(b, { plain = true }))
        assert.is_nil(lists.first_beyond(out, plain_out, 1e-5), "window " .. window)
        assert.is_nil(lists.first_beyond(lse, plain_lse, 1e-5), "window " .. window)
      end
    end)

    it("with a window as long as the text gives the bits that it gives without", function()
      local b = batch({ 130, 7 }, 2, 1, 16)
      b.kernels, b.dout = kernels, lists.uniform(9, #b.q)
      local wide = with(b, { window = 130 })
      assert.is_true(lists.bits(lists.join(attend(b))) == lists.bits(lists.join(attend(wide))))
      assert.is_true(lists.bits(lists.join(backward(b))) == lists.bits(lists.join(backward(wide))))
    end)

    it("keeps its precision where one key takes all", function()
      local b = batch({ 100 }, 2, 1, 16, 16) -- scores of several hundred
      local out, lse = attend(with(b, { kernels = kernels }))
      local plain_out, plain_lse = attend(with(b, { plain = true }))
      assert.is_nil(lists.first_beyond(out, plain_out, 1e-3))
      assert.is_nil(lists.first_beyond(lse, plain_lse, 1e-3))
    end)

    it("gives the same bits at 1, 2 and 3 threads (a second one once crashed at head size 66)", function()
      for _, size in ipairs({ 14, 66 }) do
        local b = batch({ 65, 1, 130 }, 3, 1, size)
        b.kernels, b.dout = kernels, lists.uniform(9, #b.q)
        local one = lists.bits(lists.join(attend(with(b, { threads = 1 }))))
        local one_back = lists.bits(lists.join(backward(with(b, { threads = 1 }))))
        for threads = 2, 3 do
          assert.is_true(one == lists.bits(lists.join(attend(with(b, { threads = threads })))))
          assert.is_true(one_back == lists.bits(lists.join(backward(with(b, { threads = threads })))))
        end
      end
    end)

    it("gives each text of a batch the bits that it has alone", function()
      local b = batch({ 70, 3, 65, 1 }, 4, 2, 16)
      b.kernels, b.dout = kernels, lists.uniform(9, #b.q)
      local q, kv = b.heads * b.head_size, b.kv_heads * b.head_size
      local out, lse = attend(b)
      local dq, dk, dv = backward(b)
      for row = 1, #b.starts - 1 do
        local alone = row_alone(b, row)
        local whole = lists.join(of_row(b, out, row, q), of_row(b, lse, row, b.heads))
        local back = lists.join(of_row(b, dq, row, q), of_row(b, dk, row, kv), of_row(b, dv, row, kv))
        assert.is_true(lists.bits(lists.join(attend(alone))) == lists.bits(whole), "forward of row " .. row)
        assert.is_true(lists.bits(lists.join(backward(alone))) == lists.bits(back), "backward of row " .. row)
      end
    end)

    it("lets no text see another, and no position a later one", function()
      local b = batch({ 66, 5, 66 }, 2, 1, 8)
      b.kernels = kernels
      local out = attend(b)
      local changed = with(b, { k = lists.slice(b.k, 1, #b.k), v = lists.slice(b.v, 1, #b.v) })
      local first = 68 -- the third position of the second text
      for i = first * 8 + 1, b.starts[3] * 8 do changed.k[i], changed.v[i] = 3, -5 end
      local other = attend(changed)
      for position = 0, b.n - 1 do
        local affected = position >= first and position < b.starts[3]
        local here, there = lists.slice(out, position * 16 + 1, 16), lists.slice(other, position * 16 + 1, 16)
        assert.equal(affected, lists.bits(here) ~= lists.bits(there), "position " .. position)
      end
    end)

    it("keeps NaN to the text that has it", function()
      for _, name in ipairs({ "q", "k", "v" }) do
        local b = batch({ 4, 70, 4 }, 1, 1, 8)
        b.kernels, b.dout = kernels, lists.fill(#b.q, 1)
        b[name][(b.starts[2] + 1) * 8 + 3] = 0 / 0 -- the second position of the second text
        local out = attend(b)
        local dq, dk, dv = backward(b)
        for position = 0, b.n - 1 do
          local inside = position >= b.starts[2] and position < b.starts[3]
          local value, back = out[position * 8 + 3], dq[position * 8 + 3] + dk[position * 8 + 3] + dv[position * 8 + 3]
          assert.is_true(inside or value == value and back == back, ("%s at %d"):format(name, position))
          if position == b.starts[2] + 1 then assert.is_true(value ~= value and back ~= back) end
        end
      end
    end)

    local function check_cached(shape, window)
      local _, heads, kv_heads, size = table.unpack(shape)
      local b = with(batch({ 9, 70, 5, 6 }, heads, kv_heads, size), { window = window })
      local past, q, kv = { 8, 65, 0, 4 }, heads * size, kv_heads * size
      local cached = with(b, { kernels = kernels, threads = 2, past = past, starts = { 0 },
        q = {}, k = {}, v = {}, past_k = {}, past_v = {} })
      local plain, expected = attend(with(b, { plain = true })), {}
      for row = 1, 4 do
        local new = b.starts[row + 1] - b.starts[row] - past[row]
        cached.starts[row + 1] = cached.starts[row] + new
        for name, width in pairs({ k = kv, v = kv }) do
          local all = of_row(b, b[name], row, width)
          cached["past_" .. name] = lists.join(cached["past_" .. name], lists.slice(all, 1, past[row] * width))
          cached[name] = lists.join(cached[name], lists.slice(all, past[row] * width + 1, new * width))
        end
        cached.q = lists.join(cached.q, lists.slice(of_row(b, b.q, row, q), past[row] * q + 1, new * q))
        expected = lists.join(expected, lists.slice(of_row(b, plain, row, q), past[row] * q + 1, new * q))
      end
      local out = native.math.attention_cached(cached)
      assert.is_nil(lists.first_beyond(out, expected, 1e-5))
      for threads = 1, 3, 2 do
        local again = native.math.attention_cached(with(cached, { threads = threads }))
        assert.is_true(lists.bits(out) == lists.bits(again))
      end
      local q_row = lists.slice(cached.q, 1, q)
      local alone = native.math.attention_cached(with(cached, {
        past = { 8 }, starts = { 0, 1 }, q = q_row,
        k = lists.slice(cached.k, 1, kv), v = lists.slice(cached.v, 1, kv),
        past_k = lists.slice(cached.past_k, 1, 8 * kv), past_v = lists.slice(cached.past_v, 1, 8 * kv),
      }))
      assert.is_true(lists.bits(alone) == lists.bits(lists.slice(out, 1, q)))
    end

    it("after kept keys agrees with the plain loop over all of them", function()
      for _, shape in ipairs(SHAPES) do
        check_cached(shape)
        for _, window in ipairs { 1, 3, 4, 66 } do check_cached(shape, window) end
      end
    end)
  end)
end

-- Large enough for a second tile of queries and keys.
local function check_gradients(title, window)
  describe("attention's gradients" .. title, function()
    local b = batch({ 66, 3 }, 3, 1, 6)
    b.dout, b.window = lists.uniform(77, #b.q), window
    local slopes = {}

    setup(function()
      for _, name in ipairs({ "q", "k", "v" }) do
        local function f(values) return loss(with(b, { [name] = values })) end
        slopes[name] = {}
        for i = 1, #b[name], #b[name] // 9 do slopes[name][i] = gradient.entry(f, b[name], i, 1e-3) end
      end
    end)

    for _, kernels in ipairs(native.math.kernels()) do
      it("agree with finite differences: " .. kernels .. " kernels", function()
        local names, results = { "q", "k", "v" }, { backward(with(b, { kernels = kernels, threads = 2 })) }
        for which, name in ipairs(names) do
          local scale = lists.largest(results[which])
          for i, slope in pairs(slopes[name]) do
            assert.near(slope, results[which][i], 1e-5 * scale, ("d%s[%d]"):format(name, i))
          end
        end
      end)
    end
  end)
end

check_gradients("")
check_gradients(" under a window of 20", 20)
