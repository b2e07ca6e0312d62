-- Memory of sessions: nothing is allocated after the first step of a size, nothing is left behind, and any
-- allocation may fail. In builds with crucible.core.debug alone: it counts.
local core = require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local shell = require "spec.support.shell"
local tiny_model = require "spec.support.tiny_model"

local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }
local ADAM = { lr = 1e-3, max_grad_norm = 0.1 }

local function open(options) return tiny_model.session(lists.with({ targets = ALL }, options or {})) end

-- Rows of the given lengths; another seed, other tokens.
local function batch(seed, ...)
  local rows = {}
  for i, length in ipairs({ ... }) do
    rows[i] = { tokens = lists.map(lists.uniform(seed + i, length, 32768), function(x) return x // 1 % 320 end) }
  end
  return rows
end

local function allocations() return (native.memory_count()) end

local function live_blocks()
  collectgarbage()
  collectgarbage()
  return (select(2, native.memory_count()))
end

local function train(session, rows)
  local result = assert(session:forward_backward(rows, { logprobs = true }))
  assert(session:optim_step(ADAM))
  return result.loss
end

local function generate(session, prompts, params)
  local generation <close>, message, code = session:generate(prompts, params)
  if not generation then return nil, message, code end
  local tokens = {}
  while true do
    local events
    events, message, code = generation:step()
    if not events then
      if message then return nil, message, code end
      return tokens
    end
    for _, event in ipairs(events) do tokens[#tokens + 1] = event.token or "none" end
  end
end

describe("a training step", function()
  local ways = {
    { "as it comes", {} },
    { "with dropout", { dropout = 0.1 } },
    { "with recomputation", { recompute = true } },
    { "at 2 threads", { threads = 2 } },
    { "in pieces", { micro_batch_tokens = 20 } },
    { "with DoRA", { dora = true, dropout = 0.1, rank_pattern = { { "q_proj", 3 } } } },
  }

  for _, way in ipairs(ways) do
    it("allocates nothing after the first of its size, " .. way[1], function()
      local session <close> = open(way[2])
      train(session, batch(1, 40, 7, 21))
      local before = allocations()
      for step = 1, 4 do
        train(session, batch(step, 40, 7, 21))
        train(session, batch(step, 3, 12)) -- nor a smaller one
        assert(session:forward(batch(step, 40, 7)))
        session:zero_gradients()
      end
      assert.equal(before, allocations())
    end)
  end

  -- A loss over every output; the two tensors are the caller's and are closed.
  local function train_on_outputs(session, rows)
    local questions = {}
    for i in ipairs(rows) do
      questions[i] = { positions = { 2, 1 }, counts = { 2, 1 }, ids = { 5, 6, 7 }, spans = { 1, 2 } }
    end
    assert(session:predict(rows, { train = true, questions = questions,
      outputs = { "logprobs", "entropy", "candidates", "hidden", "mean_logprobs", "base_logprobs", "base_candidates" },
      comparisons = { { kind = "reverse_kl", temperature = 2 }, { kind = "hidden_square" } } }))
    assert(session:backward())
    assert(session:optim_step(ADAM))
  end

  for _, way in ipairs(ways) do
    it("on a loss of one's own allocates nothing after the first of its size, " .. way[1], function()
      local session <close> = open(way[2])
      train_on_outputs(session, batch(1, 40, 7, 21))
      local before = allocations()
      for step = 1, 3 do
        train_on_outputs(session, batch(step, 40, 7, 21))
        train_on_outputs(session, batch(step, 3, 12))
        train(session, batch(step, 3, 12))
      end
      assert.equal(before, allocations())
    end)
  end

  it("allocates nothing after generation and scoring have used the work space", function()
    local session <close> = open()
    train(session, batch(1, 40, 7))
    assert(generate(session, { { 1, 2, 3 } }, { max_tokens = 4 }))
    assert(session:score({ { 1, 2 } }, { { { 3 }, { 4, 5 } } }))
    local before = allocations()
    train(session, batch(2, 40, 7))
    assert.equal(before, allocations())
  end)

  it("holds what was planned for it", function()
    local session <close> = open()
    local small, large = assert(session:memory({ 20 })), assert(session:memory({ 40, 40 }))
    assert.is_true(large.activations > small.activations)
    local again <close> = open({ recompute = true })
    assert.is_true(assert(again:memory({ 40, 40 })).activations < large.activations)
    local before = allocations()
    train(session, batch(1, 41))
    assert.equal(before + 1, allocations()) -- the work space, as one block
  end)
end)

describe("a life of a session", function()
  local folder

  setup(function() folder = shell.temporary_folder() end)
  teardown(function() shell.remove_tree(folder) end)

  local function live_once(options)
    local session <close> = open(options)
    train(session, batch(1, 30, 5))
    assert(session:save_lora(folder .. "/lora"))
    assert(session:save_optimizer(folder .. "/optimizer"))
    assert(session:load_lora(folder .. "/lora"))
    assert(session:load_optimizer(folder .. "/optimizer"))
    assert(generate(session, { { 1, 2, 3 }, { 4 } }, { max_tokens = 3, max_batch = 1 }))
    assert(session:score({ { 1, 2 } }, { { { 3 }, { 4, 5 } } }))
    assert(session:memory({ 4, 5 }))
  end

  it("leaves nothing behind, 20 times", function()
    local before = live_blocks()
    for i = 1, 20 do live_once({ threads = 1 + i % 3, recompute = i % 2 == 0, dora = i % 4 == 0 }) end
    assert.equal(before, live_blocks())
  end)
end)

describe("any one allocation may fail", function()
  local folder

  before_each(function() folder = shell.temporary_folder() end)

  after_each(function()
    native.memory_fail_at(0)
    shell.remove_tree(folder)
  end)

  -- Runs `call` with its first, second, ... allocation failing until it succeeds; the session is made
  -- anew for each, must do the same afterwards, and nothing may be left of it.
  local function fail_each(options, call)
    local before, failures = live_blocks(), 0
    while true do
      local session = open(options)
      native.memory_fail_at(failures + 1)
      local result, message, code = call(session)
      native.memory_fail_at(0)
      if result ~= nil then
        session:close()
        break
      end
      expect.fails("memory", "out of memory", result, message, code)
      failures = failures + 1
      assert(call(session), "the session is not usable after failure " .. failures)
      assert(train(session, batch(9, 6)))
      session:close()
      assert.equal(before, live_blocks(), "left behind after failure " .. failures)
    end
    assert.is_true(failures > 0)
  end

  for _, threads in ipairs({ 1, 3 }) do
    it("when a session is created with threads: " .. threads, function()
      local model <close> = tiny_model.open()
      local before, failures = live_blocks(), 0
      local config = { rank = 2, alpha = 4, dropout = 0, targets = ALL, threads = threads, dora = threads == 3,
        rank_pattern = { { "q_proj", 3 } } }
      while true do
        native.memory_fail_at(failures + 1)
        local session, message, code = model:session(config)
        native.memory_fail_at(0)
        if session then
          session:close()
          break
        end
        expect.fails("memory", "out of memory", session, message, code)
        failures = failures + 1
        assert.equal(before, live_blocks(), "left behind after failure " .. failures)
      end
      assert.is_true(failures > 8)
    end)
  end

  it("in a training step", function()
    fail_each({ dropout = 0.1 }, function(session) return session:forward_backward(batch(1, 20, 5)) end)
  end)

  it("in a training step of growing pieces, whose gradients are then none", function()
    local reference <close> = open()
    local expected = assert(reference:forward_backward(batch(1, 5, 20, 40))).loss
    fail_each({ micro_batch_tokens = 1 }, function(session)
      local result, message, code = session:forward_backward(batch(1, 5, 20, 40))
      local norm = 0.0
      for _, p in ipairs(session:parameters()) do norm = norm + session:norm(p.name, "gradient") end
      if not result then
        assert.equal(0, norm)
        return nil, message, code
      end
      assert.near(expected, result.loss, 1e-6 * expected)
      session:zero_gradients()
      return true
    end)
  end)

  it("in a forward pass", function()
    local reference <close> = open()
    local expected = reference:forward(batch(1, 20, 5))
    fail_each(nil, function(session)
      local result, message, code = session:forward(batch(1, 20, 5))
      assert.is_true(not result or lists.bits(result[1]) == lists.bits(expected[1]))
      return result, message, code
    end)
  end)

  it("in generation, also between its steps", function()
    local reference <close> = open()
    local prompts, params = { { 1, 2, 3 }, { 4 }, { 5, 6 } }, { max_tokens = 4, max_batch = 2, stop_ids = { 7 } }
    local expected = generate(reference, prompts, params)
    fail_each(nil, function(session)
      local tokens, message, code = generate(session, prompts, params)
      if tokens then assert.same(expected, tokens) end
      return tokens, message, code
    end)
  end)

  it("and the generation goes on when there is memory again", function()
    local reference <close> = open()
    local prompts, params = { { 1, 2, 3 }, { 4 } }, { max_tokens = 4 }
    local expected = generate(reference, prompts, params)
    local session <close> = open()
    local generation <close> = assert(session:generate(prompts, params))
    native.memory_fail_at(1)
    expect.fails("memory", "out of memory", generation:step())
    native.memory_fail_at(0)
    local tokens = {}
    for events in function() return (generation:step()) end do
      for _, event in ipairs(events) do tokens[#tokens + 1] = event.token end
    end
    assert.same(expected, tokens)
  end)

  it("in a prediction and its way back", function()
    local reference <close> = open()
    local rows, request = batch(3, 9, 4), { train = true, questions = { { spans = { 1, 3 } }, { spans = {} } },
      outputs = { "logprobs", "entropy", "hidden", "base_logprobs", "mean_logprobs" },
      comparisons = { { kind = "forward_kl" } } }
    local array = core.tensor
    local expected
    local function values_of(session)
      local tensor = session:prediction_tensor("values")
      return tensor and array.totable(tensor)
    end
    assert(reference:predict(rows, request))
    expected = values_of(reference)
    fail_each(nil, function(session)
      local answer, message, code = session:predict(rows, request)
      if not answer then return nil, message, code end
      local slopes
      slopes, message, code = session:prediction_tensor("slopes")
      if not slopes then return nil, message, code end
      local ok
      ok, message, code = session:backward()
      if not ok then return nil, message, code end
      native.memory_fail_at(0)
      assert.same(expected, values_of(session))
      return true
    end)
  end)

  it("in scoring", function()
    local prompts, continuations = { { 1, 2 }, { 3 } }, { { { 3 }, { 4, 5 } }, { { 6 }, { 7 } } }
    fail_each(nil, function(session) return session:score(prompts, continuations) end)
  end)

  it("in planning", function()
    fail_each(nil, function(session) return session:memory({ 4, 5, 6 }) end)
  end)

  it("in saving, which leaves the older file and no other (a failure once came after the rename)", function()
    local path = folder .. "/file"
    for _, save in ipairs({ "save_lora", "save_optimizer" }) do
      assert(core.fs.write_file(path, "older"))
      fail_each(nil, function(session)
        local ok, message, code = session[save](session, path)
        native.memory_fail_at(0)
        if ok then
          assert(core.fs.write_file(path, "older"))
        else
          assert.is_true(core.fs.read_file(path) == "older")
        end
        assert.same({ "file" }, core.fs.list(folder))
        return ok, message, code
      end)
    end
  end)

  it("in loading, which changes nothing then", function()
    local source <close> = open({ seed = 5 })
    train(source, batch(1, 9))
    assert(source:save_lora(folder .. "/lora"))
    assert(source:save_optimizer(folder .. "/optimizer"))
    local function state(session)
      local out = { tostring(session:step()) }
      for _, p in ipairs(session:parameters()) do
        for _, which in ipairs({ "value", "moment1", "moment2" }) do
          out[#out + 1] = lists.bits(session:read(p.name, which))
        end
      end
      return table.concat(out)
    end
    for _, name in ipairs({ "lora", "optimizer" }) do
      fail_each(nil, function(session)
        local before = state(session)
        local ok, message, code = session["load_" .. name](session, folder .. "/" .. name)
        assert.is_true(ok == true or before == state(session))
        return ok, message, code
      end)
    end
  end)
end)
