-- Losses that the engine computes over the whole vocabulary: cross-entropy's variants, divergences from the base or
-- a teacher, mean squares. Their kernels are held beside PyTorch in spec/math/divergence_spec.lua; here they
-- run through the model.
local crucible = require "crucible"
local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora
local loss_functions = lora.loss_functions

local folder

before_each(function() folder = temp.folder() end)
after_each(temp.clean)

local function open(options, seed, path)
  local config = lists.with({
    base_model = path or tiny_model.path, lora_rank = 4, lora_dropout = 0, threads = 1, warmup_steps = 0,
  }, options or {})
  local session = assert(lora.create_session { config = lora.config.new(config), runs = folder, seed = 1 })
  for i, p in ipairs(session.core:parameters()) do
    if seed and p.name:find("lora_B$") then
      session.core:write(p.name, lists.uniform(i + seed, p.rows * p.columns, 0.125))
    end
  end
  return session
end

local function datum(seed, count, metadata)
  local tokens = lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
  local weights = lists.map(lists.fill(count - 1, 1), function(_, i) return i > 2 and (i % 3) * 0.5 or 0 end)
  return { tokens = tokens, weights = weights, metadata = metadata }
end

local function batch() return { datum(1, 10), datum(2, 7) } end

-- Every log-probability at every position of a datum: by a session, with or without its lora.
local function distributions(session, row, base)
  local every, output = {}, base and "base_candidates" or "candidates"
  for id = 0, 319 do every[id + 1] = id end
  local positions = {}
  for t = 1, #row.tokens - 1 do positions[t] = t end
  local function request() return { candidates = { all = { positions = positions, ids = every } } } end
  local found = assert(session:forward({ row }, { outputs = { output }, request = request }))
  local group, out = found[output][1].all, {}
  for t = 1, #positions do out[t] = group[t]:totable() end
  return out
end

local function cooled(logprobs, temperature)
  local sum = 0
  for _, x in ipairs(logprobs) do sum = sum + math.exp(x / temperature) end
  return lists.map(logprobs, function(x) return x / temperature - math.log(sum) end)
end

local definitions = {
  forward = function(p, q) return math.exp(p) * (p - q) end,
  reverse = function(p, q) return math.exp(q) * (q - p) end,
  jensen_shannon = function(p, q)
    local m = math.log((math.exp(p) + math.exp(q)) / 2)
    return (math.exp(p) * (p - m) + math.exp(q) * (q - m)) / 2
  end,
}

-- The loss as its definition has it, summed here over all tokens.
local function by_definition(direction, session, teacher, rows, temperature)
  local sum, units = 0, 0
  for _, row in ipairs(rows) do
    local own, theirs = distributions(session, row), distributions(teacher or session, row, not teacher)
    for t, weight in ipairs(row.weights) do
      local q, p = cooled(own[t], temperature), cooled(theirs[t], temperature)
      units = units + (weight ~= 0 and 1 or 0)
      for v = 1, #q do sum = sum + weight * definitions[direction](p[v], q[v]) end
    end
  end
  return sum / units
end

describe("kl_divergence", function()
  for _, direction in ipairs { "forward", "reverse", "jensen_shannon" } do
    it(direction .. " is what its definition says, against the base and a teacher, at any temperature", function()
      local session <close> = open(nil, 0)
      local teacher <close> = open({ lora_rank = 2 }, 50)
      for _, temperature in ipairs { 1, 2.5 } do
        for _, given in ipairs { false, teacher } do
          local found = assert(session:forward_backward(batch(), { "kl_divergence", {
            direction = direction, temperature = temperature, teacher = given or "base",
          } }))
          local expected = by_definition(direction, session, given or nil, batch(), temperature)
          assert.is_true(expected > 1e-3)
          assert.near(expected, found.loss, 1e-4 * expected)
        end
      end
    end)

    it(direction .. " has the gradient of finite differences", function()
      local session <close> = open(nil, 0)
      local teacher <close> = open(nil, 50)
      for _, given in ipairs { "base", teacher } do
        local report = loss_functions.check_gradient({ "kl_divergence", {
          direction = direction, temperature = 1.5, teacher = given,
        } }, session, batch())
        assert.is_true(report.passed, tostring(report))
        assert.is_true(report.model.norm > 1e-3)
      end
    end)
  end

  it("is 0 and flat before the first step, and every cut of a batch adds up", function()
    local fresh <close> = open()
    local found = assert(fresh:forward_backward(batch(), "kl_divergence"))
    assert.near(0, found.loss, 1e-6)
    local whole <close> = open({ lora_dropout = 0.2 }, 0)
    local cut <close> = open({ lora_dropout = 0.2, micro_batch_tokens = 1, recompute = "layer", threads = 2 }, 0)
    local one = assert(whole:forward_backward(batch(), "kl_divergence")).loss
    assert.near(one, assert(cut:forward_backward(batch(), "kl_divergence")).loss, 1e-6 * one)
    for _, p in ipairs(whole.core:parameters()) do
      assert.is_true(lists.relative(cut.core:read(p.name, "gradient"), whole.core:read(p.name, "gradient")) < 1e-4)
    end
  end)

  it("refuses a teacher that cannot be one", function()
    local session <close> = open()
    local other <close> = open(nil, nil, tiny_model.untied_path)
    local _, message, code = session:forward_backward(batch(), { "kl_divergence", { teacher = other } })
    assert.equal("argument", code)
    assert.truthy(message:find("the teacher has a vocabulary of 269 tokens, expected 320", 1, true), message)
    _, message = session:forward_backward(batch(), { "kl_divergence", { teacher = session } })
    assert.truthy(message:find("a session cannot be its own teacher", 1, true), message)
    expect.raises('teacher must be "base" or a session', session.forward_backward, session, batch(),
      { "kl_divergence", { teacher = { 1 } } })
    expect.raises('direction must be one of', session.forward_backward, session, batch(),
      { "kl_divergence", { direction = "up" } })
    other:close()
    expect.raises("its teacher is closed", session.forward_backward, session, batch(),
      { "kl_divergence", { teacher = other } })
    assert(session:forward_backward(batch()))
  end)

  it("stands beside others in a composite, twice with settings of its own", function()
    local session <close> = open(nil, 0)
    local mix = loss_functions.composite({
      "cross_entropy", "kl_divergence", { loss = { "kl_divergence", { direction = "reverse" } }, name = "reverse" },
      { "mse", { on = "logits" } },
    }, { 1, 0.5, 0.25, 0.1 })
    local found = assert(session:forward_backward(batch(), mix))
    local total = assert(session:forward_backward(batch())).loss
    for name, weight in pairs { forward = 0.5, reverse = 0.25 } do
      total = total + weight * by_definition(name, session, nil, batch(), 1)
    end
    total = total + 0.1 * assert(session:forward_backward(batch(), { "mse", { on = "logits" } })).loss
    assert.near(total, found.loss, 1e-4 * total)
    assert.is_true(loss_functions.check_gradient(mix, session, batch()).passed)
  end)
end)

