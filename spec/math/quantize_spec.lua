-- Quantisers: the bits of ggml's reference where the gguf package has it, bounded errors where the scales are searched
-- for. In builds with crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local fs = require("crucible.core").fs
local cjson = require "cjson"
local hashed = require "spec.support.hashed_normal"
local lists = require "spec.support.lists"

local fixture = cjson.decode((assert(fs.read_file "spec/fixtures/quantize.json")))
local count = fixture.count // 1 | 0

local types = {}
for _, info in ipairs(native.math.types()) do types[info.name] = info end

local function quantize(name, values) return native.math.quantize { type = types[name].type, values = values } end

local function expand(name, bytes, n)
  return native.math.expand { bytes = bytes, type = types[name].type, first = 0, count = n }
end

-- The mirror of scripts/make_quantize_fixture.py.
local function filled(value)
  local list = {}
  for i = 1, count do list[i] = value(i - 1) end
  return list
end

local cases = {
  normal = hashed.normal("quantize normal", count, 0.02),
  uniform = hashed.uniform("quantize uniform", count, 1.0),
  tiny = hashed.uniform("quantize tiny", count, 2.0 ^ -24),
  large = hashed.uniform("quantize large", count, 2.0 ^ 15),
  spikes = hashed.uniform("quantize spikes", count, 2.0 ^ -10),
  steps = filled(function(i) return (i * 7 % 64 - 32) / 4 end),
  ["one sign"] = lists.map(hashed.uniform("quantize one sign", count, 3.0), math.abs),
  constant = filled(function() return 0.75 end),
  zeros = filled(function() return 0.0 end),
}
for i = 1, count, 37 do cases.spikes[i] = cases.spikes[i] * 4096 end

-- Root of the mean squared error over the root of the mean square.
local function relative_error(name, values)
  local back = expand(name, quantize(name, values), #values)
  local error, square = 0.0, 0.0
  for i, value in ipairs(values) do
    error = error + (back[i] - value) ^ 2
    square = square + value ^ 2
  end
  return math.sqrt(error / square)
end

describe("stored values", function()
  for case, digests in pairs(fixture.digests) do
    for name, digest in pairs(digests) do
      it(("of %s as %s have the bits that the gguf package gives"):format(case, name), function()
        assert.equal(digest, (fs.sha256(quantize(name, cases[case]))))
      end)
    end
  end

  -- Of normal values, some 5% above what the search gives; Q4_1 and Q5_1 are off by 0.078 and 0.038.
  local bounds = { IQ4_NL = 0.078, Q2_K = 0.275, Q3_K = 0.151, Q4_K = 0.0735, Q5_K = 0.0362, Q6_K = 0.018 }
  for name, bound in pairs(bounds) do
    it(("as %s are off by less than %g of their size"):format(name, bound), function()
      local values = hashed.normal("quantize errors", 16384, 0.02)
      local error = relative_error(name, values)
      assert.is_true(error < bound, ("error %g"):format(error))
    end)
  end

  -- Steps of a type on the range of its run: no value may be further off than one of them.
  local steps = { IQ4_NL = 8, Q2_K = 3, Q3_K = 6, Q4_K = 15, Q5_K = 31, Q6_K = 60, Q4_0 = 15, Q8_0 = 250 }
  for name, last in pairs(steps) do
    it("as " .. name .. " are off by a step of their run at most, whatever their scale", function()
      for _, case in ipairs { "normal", "uniform", "large", "steps", "one sign" } do
        local values, run = cases[case], 256
        local back = expand(name, quantize(name, values), count)
        for first = 1, count, run do
          local most = 0.0
          for i = first, first + run - 1 do most = math.max(most, math.abs(values[i])) end
          for i = first, first + run - 1 do
            assert.is_true(math.abs(back[i] - values[i]) <= 2 * most / last,
              ("%s: value %d is %g, not %g"):format(case, i, back[i], values[i]))
          end
        end
      end
    end)
  end

  it("that lie on a type's levels come back nearly as they were", function()
    for name, info in pairs(types) do
      if info.block_length > 1 then
        local first = relative_error(name, cases.normal)
        local again = relative_error(name, expand(name, quantize(name, cases.normal), count))
        assert.is_true(again < 0.2 * first, ("%s: %g after %g"):format(name, again, first))
      end
    end
  end)

  it("are never written where one is not finite or beyond half-length floats", function()
    for name, info in pairs(types) do
      for _, bad in ipairs { 0 / 0, math.huge, -math.huge, 7e4 } do
        local values = lists.map(cases.uniform, function(x) return x end)
        values[700] = bad
        local stored, why = quantize(name, values)
        local fits = bad == 7e4 and (name == "F32" or name == "BF16")
        assert.equal(fits, stored ~= nil, name)
        if not fits then assert.equal(bad == 7e4 and "too large" or "not finite", why, info.name) end
      end
    end
  end)

  it("of zero, and too small for any scale, become zero", function()
    for name in pairs(types) do
      for _, value in ipairs(expand(name, quantize(name, cases.zeros), count)) do assert.equal(0, value) end
      local tiny = filled(function(i) return (i % 5 - 2) * 1e-42 end)
      for _, value in ipairs(expand(name, quantize(name, tiny), count)) do assert.is_true(math.abs(value) < 1e-41) end
    end
  end)
end)
