-- Predictions: what each output is, and the gradient that its slopes lead to, beside finite differences.
--
-- The tolerances are those of spec/model/gradient_spec.lua: 1e-3 of the gradient's norm.
local core = require "crucible.core"
local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"
local tiny_model = require "spec.support.tiny_model"

local array = core.tensor
local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }
local OUTPUTS = { "logprobs", "entropy", "candidates", "hidden" }
local STEP = 0.01

local function ids(seed, count)
  return lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
end

-- Rows of several lengths: half supervised; with targets of its own; a single target; nothing supervised.
local function batch()
  local half = lists.map(lists.fill(21, 1), function(_, i) return i > 10 and 1 or 0 end)
  return {
    { tokens = ids(1, 22), weights = half },
    { tokens = ids(2, 13), targets = ids(3, 13), weights = lists.uniform(4, 13, 2) },
    { tokens = ids(5, 2) },
    { tokens = ids(6, 5), weights = { 0, 0, 0, 0 } },
  }
end

-- Candidates at supervised positions and others, one position twice, a token twice; spans that overlap.
local function questions()
  return {
    { positions = { 15, 2, 15 }, counts = { 3, 1, 2 }, ids = { 5, 6, 5, 7, 8, 9 }, spans = { 3, 9, 8, 8 } },
    { positions = { 13 }, counts = { 2 }, ids = { 0, 259 }, spans = { 1, 13 } },
    {},
    { positions = { 4 }, counts = { 1 }, ids = { 11 }, spans = { 2, 4, 2, 4 } },
  }
end

local function open(name, options)
  local session = tiny_model.session(lists.with({ targets = ALL, seed = 3 }, options or {}), name)
  for i, p in ipairs(session:parameters()) do
    if p.name:find("lora_B$") then session:write(p.name, lists.uniform(i, p.rows * p.columns, 0.125)) end
  end
  return session
end

local function predict(session, outputs, more)
  return assert(session:predict(batch(), lists.with({
    outputs = outputs, questions = questions(), train = true,
  }, more or {})))
end

local function values_of(session) return array.totable(assert(session:prediction_tensor("values"))) end

-- The values of one output, a list for each datum.
local function output_of(found, values, output, width)
  local rows = {}
  for i, answer in ipairs(found.answers) do
    local count = answer.length
    if output:find("candidates") then
      count = 0
      for _, k in ipairs(questions()[i].counts or {}) do count = count + k end
    elseif output == "hidden" then
      count = answer.spans * width
    end
    rows[i] = lists.slice(values, answer[output], count)
  end
  return rows
end

