-- crucible.core.debug, in the builds that have it: the counted allocator.

local core = require "crucible.core"
local expect = require "spec.support.expect"
local bind = require "spec.support.bind"

local found, memory = pcall(require, "crucible.core.debug")

describe("crucible.core.debug", function()
  if not found then
    it("is left out of this build", function() assert.truthy(tostring(memory):find("not found", 1, true)) end)
    return
  end

  after_each(function() memory.memory_fail_at(0) end)

  it("counts allocations and live blocks", function()
    local allocations, live = memory.memory_count()
    local model = bind.model()
    local more, held = memory.memory_count()
    assert.truthy(more > allocations)
    assert.truthy(held > live)
    model:close()
    assert.equal(live, select(2, memory.memory_count()))
  end)

  it("makes any one allocation of opening a model fail, and nothing leaks", function()
    local _, live = memory.memory_count()
    local failures = 0
    for nth = 1, 100000 do
      memory.memory_fail_at(nth)
      local model, message, code = core.open_model(bind.path)
      memory.memory_fail_at(0)
      if model then
        model:close()
        break
      end
      expect.fails("memory", "", model, message, code)
      assert.equal(live, select(2, memory.memory_count()))
      failures = nth
    end
    assert.truthy(failures > 0)
  end)

  it("makes any one allocation of a session's work fail, and the session stays usable", function()
    local session <close> = bind.session()
    local batch = bind.batch(2, 6)
    for nth = 1, 100000 do
      memory.memory_fail_at(nth)
      local result, message, code = session:forward_backward(batch)
      memory.memory_fail_at(0)
      if result then break end
      expect.fails("memory", "", result, message, code)
    end
    assert(session:forward_backward(batch))
  end)

  it("refuses a negative count", function() expect.raises("expected a count >= 0", memory.memory_fail_at, -1) end)
end)
