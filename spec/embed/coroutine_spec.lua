-- A host that drives training by coroutines: what yields reaches the bytes that it reaches alone.
local crucible = require "crucible"
local paths = require "crucible.paths"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora

local rows = {}
for i = 1, 8 do rows[i] = { input = ("%d:"):format(i), output = i % 2 == 0 and "a" or "b" } end

describe("in a coroutine", function()
  local model

  before_each(function() model = assert(crucible.model(tiny_model.path)) end)
  after_each(function()
    model:close()
    temp.clean()
  end)

  local function new_session(seed)
    return assert(model:session {
      config = { base_model = tiny_model.path, lora_rank = 2, threads = 1, lora_dropout = 0.1 }, seed = seed,
      runs = temp.folder(),
    })
  end

  local function weights(results)
    return temp.read(paths.join(results.best_checkpoint, "adapter_model.safetensors"))
  end

  local OPTIONS = { batch_size = 2, checkpoint_every = 0, evaluate_every = 2 }
  local function with(changes)
    for name, value in pairs(OPTIONS) do changes[name] = changes[name] or value end
    return changes
  end

  -- Resumes until the end; how often it was given the turn, and what it returned.
  local function drive(body)
    local thread, turns, found = coroutine.create(body), 0
    repeat
      local ok
      ok, found = coroutine.resume(thread)
      assert(ok, found)
      turns = turns + 1
    until coroutine.status(thread) == "dead"
    return turns, found
  end

  it("callbacks, evaluators, hooks and losses may yield", function()
    local function run(pause)
      local session <close> = new_session(1)
      return weights(assert(lora.training_loop.run(session, rows, with {
        callbacks = { on_step_end = pause, on_checkpoint = pause, on_train_end = pause },
        evaluate = function() pause() return { loss = 1 } end,
        enable_gradient_hooks = true, gradient_hooks = { { "pausing", function() pause() end } },
      })))
    end
    local alone = run(function() end)
    local turns, found = drive(function() return run(coroutine.yield) end)
    assert.is_true(turns > 10)
    assert.is_true(found == alone)
  end)

  it("two runs that take turns on one model reach what each reaches alone", function()
    local function run(seed, pause)
      local session <close> = new_session(seed)
      for _ in lora.training_loop.steps(session, rows, with {}) do pause() end
      return temp.read(paths.join(session:checkpoints()[1].path, "adapter_model.safetensors"))
    end
    local alone = { run(1, function() end), run(2, function() end) }
    local threads, found = {}, {}
    for i = 1, 2 do threads[i] = coroutine.create(function() found[i] = run(i, coroutine.yield) end) end
    repeat
      for i = 1, 2 do
        if coroutine.status(threads[i]) == "suspended" then assert(coroutine.resume(threads[i])) end
      end
    until coroutine.status(threads[1]) == "dead" and coroutine.status(threads[2]) == "dead"
    assert.is_true(found[1] == alone[1] and found[2] == alone[2])
    assert.is_false(found[1] == found[2])
  end)

  it("a text comes token by token", function()
    local session <close> = new_session(1)
    local params = { max_tokens = 5, temperature = 0, stop_ids = {} }
    local alone = assert(session:sample({ "text" }, params))[1].text
    local turns, found = drive(function()
      return assert(session:sample({ "text" }, params, function() coroutine.yield() end))[1].text
    end)
    assert.equal(alone, found)
    assert.equal(6, turns)
  end)

  it("a run that is dropped closes what it has open and leaves a checkpoint", function()
    local session <close> = new_session(1)
    local thread = coroutine.create(function()
      for _ in lora.training_loop.steps(session, rows, with {}) do coroutine.yield() end
    end)
    assert(coroutine.resume(thread))
    assert(coroutine.resume(thread))
    assert.is_true(coroutine.close(thread))
    local list = assert(session:checkpoints())
    assert.equal(2, list[#list].step)
    assert(session:forward_backward { { tokens = { 1, 2, 3 } } })
  end)
end)