-- Slopes of either sign; the sum of products with them is the loss.
local function slopes_for(values) return lists.uniform(77, #values, 1) end

local function loss_of(session, outputs, more)
  return function()
    session:zero_gradients()
    predict(session, outputs, more)
    local values = values_of(session)
    return lists.dot(values, slopes_for(values))
  end
end

local function backward(session, outputs, more)
  predict(session, outputs, more)
  local slopes = assert(session:prediction_tensor("slopes"))
  local _, _, count = array.info(slopes)
  assert(array.add(slopes, array.new(slopes_for({ n = count, table.unpack(lists.fill(count, 0)) }), "f64"), 1))
  assert(session:backward())
end

local function gradients(session)
  local out = {}
  for _, p in ipairs(session:parameters()) do out[p.name] = session:read(p.name, "gradient") end
  return out
end

local function bits_of(session)
  local out = {}
  for i, p in ipairs(session:parameters()) do out[i] = lists.bits(session:read(p.name, "gradient")) end
  return table.concat(out)
end

local function unit(values)
  local norm = lists.norm(values)
  return lists.map(values, function(x) return x / norm end)
end

local function check_gradient(session, outputs, more)
  session:zero_gradients()
  backward(session, outputs, more)
  local all = gradients(session)
  for i, p in ipairs(session:parameters()) do
    local g, x = all[p.name], session:read(p.name)
    local f, norm = gradient.of_matrix(session, p.name, loss_of(session, outputs, more)), lists.norm(g)
    local title = ("%s: norm %g"):format(p.name, norm)
    assert.is_true(norm > 0.02, title)
    assert.near(norm, gradient.along(f, x, unit(g), STEP), 1e-3 * math.max(norm, 1), title)
    local direction = unit(lists.uniform(i, #x))
    assert.near(lists.dot(g, direction), gradient.along(f, x, direction, STEP), 1e-3 * math.max(norm, 1), title)
    session:write(p.name, x)
  end
end

for _, name in ipairs({ "tiny", "tiny_untied" }) do
  describe("a prediction of " .. name, function()
    it("has the log-probabilities of forward, to the bit, and 0 where the weight is 0", function()
      local session <close> = open(name)
      local expected = assert(session:forward(batch()))
      local found = predict(session, { "logprobs" }, { train = false })
      local rows = output_of(found, values_of(session), "logprobs")
      for i, row in ipairs(expected) do
        assert.same(lists.map(row, function(x) return x == x and x or 0 end), rows[i])
      end
    end)

    it("has those of every position when they are asked for", function()
      local session <close> = open(name)
      local plain = batch()
      for _, datum in ipairs(plain) do datum.weights = nil end
      local expected = assert(session:forward(plain))
      local found = predict(session, { "logprobs", "entropy" }, { train = false, every_position = true })
      assert.same(expected, output_of(found, values_of(session), "logprobs"))
      for _, row in ipairs(output_of(found, values_of(session), "entropy")) do
        for _, value in ipairs(row) do assert.is_true(value > 0) end
      end
    end)

    it("has the base's log-probabilities beside the lora's", function()
      local session <close> = open(name)
      local base = assert(session:forward(batch(), { base = true }))
      local found = predict(session, { "logprobs", "base_logprobs", "base_candidates", "candidates" })
      local values = values_of(session)
      local rows = output_of(found, values, "base_logprobs")
      for i, row in ipairs(base) do
        assert.same(lists.map(row, function(x) return x == x and x or 0 end), rows[i])
      end
      assert.not_same(output_of(found, values, "candidates"), output_of(found, values, "base_candidates"))
    end)

    it("has the whole distribution when every token is a candidate: its sum is 1, its entropy the entropy", function()
      local session <close> = open(name)
      local every, last = {}, name == "tiny" and 319 or 268
      for id = 0, last do every[id + 1] = id end
      local tokens = ids(8, 9)
      local found = assert(session:predict({ { tokens = tokens } }, {
        outputs = { "candidates", "entropy", "logprobs" },
        questions = { { positions = { 6 }, counts = { #every }, ids = every } },
      }))
      local values, answer = values_of(session), found.answers[1]
      local sum, entropy = 0, 0
      for id = 0, last do
        local logprob = values[answer.candidates + id]
        sum, entropy = sum + math.exp(logprob), entropy - math.exp(logprob) * logprob
      end
      assert.near(1, sum, 1e-5)
      assert.near(entropy, values[answer.entropy + 5], 1e-5)
      assert.equal(values[answer.candidates + tokens[7]], values[answer.logprobs + 5])
    end)

    it("has means of the hidden states over spans", function()
      local session <close> = open(name)
      local found = assert(session:predict({ { tokens = ids(9, 8) } }, {
        outputs = { "hidden" }, questions = { { spans = { 2, 4, 2, 2, 3, 3, 4, 4 } } },
      }))
      local values, d = values_of(session), found.width
      for c = 1, d do
        local mean = (values[d + c] + values[2 * d + c] + values[3 * d + c]) / 3
        assert.near(mean, values[c], 1e-12)
      end
    end)

    for _, output in ipairs(OUTPUTS) do
      it("leads slopes of " .. output .. " to the gradient of finite differences #slow", function()
        local session <close> = open(name, { targets = { "q_proj", "down_proj" } })
        check_gradient(session, { output })
      end)
    end

    it("leads slopes of all outputs together to it #slow", function()
      local session <close> = open(name)
      check_gradient(session, { "entropy", "hidden", "logprobs", "candidates", "base_logprobs", "base_candidates" })
    end)

    it("does so with dropout, layer by layer and at every position", function()
      local session <close> = open(name, { dropout = 0.3, recompute = true, targets = { "v_proj" } })
      check_gradient(session, OUTPUTS, { every_position = true })
    end)

    it("gives cross-entropy's gradient to the bit", function()
      for _, options in ipairs({ {}, { dropout = 0.3 }, { recompute = true }, { threads = 2 } }) do
        local one <close> = open(name, options)
        local other <close> = open(name, options)
        assert(one:forward_backward(batch(), { scale = 0.25 }))
        local found = predict(other, { "logprobs" })
        local slopes = assert(other:prediction_tensor("slopes"))
        for i, datum in ipairs(batch()) do
          local length = found.answers[i].length
          local part = array.slice(slopes, 1, found.answers[i].logprobs, found.answers[i].logprobs + length - 1, 1)
          assert(array.add(part, array.new(datum.weights or lists.fill(length, 1), "f64"), -0.25))
        end
        assert(other:backward())
        assert.is_true(bits_of(one) == bits_of(other))
      end
    end)

    it("gives the same bits at 1 and 2 threads, with and without recomputation", function()
      local expected
      for _, options in ipairs({ {}, { threads = 2 }, { recompute = true }, { recompute = true, threads = 2 } }) do
        local session <close> = open(name, options)
        backward(session, { "base_candidates", table.unpack(OUTPUTS) })
        expected = expected or bits_of(session)
        assert.is_true(expected == bits_of(session))
      end
    end)

    it("can be walked back again, with other slopes", function()
      local session <close> = open(name)
      backward(session, OUTPUTS)
      local once = gradients(session)
      assert(session:backward())
      for _, p in ipairs(session:parameters()) do
        local twice = lists.map(once[p.name], function(x) return 2 * x end)
        assert.is_true(lists.relative(session:read(p.name, "gradient"), twice) < 1e-5)
      end
      session:zero_gradients()
      local slopes = assert(session:prediction_tensor("slopes"))
      array.fill(slopes, 0)
      assert(session:backward())
      for _, p in ipairs(session:parameters()) do assert.equal(0, session:norm(p.name, "gradient")) end
    end)

    it("says when a value is no number", function()
      local session <close> = open(name)
      for i = 1, 2 do
        local matrix = session:parameters()[i]
        session:write(matrix.name, lists.fill(matrix.rows * matrix.columns, 3e38))
      end
      assert.is_false(predict(session, OUTPUTS).finite)
    end)
  end)
end
