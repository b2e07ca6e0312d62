-- Losses in Lua beside PyTorch (spec/fixtures/lua_losses.json, made by scripts/make_lua_loss_fixtures.py), beside
-- finite differences, and at the edges of what they may be given.
local expect = require "spec.support.expect"
local json = require "crucible.json"
local leaves = require "spec.support.leaves"
local loss_functions = require "crucible.lora.loss_functions"

local function read_cases()
  local file = assert(io.open("spec/fixtures/lua_losses.json", "rb"))
  local text = file:read "a"
  file:close()
  return assert(json.decode(text))
end

-- Datums of a case and what a loss sees of them.
local function from_rows(rows)
  local datums, values = {}, { logprobs = {}, base_logprobs = {}, entropy = {} }
  for i, row in ipairs(rows) do
    local tokens = {}
    for t = 1, #row.weights + 1 do tokens[t] = 10 * i + t % 4 end
    datums[i] = { tokens = tokens, weights = row.weights, metadata = row.fields }
    for name, list in pairs(values) do list[i] = row[name] end
  end
  return datums, values
end

local function loss_of(case)
  if next(case.options) == nil then return loss_functions.resolve(case.name) end
  return loss_functions.resolve { case.name, case.options }
end

local function title(case)
  local parts = { case.name }
  for name, value in pairs(case.options) do parts[#parts + 1] = ("%s = %s"):format(name, tostring(value)) end
  table.sort(parts, function(a, b) return a == case.name or b ~= case.name and a < b end)
  return table.concat(parts, ", ")
end

describe("Losses beside PyTorch", function()
  for number, case in ipairs(read_cases()) do
    it(("%d: %s"):format(number, title(case)), function()
      local datums, values = from_rows(case.rows)
      local loss = loss_of(case)
      local seen = leaves.see(loss, datums, values)
      local value, _, slopes = leaves.compute(loss, seen)
      assert.near(case.loss, value, 1e-10 * math.max(1, math.abs(case.loss)))
      local output = loss.outputs[1]
      for i, expected in ipairs(case.slopes[output]) do
        local own = slopes[i]:totable()
        for t = 1, #expected do assert.near(expected[t], own[t], 1e-10) end
      end
    end)
  end
end)

describe("Losses beside finite differences", function()
  local given = {
    dpo = { group = true }, orpo = { group = true },
    importance_sampling = { sampling_logprobs = -1.4, advantages = 0.7 },
    ppo = { sampling_logprobs = -1.4, advantages = 0.7 }, grpo = { sampling_logprobs = -1.4 },
  }

  local function pair(name)
    local datums = {}
    for i, choice in ipairs { "chosen", "rejected" } do
      local fields = { group = 1, choice = choice, reward = i }
      for field, value in pairs(given[name] or {}) do
        if field ~= "group" then fields[field] = value end
      end
      datums[i] = { tokens = { 1, 2, 3, 2, 4, 1 }, weights = { 0, 1, 1, 0.5, 1 }, metadata = fields }
    end
    return datums
  end

  for _, case in ipairs {
    { "cross_entropy" }, { "focal" }, { "focal", { gamma = 0.5 } }, { "entropy_bonus" },
    { "unlikelihood", { of = "context" } }, { "unlikelihood" }, { "dpo" }, { "dpo", { loss = "ipo" } }, { "orpo" },
    { "importance_sampling" }, { "ppo" }, { "grpo", { kl = 0.1 } },
  } do
    it(case[1] .. (case[2] and " with " .. next(case[2]) or ""), function()
      local loss = case[2] and loss_functions.resolve(case) or loss_functions.resolve(case[1])
      assert.is_true(leaves.difference(loss, leaves.see(loss, pair(case[1])), 1e-4) < 1e-6)
    end)
  end
end)

describe("Losses at the edges", function()
  local function one(fields)
    return { tokens = { 1, 2, 3 }, weights = { 1, 1 }, metadata = fields or {} }
  end

  local function finite(x) return x == x and math.abs(x) < math.huge end

  local function assert_finite(loss, datums, logprobs)
    local seen = leaves.see(loss, datums, { logprobs = logprobs, base_logprobs = logprobs })
    local value, _, slopes = leaves.compute(loss, seen)
    assert.is_true(finite(value))
    for _, slope in ipairs(slopes) do
      for _, x in ipairs(slope:totable()) do assert.is_true(finite(x)) end
    end
  end

  it("are finite at probabilities 1 and next to 0", function()
    for _, p in ipairs { 0, -1e-30, -900 } do
      local list = { { p, p } }
      for _, name in ipairs { "cross_entropy", "focal", "unlikelihood" } do
        assert_finite(loss_functions.resolve(name), { one() }, list)
      end
      assert_finite(loss_functions.resolve { "focal", { gamma = 0.5 } }, { one() }, list)
      assert_finite(loss_functions.resolve "unlikelihood", { one { unlikely = true } }, list)
      assert_finite(loss_functions.resolve "ppo", { one { sampling_logprobs = 0, advantages = -1 } }, list)
      local pair = { one { group = 1, choice = "chosen" }, one { group = 1, choice = "rejected" } }
      assert_finite(loss_functions.resolve "dpo", pair, { { p, p }, { -900, -900 } })
      assert_finite(loss_functions.resolve "orpo", pair, { { p, p }, { -900, -900 } })
    end
  end)

  it("give rewards that are all alike no advantage", function()
    local loss = loss_functions.resolve "grpo"
    local datums = { one { group = 1, reward = 3 }, one { group = 1, reward = 3 }, one { group = 2, reward = 1 } }
    local value, found, slopes = leaves.compute(loss, leaves.see(loss, datums))
    assert.equal(0, value)
    for _, slope in ipairs(slopes) do assert.same({ 0, 0 }, slope:totable()) end
    assert.same({ sum = 7, count = 3 }, found.reward)
  end)

  it("name what a row lacks", function()
    local function compute(name, datums)
      local loss = loss_functions.resolve(name)
      local seen = leaves.see(loss, datums)
      return loss.compute(seen.predictions, seen.targets)
    end
    expect.raises('loss "dpo": a datum has no group', compute, "dpo", { one() })
    expect.raises('loss "dpo": group 4 has no "rejected" datum', compute, "dpo",
      { one { group = 4, choice = "chosen" } })
    expect.raises('got "chosen" twice', compute, "dpo",
      { one { group = 4, choice = "chosen" }, one { group = 4, choice = "chosen" } })
    expect.raises('loss "ppo": advantages must be a number or 2 numbers, one a target, got 1', compute, "ppo",
      { one { sampling_logprobs = 0, advantages = { 1 } } })
    expect.raises('loss "grpo": a datum has no reward', compute, "grpo", { one { group = 1 } })
  end)

  it("count pairs, answers or tokens", function()
    local function count(given, datum) return loss_functions.resolve(given).count(datum) end
    assert.equal(1, count("dpo", one { choice = "chosen" }))
    assert.equal(0, count("dpo", one { choice = "rejected" }))
    assert.equal(2, count("ppo", one()))
    assert.equal(1, count({ "ppo", { normalisation = "sequences" } }, one()))
    assert.equal(0, count({ "grpo", { normalisation = "constant" } }, { tokens = { 1, 2 }, weights = { 0 } }))
  end)
end)
