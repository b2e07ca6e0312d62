-- Statistics of values beside NumPy's in float64 (spec/fixtures/gradstat.json, made by
-- scripts/make_gradstat_fixtures.py).
local bind = require "spec.support.bind"
local cjson = require "cjson"
local core = require "crucible.core"
local expect = require "spec.support.expect"

local folder = debug.getinfo(1, "S").source:match "^@(.*)train/gradstat_spec%.lua$"

local function read_json(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return cjson.decode(text)
end

local fixture = read_json(folder .. "fixtures/gradstat.json")
local FIGURES = { "norm", "rms", "mean", "std", "min", "max" }
local words = { nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge }

local function from_hex(text)
  return (text:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function same(expected, found)
  expected = words[expected] or expected
  if expected ~= expected then return found ~= found end
  if expected == found then return true end
  return math.abs(found - expected) <= 1e-9 * math.abs(expected)
end

local function check(expected, found)
  for _, name in ipairs { "count", "zeros", "nonfinite" } do assert.equal(expected[name], found[name], name) end
  for _, name in ipairs(FIGURES) do
    local message = ("%s: %s, NumPy has %s"):format(name, found[name], expected[name])
    assert.is_true(same(expected[name], found[name]), message)
  end
  assert.same(expected.magnitudes.counts, table.move(found.magnitudes, 1, #found.magnitudes, 1, {}))
  assert.equal(expected.magnitudes.least, found.magnitudes.least)
end

local function check_quantiles(expected, found)
  for i, quantile in ipairs(fixture.quantiles) do
    -- NumPy has NaN between a number and an infinity.
    local beside_infinity = expected.quantiles[i] == "nan" and expected.norm == "inf"
    assert.is_true(beside_infinity or same(expected.quantiles[i], found.quantiles[i]),
      ("quantile %g: %s, NumPy has %s"):format(quantile, found.quantiles[i], expected.quantiles[i]))
  end
end

local function measure(values)
  return assert(core.statistics(values, { quantiles = fixture.quantiles, magnitudes = true }))
end

-- The rule of `many` in make_gradstat_fixtures.py, which is exact in f32.
local function many(count)
  local pieces, chunk = {}, {}
  for first = 0, count - 1, 200 do
    for i = first, math.min(first + 199, count - 1) do
      chunk[i - first + 1] = ((((i * 2654435761) & 0xFFFFFFFF) >> 8) - 2.0 ^ 23) * 2.0 ^ -40
    end
    pieces[#pieces + 1] = string.pack(("f"):rep(math.min(200, count - first)), table.unpack(chunk))
  end
  return table.concat(pieces)
end

describe("statistics", function()
  for _, case in ipairs(fixture.cases) do
    it("are NumPy's for " .. case.title, function()
      local found = measure(from_hex(case.values))
      check(case.expected, found)
      check_quantiles(case.expected, found)
    end)
  end

  it("are NumPy's for ten million values #slow", function()
    local found = measure(many(fixture.many.count))
    check(fixture.many.expected, found)
    check_quantiles(fixture.many.expected, found)
  end)

  it("have the infinity as the quantile beside it", function()
    local found = core.statistics({ -math.huge, 1, 2, math.huge }, { quantiles = { 0, 0.1, 0.5, 0.9, 1 } })
    assert.same({ -math.huge, -math.huge, 1.5, math.huge, math.huge }, found.quantiles)
  end)

  it("come from lists as from bytes", function()
    local list = { 0.5, -1.25, 3, 0, 2 ^ -149 }
    assert.same(measure(list), measure(string.pack("fffff", table.unpack(list))))
  end)

  it("leave out what was not asked for", function()
    local found = core.statistics { 1, 2 }
    assert.is_nil(found.quantiles)
    assert.is_nil(found.magnitudes)
    assert.same({ 1.5 }, core.statistics({ 1, 2 }, { quantiles = { 0.5 } }).quantiles)
  end)

  it("find every order statistic, with ties and without", function()
    local values, sorted = {}, {}
    for i = 1, 3001 do values[i] = (i * 7919 % 1009 - 500) * 2.0 ^ (i % 5 - 40) end
    table.move(values, 1, #values, 1, sorted)
    table.sort(sorted)
    for first = 0, #values - 1, 16 * 13 do
      local quantiles = {}
      for i = 1, 16 do quantiles[i] = math.min(first + (i - 1) * 13, #values - 1) / (#values - 1) end
      local found = core.statistics(values, { quantiles = quantiles }).quantiles
      for i, quantile in ipairs(quantiles) do
        local rank = math.floor(quantile * (#values - 1) + 0.5) + 1
        assert.is_true(math.abs(found[i] - sorted[rank]) <= 1e-9 * math.abs(sorted[rank]), "rank " .. rank)
      end
    end
  end)

  it("are refused for nothing, for half a float and for quantiles outside 0 to 1", function()
    expect.raises("expected at least one value", core.statistics, {})
    expect.raises("expected at least one value", core.statistics, "")
    expect.raises("whole 4-byte floats", core.statistics, "abc")
    expect.raises("values[2]: expected a number, got string", core.statistics, { 1, "2" })
    expect.raises("quantiles[2]: expected a number from 0 to 1", core.statistics, { 1 }, { quantiles = { 0, 1.5 } })
    expect.raises("quantiles[1]: expected a number from 0 to 1", core.statistics, { 1 }, { quantiles = { 0 / 0 } })
    local seventeen = {}
    for i = 1, 17 do seventeen[i] = 0.5 end
    expect.raises("at most 16", core.statistics, { 1 }, { quantiles = seventeen })
    expect.raises("unknown field 'quantile'", core.statistics, { 1 }, { quantile = { 0.5 } })
  end)
end)

describe("statistics of a session", function()
  local request = { quantiles = { 0.05, 0.5 }, magnitudes = true }

  local function trained(threads)
    local session = bind.session { threads = threads }
    assert(session:forward_backward(bind.batch(2, 24)))
    return session
  end

  it("are those of each matrix's values, in any of its four arrays", function()
    local session <close> = trained(1)
    assert(session:optim_step { lr = 1e-2 })
    assert(session:forward_backward(bind.batch(2, 24)))
    for _, which in ipairs { "value", "gradient", "moment1", "moment2" } do
      local all = assert(session:statistics(which, request))
      for i, parameter in ipairs(session:parameters()) do
        assert.same(assert(core.statistics(session:read(parameter.name, which), request)), all[i])
      end
    end
    assert.same(session:statistics(), session:statistics "gradient")
  end)

  it("can be asked of one matrix", function()
    local session <close> = trained(1)
    local all = session:statistics("gradient", request)
    for i, parameter in ipairs(session:parameters()) do
      assert.same(all[i], session:statistics("gradient", { name = parameter.name, quantiles = request.quantiles,
        magnitudes = true }))
    end
  end)

  it("are the same bytes at any number of threads", function()
    local one <close> = trained(1)
    local four <close> = trained(4)
    local first, second = one:statistics("gradient", request), four:statistics("gradient", request)
    for i in ipairs(first) do
      for _, figure in ipairs(FIGURES) do assert.equal(first[i][figure], second[i][figure]) end
      assert.same(first[i].quantiles, second[i].quantiles)
    end
  end)
end)
