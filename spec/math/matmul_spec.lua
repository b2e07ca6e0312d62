-- Matrix products beside the plain loop. In builds with crucible.core.debug alone: without it there is no
-- way to the kernels from Lua, and no spec is counted.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local lists = require "spec.support.lists"

local with = lists.with

local SIZES = { 1, 3, 15, 17, 63, 65, 575, 577 }
local EPSILON = 2.0 ^ -24 -- half a unit in the last place of 1.0

-- Every pair of sizes once in any two of m, n, k.
local function each_shape(run)
  for i, m in ipairs(SIZES) do
    for j, n in ipairs(SIZES) do run(m, n, SIZES[(i + j) % #SIZES + 1], i + 3 * j) end
  end
end

-- Row `row` (from 1) of a product's left operand, however it is stored.
local function row_of(p, row)
  if not p.columns then return lists.slice(p.a, (row - 1) * p.k + 1, p.k) end
  local out = {}
  for k = 1, p.k do out[k] = p.a[(k - 1) * p.m + row] end
  return out
end

local function row_of_c(c, n, row) return lists.slice(c, (row - 1) * n + 1, n) end

-- The product of one row alone, as arguments.
local function single(p, row)
  return with(p, { m = 1, a = row_of(p, row), columns = false, c = p.c and row_of_c(p.c, p.n, row) })
end

local function magnitudes(values) return lists.map(values, math.abs) end

-- What rounding can do to k products summed in any order and added to c: (k + 2) · ε · (|α| Σ |a||b| + |c|).
local function bounds(p)
  local all = native.math.matmul_plain(with(p, {
    a = magnitudes(p.a), b = magnitudes(p.b), c = p.c and magnitudes(p.c), alpha = math.abs(p.alpha or 1),
  }))
  return lists.map(all, function(sum) return (p.k + 2) * EPSILON * sum end)
end

-- A few rows from the first to the last: the plain loop is slow.
local function sampled_rows(m, work)
  local count = math.max(1, math.min(m, 40000 // work))
  local rows = {}
  for i = 1, count do rows[i] = count == 1 and m or 1 + (i - 1) * (m - 1) // (count - 1) end
  return rows
end

local function assert_rows(p, c, label)
  for _, row in ipairs(sampled_rows(p.m, p.n * p.k)) do
    local alone = single(p, row)
    local at, ours, plain = lists.first_beyond(row_of_c(c, p.n, row), native.math.matmul_plain(alone), bounds(alone))
    if at then
      error(("%s: %d x %d x %d, element (%d, %d): %.9g, the plain loop says %.9g")
        :format(label, p.m, p.n, p.k, row, at, ours, plain))
    end
  end
end

local function arguments(m, n, k, variant)
  local p = {
    m = m, n = n, k = k, a = lists.uniform(m + 7, m * k), b = lists.uniform(n + 11, n * k),
    transposed = variant % 2 == 0, columns = variant // 2 % 2 == 0,
  }
  if variant // 4 % 2 == 0 then p.alpha, p.accumulate, p.c = 0.7, true, lists.uniform(k + 13, m * n) end
  return p
end

for _, kernels in ipairs(native.math.kernels()) do
  describe("a matrix product with the " .. kernels .. " kernels", function()
    it("agrees with the plain loop in every layout and at every odd size", function()
      each_shape(function(m, n, k, variant)
        local p = arguments(m, n, k, variant)
        assert_rows(p, native.math.matmul(with(p, { kernels = kernels, threads = 2 })), "matmul")
      end)
    end)

    it("agrees with it on one thread inside a task", function()
      each_shape(function(m, n, k, variant)
        if m * n * k > 1000000 then return end
        local p = arguments(m, n, k, variant)
        assert_rows(p, native.math.matmul_serial(with(p, { kernels = kernels })), "matmul_serial")
      end)
    end)

    it("agrees with it for few rows", function()
      each_shape(function(m, n, k)
        if m > 17 then return end
        local p = { m = m, n = n, k = k, a = lists.uniform(1, m * k), b = lists.uniform(2, n * k), transposed = true }
        assert_rows(p, native.math.matmul_few(with(p, { kernels = kernels, threads = 2 })), "matmul_few")
      end)
    end)

    it("gives the same bits at 1, 2 and 3 threads", function()
      for variant, shape in ipairs({ { 65, 577, 63 }, { 17, 65, 577 }, { 577, 17, 65 }, { 1, 575, 63 } }) do
        local p = arguments(shape[1], shape[2], shape[3], variant - 1)
        local transposed = with(p, { transposed = true, columns = false })
        local one = lists.bits(native.math.matmul(with(p, { kernels = kernels, threads = 1 })))
        local few = lists.bits(native.math.matmul_few(with(transposed, { kernels = kernels, threads = 1 })))
        for threads = 2, 3 do
          local setup = { kernels = kernels, threads = threads }
          assert.is_true(one == lists.bits(native.math.matmul(with(p, setup))))
          assert.is_true(few == lists.bits(native.math.matmul_few(with(transposed, setup))))
        end
      end
    end)

    it("gives a row the bits that it has alone: a tile at the edge, scaled and added, once rounded apart", function()
      for variant = 0, 7 do
        local p = with(arguments(29, 65, 331, variant), { kernels = kernels })
        local c = native.math.matmul(p)
        for _, row in ipairs({ 1, 2, 13, 24, 25, 28, 29 }) do
          local alone = native.math.matmul(single(p, row))
          local message = ("variant %d, row %d"):format(variant, row)
          assert.is_true(lists.bits(alone) == lists.bits(row_of_c(c, p.n, row)), message)
        end
      end
    end)

    it("gives a column the bits that it has among fewer", function()
      local p = with(arguments(13, 65, 331, 2), { kernels = kernels })
      p.transposed, p.columns, p.alpha, p.accumulate, p.c = true, false, 0.7, true, lists.uniform(3, 13 * 65)
      local c = native.math.matmul(p)
      for _, n in ipairs({ 1, 7, 33, 64 }) do
        local fewer = with(p, { n = n, b = lists.slice(p.b, 1, n * p.k), c = {} })
        for row = 1, p.m do table.move(p.c, (row - 1) * p.n + 1, (row - 1) * p.n + n, #fewer.c + 1, fewer.c) end
        local part = native.math.matmul(fewer)
        for row = 1, p.m do
          local whole = lists.slice(c, (row - 1) * p.n + 1, n)
          assert.is_true(lists.bits(row_of_c(part, n, row)) == lists.bits(whole), ("%d columns, row %d"):format(n, row))
        end
      end
    end)

    it("gives a row the bits that it has alone with the kernel for few rows", function()
      local p = { m = 9, n = 65, k = 331, a = lists.uniform(1, 9 * 331), b = lists.uniform(2, 65 * 331),
        transposed = true, kernels = kernels }
      local c = native.math.matmul_few(p)
      for row = 1, p.m do
        assert.is_true(lists.bits(native.math.matmul_few(single(p, row))) == lists.bits(row_of_c(c, p.n, row)))
      end
    end)

    it("lets NaN and infinity through to what depends on them alone", function()
      for variant = 0, 3 do
        local p = arguments(13, 35, 21, variant)
        p.kernels, p.alpha, p.accumulate, p.c = kernels, 1, false, nil
        p.a[p.columns and (5 * p.m + 3 + 1) or (3 * p.k + 5 + 1)] = 0 / 0 -- row 4, k 6
        p.b[p.transposed and (8 * p.k + 2 + 1) or (2 * p.n + 8 + 1)] = math.huge -- column 9, k 3
        local c = native.math.matmul(p)
        for i = 1, p.m do
          for j = 1, p.n do
            local value = c[(i - 1) * p.n + j]
            assert.equal(i == 4, value ~= value, ("(%d, %d) of variant %d"):format(i, j, variant))
            assert.equal(i ~= 4 and j == 9, math.abs(value) == math.huge, ("(%d, %d)"):format(i, j))
          end
        end
      end
    end)

    it("keeps what lies between the rows of the result", function()
      for _, variant in ipairs({ 1, 2 }) do
        local p = arguments(14, 33, 17, variant)
        local ldc = 40
        p.kernels, p.ldc, p.alpha, p.accumulate, p.c = kernels, ldc, 1, false, lists.fill(14 * ldc, 123)
        local c = native.math.matmul(p)
        for row = 1, p.m do
          for column = p.n + 1, ldc do assert.equal(123, c[(row - 1) * ldc + column]) end
        end
      end
    end)

    it("is zero, or what was there, when nothing is summed", function()
      local p = { m = 3, n = 5, k = 0, a = {}, b = {}, kernels = kernels, c = lists.fill(15, 2) }
      for _, product in ipairs({ native.math.matmul, native.math.matmul_serial }) do
        for _, transposed in ipairs({ true, false }) do
          p.transposed = transposed
          assert.same(lists.fill(15, 0), product(with(p, { accumulate = false })))
          assert.same(lists.fill(15, 2), product(with(p, { accumulate = true })))
        end
      end
    end)

    it("works when a panel of the stored operand does not fit", function()
      local k = (2 << 20) // 8 + 1 -- one more than the narrowest panel can hold
      local p = { m = 2, n = 1, k = k, a = lists.uniform(1, 2 * k), b = lists.uniform(2, k), kernels = kernels }
      local c = native.math.matmul(p)
      for row = 1, 2 do
        local expected = lists.dot(row_of(p, row), p.b)
        assert.near(expected, c[row], 1e-2)
      end
    end)
  end)
end

-- Blocks of random bits whose values are ordinary numbers.
local function random_blocks(info, count)
  local out = {}
  local bytes = lists.uniform(info.type + 1, 64 * count * info.block_bytes, 32768)
  local at = 1
  while #out < count do
    local block = {}
    for i = 1, info.block_bytes do block[i] = string.char(bytes[at + i - 1] // 1 & 255) end
    at = at + info.block_bytes
    local text = table.concat(block)
    local values = native.math.expand({ bytes = text, type = info.type, first = 0, count = info.block_length })
    if lists.largest(values) < 1000 and lists.dot(values, values) == lists.dot(values, values) then
      out[#out + 1] = text
    end
  end
  return table.concat(out)
end

-- B as numbers, so that the plain loop can take magnitudes.
local function expanded(info, bytes, count)
  return native.math.expand({ bytes = bytes, type = info.type, first = 0, count = count })
end

describe("a matrix product with stored weights", function()
  for _, info in ipairs(native.math.types()) do
    it("of " .. info.name .. " agrees with the plain loop", function()
      local k = info.block_length == 1 and 75 or 2 * info.block_length
      local n, m = 19, 5
      local bytes = random_blocks(info, n * k // info.block_length)
      local values = expanded(info, bytes, n * k)
      for _, kernels in ipairs(native.math.kernels()) do
        local forward = { m = m, n = n, k = k, a = lists.uniform(3, m * k), b = values, transposed = true }
        local backward = { m = m, n = k, k = n, a = lists.uniform(4, m * n), b = values, transposed = false }
        local stored = { b = bytes, type = info.type, kernels = kernels, threads = 2 }
        assert_rows(forward, native.math.matmul(with(forward, stored)), "forward")
        assert_rows(forward, native.math.matmul_few(with(forward, stored)), "few")
        assert_rows(backward, native.math.matmul(with(backward, stored)), "backward")
        assert.is_true(lists.bits(native.math.matmul_plain(with(forward, stored)))
          == lists.bits(native.math.matmul_plain(forward)))
      end
    end)
  end

  it("is cut into several panels without a seam", function()
    local info
    for _, known in ipairs(native.math.types()) do info = known.name == "Q8_0" and known or info end
    local k, n = 576, 3700 -- n · k exceeds the panels that are packed at once
    local row = random_blocks(info, 18)
    local rows = {}
    for i = 1, n do rows[i] = row:sub(34 * (i % 18) + 1) .. row:sub(1, 34 * (i % 18)) end
    local values = {}
    for i = 1, 18 do values[i] = expanded(info, rows[i], k) end
    local a = lists.uniform(5, 2 * k)
    local c = native.math.matmul({ m = 2, n = n, k = k, a = a, b = table.concat(rows), type = info.type,
      transposed = true, threads = 2 })
    for i = 1, 2 do
      for j = 1, n do
        if j <= 18 then
          assert.near(lists.dot(lists.slice(a, (i - 1) * k + 1, k), values[j]), c[(i - 1) * n + j], 1)
        else
          assert.equal(c[(i - 1) * n + (j - 1) % 18 + 1], c[(i - 1) * n + j])
        end
      end
    end
  end)
end)
