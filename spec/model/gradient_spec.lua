-- The whole network's gradients beside finite differences, on both tiny models, every LoRA matrix.
--
-- The engine computes in f32: a sum of some thirty log-probabilities carries about 1e-5 of rounding, which
-- a step of h turns into about 1e-5 / h of slope; gradients here have norms from 4 to 80. With the
-- fourth-order formula and h = 0.02, beside matrices of norm 1 to 3, what is left of both errors measures
-- 1e-4 of the norm and 4e-4 of an entry. The tolerances are
--
--     along the gradient, and along a random direction   1e-3 of the gradient's norm
--     single entries                                     2e-3 of the largest entry
local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"
local tiny_model = require "spec.support.tiny_model"

local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }
local STEP = 0.02

local function ids(seed, count)
  return lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
end

-- Rows of several lengths: one whose first half is not supervised, one with targets of its own and with
-- weights of either sign, one of a single target.
local function batch()
  local half = lists.map(lists.fill(21, 1), function(_, i) return i > 10 and 1 or 0 end)
  return {
    { tokens = ids(1, 22), weights = half },
    { tokens = ids(2, 13), targets = ids(3, 13), weights = lists.uniform(4, 13, 2) },
    { tokens = ids(5, 2) },
  }
end

-- A session with branches on all projections whose B is not zero, so that A has a gradient.
local function open(name, options)
  local session = tiny_model.session(lists.with({ targets = ALL, seed = 3 }, options or {}), name)
  for i, p in ipairs(session:parameters()) do
    if p.name:find("lora_B$") then session:write(p.name, lists.uniform(i, p.rows * p.columns, 0.125)) end
  end
  return session
end

-- Σ weight · -log p. Zeroing before it also restarts dropout's masks: the same call, the same loss.
local function loss_of(session, rows)
  return function()
    session:zero_gradients()
    return assert(session:forward_backward(rows, { scale = 1 })).loss
  end
end

local function gradients(session, rows)
  loss_of(session, rows)()
  local out = {}
  for _, p in ipairs(session:parameters()) do out[p.name] = session:read(p.name, "gradient") end
  return out
end

local function largest_entry(values)
  local at = 1
  for i = 2, #values do
    if math.abs(values[i]) > math.abs(values[at]) then at = i end
  end
  return at
end

local function unit(values)
  local norm = lists.norm(values)
  return lists.map(values, function(x) return x / norm end)
end