describe("mse", function()
  for _, on in ipairs { "hidden", "logits" } do
    it("on " .. on .. " has the gradient of finite differences, against the base and a teacher", function()
      local session <close> = open(nil, 0)
      local teacher <close> = open(nil, 50)
      for _, given in ipairs { "base", teacher } do
        local report = loss_functions.check_gradient({ "mse", { on = on, teacher = given } }, session, batch())
        assert.is_true(report.passed and report.model.norm > 1e-3, tostring(report))
      end
    end)
  end

  it("on hidden is the mean of squared differences of hidden states", function()
    local session <close> = open(nil, 0)
    local teacher <close> = open(nil, 50)
    local row = datum(1, 10)
    local function states(of)
      local spans = {}
      for t = 1, 9 do spans[t] = { t, t } end
      local function request() return { spans = spans } end
      return assert(of:forward({ row }, { outputs = { "hidden" }, request = request })).hidden[1]
    end
    local difference = ((states(session) - states(teacher)) ^ 2):mean(2):totable()
    local expected, units = lists.dot(difference, row.weights), 0
    for _, weight in ipairs(row.weights) do units = units + (weight ~= 0 and 1 or 0) end
    local found = assert(session:forward_backward({ row }, { "mse", { teacher = teacher } }))
    assert.near(expected / units, found.loss, 1e-5 * found.loss)
  end)

  it("on targets pulls mean hidden states to values given with the row", function()
    local session <close> = open(nil, 0)
    local goal = { spans = { { 1, 3 }, { 4, 9 } }, values = { lists.uniform(5, 64, 1), lists.uniform(6, 64, 1) } }
    local rows = { datum(1, 10, { hidden_targets = goal }), datum(2, 7) }
    local loss = { "mse", { on = "targets" } }
    local found = assert(session:forward_backward(rows, loss))
    assert.same({ mse = 2 }, found.counts)
    assert.is_true(found.loss > 0.1)
    assert.is_true(loss_functions.check_gradient(loss, session, rows).passed)
  end)
end)

describe("cross_entropy", function()
  local function value(session, options)
    return assert(session:forward_backward(batch(), { "cross_entropy", options }))
  end

  it("divides by targets, by rows or by nothing", function()
    local session <close> = open(nil, 0)
    local plain = assert(session:forward_backward(batch()))
    local logprobs = assert(session:forward(batch(), { outputs = { "logprobs" } })).logprobs
    assert.equal(plain.loss, value(session, {}).loss)
    assert.near(plain.sum, value(session, { reduction = "sum" }).loss, 1e-6 * plain.sum)
    local by_row = 0
    for i, row in ipairs(batch()) do
      local units = 0
      for _, weight in ipairs(row.weights) do units = units + (weight ~= 0 and 1 or 0) end
      by_row = by_row - lists.dot(logprobs[i]:totable(), row.weights) / units / 2
    end
    local found = value(session, { reduction = "sequence_mean" })
    assert.near(by_row, found.loss, 1e-9 * by_row)
    assert.same({ cross_entropy = 2 }, found.counts)
  end)

  it("smooths labels over the whole vocabulary", function()
    local session <close> = open(nil, 0)
    local expected, units = 0, 0
    for _, row in ipairs(batch()) do
      local all = distributions(session, row)
      for t, weight in ipairs(row.weights) do
        local mean = 0
        for _, logprob in ipairs(all[t]) do mean = mean + logprob / 320 end
        expected = expected - weight * (0.9 * all[t][row.tokens[t + 1] + 1] + 0.1 * mean)
        units = units + (weight ~= 0 and 1 or 0)
      end
    end
    assert.near(expected / units, value(session, { label_smoothing = 0.1 }).loss, 1e-5)
  end)

  it("has the gradient of finite differences in all variants", function()
    local session <close> = open(nil, 0)
    for _, options in ipairs {
      {}, { reduction = "sum" }, { reduction = "sequence_mean" }, { label_smoothing = 0.1 },
      { label_smoothing = 1, reduction = "sequence_mean" },
    } do
      local report = loss_functions.check_gradient({ "cross_entropy", options }, session, batch())
      assert.is_true(report.passed, tostring(report))
    end
  end)

  it("refuses options it does not have", function()
    local session <close> = open()
    expect.raises('unknown option "smoothing"; known: reduction, label_smoothing', session.forward_backward, session,
      batch(), { "cross_entropy", { smoothing = 0.1 } })
  end)
end)
