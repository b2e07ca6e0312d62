-- Handles under the garbage collector: nothing leaks, nothing dies early.

local core = require "crucible.core"
local bind = require "spec.support.bind"

local counted, memory = pcall(require, "crucible.core.debug")

-- Blocks of the C core that are not released, in builds that count them.
local function live_blocks()
  collectgarbage()
  collectgarbage()
  if not counted then return 0 end
  local _, live = memory.memory_count()
  return live
end

-- Lua's defaults, then what CRUCIBLE_GC asks of the whole suite.
local function restore_collector()
  collectgarbage("incremental", 200, 100, 13)
  dofile("spec/support/collector.lua")
end

local function one_of_everything()
  local model = bind.model()
  local session = assert(model:session(bind.config()))
  local generation = assert(session:generate({ { 1, 2, 3 }, { 4, 5 } }, { max_tokens = 3 }))
  return model, session, generation
end

local function use(model, session, generation)
  assert.equal("hello", model:tokenizer():decode(model:tokenizer():encode("hello")))
  local result = assert(session:forward_backward(bind.batch(2, 6), { logprobs = true }))
  assert.equal(2, #result.logprobs)
  assert(session:optim_step({ lr = 1e-3 }))
  assert(session:score({ { 1, 2 } }, { { { 3 }, { 4, 5 } } }))
  while generation:step() do end
end

describe("handles under the collector", function()
  it("leave nothing behind when closed, 200 times", function()
    one_of_everything()
    local before = live_blocks()
    for _ = 1, 200 do
      local model, session, generation = one_of_everything()
      generation:close()
      session:close()
      model:close()
    end
    assert.equal(before, live_blocks())
  end)

  it("leave nothing behind when closed in the wrong order", function()
    local before = live_blocks()
    for _ = 1, 20 do
      local model, session, generation = one_of_everything()
      model:close()
      session:close()
      generation:close()
    end
    assert.equal(before, live_blocks())
  end)

  it("leave nothing behind when forgotten, 200 times", function()
    local before = live_blocks()
    for _ = 1, 200 do one_of_everything() end
    assert.equal(before, live_blocks())
  end)

  it("leave nothing behind when creation fails", function()
    local before = live_blocks()
    local model <close> = bind.model()
    local opened = live_blocks()
    for _ = 1, 20 do
      assert.is_nil((core.open_model("spec/fixtures/missing.gguf")))
      assert.is_false(pcall(model.session, model, { rank = 1 }))
    end
    assert.equal(opened, live_blocks())
    model:close()
    assert.equal(before, live_blocks())
  end)

  local modes = {
    incremental = function() collectgarbage("incremental", 200, 100, 13) end,
    generational = function() collectgarbage("generational") end,
    frantic = function() collectgarbage("incremental", 1, 1000, 1) end,
  }

  for name, set in pairs(modes) do
    it("work and leave nothing behind in " .. name .. " mode", function()
      local before = live_blocks()
      finally(restore_collector)
      set()
      for _ = 1, 10 do use(one_of_everything()) end
      assert.equal(before, live_blocks())
    end)
  end

  -- A finalizer runs inside any call that allocates, the handle's own among them.
  local function closed_while_working(handle, call)
    finally(restore_collector)
    collectgarbage("incremental", 1, 1000, 1)
    collectgarbage() -- the pause that the former mode left must not outlast the work
    setmetatable({}, { __gc = function() handle:close() end })
    for _ = 1, 1000 do
      local ok, message = pcall(call)
      if not ok then return message end
      local _ = {}
    end
  end

  local closed = {
    model = function(model) model:info() model:tokenizer():info() model:tokenizer():encode("some text") end,
    session = function(_, session) session:parameters() session:forward(bind.batch(8, 30)) end,
    generation = function(_, _, generation) generation:step() end,
  }

  for name, call in pairs(closed) do
    it("survive a finalizer that closes the " .. name .. " while it works", function()
      local model, session = one_of_everything()
      local prompts = {}
      for i = 1, 16 do prompts[i] = { i } end
      local generation = assert(session:generate(prompts, { max_tokens = 20 }))
      local handle = ({ model = model, session = session, generation = generation })[name]
      local message = closed_while_working(handle, function() call(model, session, generation) end)
      assert.truthy(tostring(message):find(name .. " is closed", 1, true), tostring(message))
    end)
  end
end)