local function check_matrix(session, rows, name, g, seed)
  local f = gradient.of_matrix(session, name, loss_of(session, rows))
  local x, norm, top = session:read(name), lists.norm(g), largest_entry(g)
  local function near(expected, slope, tolerance, what)
    assert.near(expected, slope, tolerance, ("%s along %s: norm %g"):format(name, what, norm))
  end
  assert.is_true(norm > 1, name .. " has hardly a gradient")
  near(norm, gradient.along(f, x, unit(g), STEP), 1e-3 * norm, "the gradient")
  local direction = unit(lists.uniform(seed, #x))
  near(lists.dot(g, direction), gradient.along(f, x, direction, STEP), 1e-3 * norm, "a random direction")
  for _, i in ipairs({ top, seed * 31 % #x + 1, seed * 57 % #x + 1 }) do
    near(g[i], gradient.entry(f, x, i, STEP), 2e-3 * math.abs(g[top]), "entry " .. i)
  end
  session:write(name, x)
end

local function check_all(name, options)
  local session <close> = open(name, options)
  local rows = batch()
  local all = gradients(session, rows)
  for i, p in ipairs(session:parameters()) do check_matrix(session, rows, p.name, all[p.name], i) end
end

-- Every gradient, as bits.
local function bits_of(session)
  local out = {}
  for i, p in ipairs(session:parameters()) do out[i] = lists.bits(session:read(p.name, "gradient")) end
  return table.concat(out)
end

-- The largest relative difference between the gradients of two sessions.
local function difference(one, other)
  local worst = 0.0
  for _, p in ipairs(one:parameters()) do
    local relative = lists.relative(one:read(p.name, "gradient"), other:read(p.name, "gradient"))
    worst = math.max(worst, relative == relative and relative or math.huge)
  end
  return worst
end

for _, name in ipairs({ "tiny", "tiny_untied" }) do
  describe("the gradients of " .. name, function()
    it("are what finite differences find, for every matrix #slow", function() check_all(name) end)

    it("are that with dropout too #slow", function() check_all(name, { dropout = 0.3, seed = 5 }) end)

    for _, target in ipairs(ALL) do
      it("are that when " .. target .. " alone is trained", function() check_all(name, { targets = { target } }) end)
    end

    it("have the same bits when layers are recomputed", function()
      for _, dropout in ipairs({ 0, 0.3 }) do
        local kept <close> = open(name, { dropout = dropout })
        local again <close> = open(name, { dropout = dropout, recompute = true })
        local expected = assert(kept:forward_backward(batch()))
        assert.equal(expected.loss, assert(again:forward_backward(batch())).loss)
        assert.is_true(bits_of(kept) == bits_of(again))
      end
    end)

    it("are those of the whole batch however it is cut, masks included", function()
      for _, dropout in ipairs({ 0, 0.3 }) do
        local whole <close> = open(name, { dropout = dropout, micro_batch_tokens = 4096 })
        local expected = assert(whole:forward_backward(batch(), { logprobs = true }))
        for _, tokens in ipairs({ 1, 23, 30 }) do
          local cut <close> = open(name, { dropout = dropout, micro_batch_tokens = tokens })
          local result = assert(cut:forward_backward(batch(), { logprobs = true }))
          for i, row in ipairs(expected.logprobs) do
            local same = lists.bits(row) == lists.bits(result.logprobs[i])
            assert.is_true(same, ("row %d, pieces of %d"):format(i, tokens))
          end
          assert.is_true(difference(cut, whole) < 1e-5)
        end
      end
    end)

    it("add up over calls to those of one call, masks included", function()
      for _, dropout in ipairs({ 0, 0.3 }) do
        local whole <close> = open(name, { dropout = dropout })
        local parts <close> = open(name, { dropout = dropout })
        local expected, sum = assert(whole:forward_backward(batch(), { scale = 1 })).sum, 0.0
        for _, row in ipairs(batch()) do sum = sum + assert(parts:forward_backward({ row }, { scale = 1 })).sum end
        assert.near(expected, sum, 1e-9 * math.abs(expected))
        assert.is_true(difference(parts, whole) < 1e-5)
      end
    end)

    it("grow with the scale", function()
      local one <close> = open(name)
      local half <close> = open(name)
      local full = assert(one:forward_backward(batch(), { scale = 1 }))
      local result = assert(half:forward_backward(batch(), { scale = 0.5 }))
      assert.near(full.loss / 2, result.loss, 1e-9)
      for _, p in ipairs(one:parameters()) do
        local doubled = lists.map(half:read(p.name, "gradient"), function(x) return 2 * x end)
        assert.is_true(lists.relative(doubled, one:read(p.name, "gradient")) < 1e-6)
      end
    end)

    it("come from supervised targets and what they see alone", function()
      local row = { tokens = ids(1, 20), targets = ids(2, 20), weights = lists.fill(20, 0) }
      for i = 5, 12 do row.weights[i] = 1 end
      local other = { tokens = ids(1, 20), targets = ids(3, 20), weights = row.weights }
      table.move(row.targets, 5, 12, 5, other.targets)
      table.move(ids(4, 20), 13, 20, 13, other.tokens)
      for _, dropout in ipairs({ 0, 0.3 }) do
        local one <close> = open(name, { dropout = dropout })
        local two <close> = open(name, { dropout = dropout })
        assert(one:forward_backward({ row }))
        assert(two:forward_backward({ other }))
        assert.is_true(bits_of(one) == bits_of(two))
      end
    end)

    it("do not change with rows that are not supervised", function()
      local one <close> = open(name)
      local two <close> = open(name)
      local rows = batch()
      local expected = assert(one:forward_backward(rows))
      rows[#rows + 1] = { tokens = ids(9, 15), weights = lists.fill(14, 0) }
      local result = assert(two:forward_backward(rows, { logprobs = true }))
      assert.near(expected.loss, result.loss, 1e-9)
      assert.equal(expected.supervised, result.supervised)
      assert.equal(expected.tokens + 14, result.tokens)
      for _, value in ipairs(result.logprobs[4]) do assert.is_true(value ~= value) end
      assert.is_true(difference(two, one) < 1e-5)
    end)
  end)
end

describe("dropout", function()
  local function loss(session) return assert(session:forward_backward(batch())).loss end

  it("is a function of seed, step, place in the step and position", function()
    local one <close> = open("tiny", { dropout = 0.3 })
    local two <close> = open("tiny", { dropout = 0.3 })
    local first = loss(one)
    assert.equal(first, loss(two))
    assert.not_equal(first, loss(one)) -- the second rows of the step have masks of their own
    one:zero_gradients()
    assert.equal(first, loss(one)) -- a step begun again draws the same
    one:zero_gradients()
    one:step(1)
    assert.not_equal(first, loss(one))
    one:zero_gradients()
    one:step(0)
    assert.equal(first, loss(one))
  end)

  it("differs between seeds", function()
    local one <close> = open("tiny", { dropout = 0.3 })
    local two <close> = open("tiny", { dropout = 0.3, seed = 4 })
    for _, p in ipairs(one:parameters()) do two:write(p.name, one:read(p.name)) end
    assert.not_equal(loss(one), loss(two))
  end)

  it("is off in forward, in scoring and without branches", function()
    local dropped <close> = open("tiny", { dropout = 0.3 })
    local plain <close> = open("tiny")
    assert.same(plain:forward({ batch()[3] }), dropped:forward({ batch()[3] }))
    assert.same(plain:score({ { 1, 2 } }, { { { 3, 4 } } }), dropped:score({ { 1, 2 } }, { { { 3, 4 } } }))
  end)

  it("touches nothing while B is zero", function()
    local dropped <close> = tiny_model.session({ dropout = 0.3 })
    local plain <close> = tiny_model.session()
    assert.equal(loss(plain), loss(dropped))
  end)

  it("keeps the branch's size on average #slow", function()
    local session <close> = open("tiny", { dropout = 0.3 })
    local plain <close> = open("tiny")
    local expected, total, draws = loss(plain), 0.0, 200
    for step = 1, draws do
      session:zero_gradients()
      session:step(step)
      total = total + loss(session)
    end
    assert.near(expected, total / draws, 0.1 * math.abs(expected)) -- dropout's noise bends the loss, not by much
  end)
end)
