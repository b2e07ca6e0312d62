-- The engine's memory runs out under a session of the library: an error each time that says so, nothing lost,
-- and the next try works. In builds with crucible.core.debug alone: it counts.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local expect = require "spec.support.expect"
local lora = require("crucible").lora
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local BATCH = { { tokens = { 1, 2, 3, 4, 5 } }, { tokens = { 6, 7, 8 }, weights = { 0, 1 } } }

local function live_blocks()
  collectgarbage()
  collectgarbage()
  return (select(2, native.memory_count()))
end

describe("with any one allocation of the engine failing", function()
  local folder

  before_each(function() folder = temp.folder() end)
  after_each(function()
    native.memory_fail_at(0)
    temp.clean()
  end)

  local function open()
    return lora.create_session {
      config = { base_model = tiny_model.path, lora_rank = 2, threads = 2, lora_dropout = 0.1 }, seed = 0,
      runs = folder,
    }
  end

  -- Calls with the 1st, 2nd, 3rd … allocation failing, each on a session of its own, until none is left.
  local function fail_each(call)
    do -- what a state keeps from its first call on, such as the heap of tensors, is no leak
      local session <close> = assert(open())
      assert(call(session))
    end
    local before, failures = live_blocks(), 0
    while true do
      local session = assert(open())
      native.memory_fail_at(failures + 1)
      local result, message, code = call(session)
      native.memory_fail_at(0)
      if result then
        session:close()
        assert.equal(before, live_blocks())
        return failures
      end
      expect.fails("memory", "out of memory", result, message, code)
      failures = failures + 1
      assert(call(session), "not usable after failure " .. failures)
      session:close()
      assert.equal(before, live_blocks(), "left behind after failure " .. failures)
    end
  end

  it("a step", function()
    assert.is_true(fail_each(function(session)
      session:zero_gradients()
      local result, message, code = session:forward_backward(BATCH)
      if not result then return nil, message, code end
      return session:optim_step()
    end) > 0)
  end)

  -- Operators of tensors have no other way to say so than to raise.
  it("a step of a loss in Lua", function()
    assert.is_true(fail_each(function(session)
      session:zero_gradients()
      local ran, result, message, code = pcall(session.forward_backward, session, BATCH, "focal")
      if not ran then return nil, tostring(result), "memory" end
      if not result then return nil, message, code end
      return session:optim_step()
    end) > 0)
  end)

  it("a checkpoint, which is whole or not there", function()
    assert.is_true(fail_each(function(session)
      local saved, message, code = session:save_checkpoint "one"
      native.memory_fail_at(0)
      if saved then return assert(session:load_checkpoint "one") end
      assert.same({}, session:checkpoints())
      return nil, message, code
    end) > 0)
  end)

  it("a close asks for none", function()
    local session = assert(open())
    local before = native.memory_count()
    session:close()
    assert.equal(before, (native.memory_count()))
  end)
end)
