-- Element types: a run of a row is the same run of the whole row, wherever it begins and ends. In builds
-- with crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local lists = require "spec.support.lists"

local function random_bytes(seed, count)
  return table.concat(lists.map(lists.uniform(seed, count, 32768), function(x) return string.char(x // 1 & 255) end))
end

-- Numbers at which a run may begin or end: around every edge of a block.
local function edges(length, block)
  if length <= 100 then
    local all = {}
    for i = 0, length do all[i + 1] = i end
    return all
  end
  local out = {}
  for at = 0, length, block do
    for _, offset in ipairs({ -33, -1, 0, 1, 31 }) do
      if at + offset >= 0 and at + offset <= length then out[#out + 1] = at + offset end
    end
  end
  return out
end

local function bits(values)
  return lists.bits(lists.map(values, function(x) return x == x and x or 12345.0 end)) -- any NaN is as good as another
end

describe("expansion of stored values", function()
  for _, info in ipairs(native.math.types()) do
    it("gives any run of a row of " .. info.name .. " as it stands in the whole row", function()
      local length = info.block_length == 1 and 70 or 3 * info.block_length
      local bytes = random_bytes(info.type, length // info.block_length * info.block_bytes)
      local whole = native.math.expand({ bytes = bytes, type = info.type, first = 0, count = length })
      for _, first in ipairs(edges(length, info.block_length)) do
        for _, last in ipairs(edges(length, info.block_length)) do
          if last >= first then
            local run = native.math.expand({ bytes = bytes, type = info.type, first = first, count = last - first })
            local same = bits(run) == bits(lists.slice(whole, first + 1, last - first))
            assert.is_true(same, ("values %d to %d"):format(first, last))
          end
        end
      end
    end)
  end

  for _, info in ipairs(native.math.types()) do
    it("gives the portable loops' bits of " .. info.name .. " on every processor", function()
      local blocks = 257
      local job = { type = info.type, first = 0, count = blocks * info.block_length,
        bytes = random_bytes(info.type + 1, blocks * info.block_bytes), kernels = "portable" }
      local expected = bits(native.math.expand(job))
      for _, kernels in ipairs(native.math.kernels()) do
        job.kernels = kernels
        assert.is_true(expected == bits(native.math.expand(job)), kernels)
      end
    end)
  end

  local function type_of(name)
    for _, info in ipairs(native.math.types()) do
      if info.name == name then return info.type end
    end
  end

  local function expand(name, bytes, count)
    return native.math.expand({ bytes = bytes, type = type_of(name), first = 0, count = count })
  end

  it("reads a block of Q8_0 as scale times signed bytes", function()
    local expected, block = {}, string.pack("<I2", native.math.f32_to_f16(0.5))
    for i = 1, 32 do
      local q = 8 * i - 136
      block = block .. string.pack("<i1", q)
      expected[i] = 0.5 * q
    end
    assert.same(expected, expand("Q8_0", block, 32))
  end)

  it("reads blocks of Q4_0 and Q4_1 with low halves first", function()
    local halves, zero_centred, lifted = "", {}, {}
    for j = 0, 15 do
      local low, high = j, (7 * j + 3) % 16
      halves = halves .. string.char(low | high << 4)
      zero_centred[j + 1], zero_centred[j + 17] = 0.25 * (low - 8), 0.25 * (high - 8)
      lifted[j + 1], lifted[j + 17] = 0.25 * low - 2, 0.25 * high - 2
    end
    local scale, minimum = native.math.f32_to_f16(0.25), native.math.f32_to_f16(-2)
    assert.same(zero_centred, expand("Q4_0", string.pack("<I2", scale) .. halves, 32))
    assert.same(lifted, expand("Q4_1", string.pack("<I2I2", scale, minimum) .. halves, 32))
  end)
end)

describe("half precision", function()
  -- The first bit pattern that does not survive the way to f32 and back; NaNs may change their payload.
  local function first_lost(to_f32, from_f32, infinity)
    for bits16 = 0, 65535 do
      local value = to_f32(bits16)
      local back = from_f32(value)
      local kept = value == value and back == bits16 or value ~= value and back & 0x7FFF > infinity
      if not kept then return bits16 end
    end
  end

  it("survives the way to f32 and back for every bit pattern", function()
    assert.is_nil(first_lost(native.math.f16_to_f32, native.math.f32_to_f16, 0x7C00))
    assert.is_nil(first_lost(native.math.bf16_to_f32, native.math.f32_to_bf16, 0x7F80))
  end)

  it("rounds to nearest, ties to even", function()
    local function f16(x) return native.math.f16_to_f32(native.math.f32_to_f16(x)) end
    assert.equal(2048, f16(2049)) -- halfway between 2048 and 2050
    assert.equal(2052, f16(2051))
    assert.equal(2050, f16(2049.5))
    assert.equal(65504, f16(65519))
    assert.equal(math.huge, f16(65520))
    assert.equal(2.0 ^ -24, f16(0.51 * 2.0 ^ -24)) -- the least subnormal
    assert.equal(0, f16(0.5 * 2.0 ^ -24))
    local function bf16(x) return native.math.bf16_to_f32(native.math.f32_to_bf16(x)) end
    assert.equal(256, bf16(257))
    assert.equal(260, bf16(259))
    assert.equal(math.huge, bf16(3.4e38))
  end)
end)
