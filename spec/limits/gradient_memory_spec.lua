-- Memory of what a session is asked about its gradients: any allocation may fail, none is left behind, and
-- none is made after the first step. In builds with crucible.core.debug alone: it counts.
local core = require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local bind = require "spec.support.bind"
local expect = require "spec.support.expect"

local ADAM = { lr = 1e-2, weight_decay = 0.1, max_grad_norm = 1 }
local REQUEST = { quantiles = { 0.05, 0.5, 0.95 }, magnitudes = true }

local function live_blocks()
  collectgarbage()
  collectgarbage()
  return (select(2, native.memory_count()))
end

local function new_session()
  local session = bind.session { threads = 2, micro_batch_tokens = 24 }
  assert(session:forward_backward(bind.batch(2, 24)))
  return session
end

-- Calls with the first, second, … allocation failing, each on a session of its own, until it succeeds.
local function fail_each(call)
  local before, failures = live_blocks(), 0
  while true do
    local session = new_session()
    native.memory_fail_at(failures + 1)
    local result, message, code = call(session)
    native.memory_fail_at(0)
    if result ~= nil then
      session:close()
      break
    end
    expect.fails("memory", "out of memory", result, message, code)
    failures = failures + 1
    assert(call(session), "not usable after failure " .. failures)
    assert(session:forward_backward(bind.batch(2, 24)))
    assert(session:optim_step(ADAM))
    session:close()
    assert.equal(before, live_blocks(), "left behind after failure " .. failures)
  end
  assert.is_true(failures > 0)
end

describe("any one allocation may fail", function()
  local name = "layers.0.self_attn.q_proj.lora_A"

  after_each(function() native.memory_fail_at(0) end)

  it("while gradients are measured", function()
    fail_each(function(session) return session:statistics("gradient", REQUEST) end)
  end)

  it("while values are measured", function()
    fail_each(function() return core.statistics({ 1, 2, 3 }, REQUEST) end)
  end)

  it("when a watch begins", function()
    fail_each(function(session) return session:watch { "updates", "pieces", "turns" } end)
  end)

  it("when a watched piece is noted", function()
    fail_each(function(session)
      local watched, message, code = session:watch { "pieces" }
      if not watched then return nil, message, code end
      return session:forward_backward(bind.batch(2, 24))
    end)
  end)

  it("while singular values are computed", function()
    fail_each(function(session) return session:singular_values(name) end)
  end)

  it("when a gradient is lent", function()
    fail_each(function(session) return session:gradient_tensor(name, true) end)
  end)

  it("when a gradient is copied", function()
    fail_each(function(session) return session:gradient_tensor(name) end)
  end)
end)

describe("a step that is looked at", function()
  it("allocates nothing after the first", function()
    local session <close> = new_session()
    session:watch { "updates", "pieces", "turns" }
    local function step()
      assert(session:forward_backward(bind.batch(2, 24)))
      session:statistics("gradient", REQUEST)
      session:pieces()
      session:turns()
      session:clip(0.5)
      assert(session:optim_step(ADAM))
      session:updates()
    end
    step()
    local before = native.memory_count()
    for _ = 1, 3 do step() end
    assert.equal(before, (native.memory_count()))
  end)

  it("leaves nothing behind when the session is closed", function()
    local before = live_blocks()
    for _ = 1, 5 do
      local session <close> = new_session()
      session:watch { "updates", "pieces", "turns" }
      session:statistics("gradient", REQUEST)
      assert(session:forward_backward(bind.batch(2, 24)))
      assert(session:optim_step(ADAM))
      session:watch {}
      session:watch { "pieces" }
    end
    assert.equal(before, live_blocks())
  end)

  it("that is not looked at allocates for no watch", function()
    local session <close> = new_session()
    assert(session:optim_step(ADAM))
    local before = native.memory_count()
    for _ = 1, 3 do
      assert(session:forward_backward(bind.batch(2, 24)))
      assert(session:optim_step(ADAM))
    end
    assert.equal(before, (native.memory_count()))
  end)
end)
