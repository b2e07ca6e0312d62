-- Ctrl-C at the prompt: what is running ends, and everything goes on afterwards.
local interrupt = require "crucible.repl.interrupt"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

-- A program of its own whose call is interrupted after a while; `body` sees `interrupt`, `later(seconds)` and `session`.
local function child(body)
  local script = ([[
    local crucible = require "crucible"
    local interrupt = require "crucible.repl.interrupt"
    local session = assert(crucible.lora.create_session {
      config = { base_model = %q, threads = 1, lora_rank = 2 }, runs = %q,
    })
    local function later(seconds) os.execute(("(sleep %%g; kill -INT %%s) &"):format(seconds, PID)) end
    PID = io.open("/proc/self/stat"):read "n"
    io.stdout:setvbuf "no"
    %s]]):format(tiny_model.path, temp.folder(), body)
  return shell.run(shell.lua .. " -e " .. shell.quote(script))
end

after_each(temp.clean)

describe("a guarded call", function()
  it("gives its results, and what it raised", function()
    assert.same({ true, 1, nil, 3 }, { interrupt.guard(function(...) return ... end, 1, nil, 3) })
    local ok, message, interrupted, trace = interrupt.guard(function() error("x", 0) end)
    assert.same({ false, "x", false }, { ok, message, interrupted })
    assert.truthy(trace:find("stack traceback", 1, true))
  end)

  it("leaves no hook and no handler behind", function()
    interrupt.guard(function() end)
    assert.is_nil(debug.gethook())
    local core = require "crucible.core"
    assert.is_true(core.signals.install())
    core.signals.restore()
    assert.is_nil(require("crucible.download").unwanted)
    assert.is_nil(require("crucible.adapters.local.session").on_open)
  end)

  it("ends a loop of Lua", function()
    local output, status = child [[
      later(0.3)
      print(interrupt.guard(function() while true do end end))
      print(interrupt.guard(function() return "again" end))]]
    assert.equal(0, status, output)
    assert.truthy(output:find("^false\tinterrupted\ttrue\t"), output)
    assert.truthy(output:find("true\tagain\n$"), output)
  end)

  it("ends sampling and leaves the session usable", function()
    local output, status = child [[
      later(0.5)
      local ok, message, interrupted = interrupt.guard(function()
        while true do
          local found, why, code = session:sample({ "Hello" }, { max_tokens = 20 })
          if code == "cancelled" then return "cancelled" end
        end
      end)
      print(ok and message or interrupted)
      print(#session:sample({ "Hello" }, { max_tokens = 2 }))]]
    assert.equal(0, status, output)
    assert.truthy(output == "true\n1\n" or output == "cancelled\n1\n", output)
  end)

  it("pauses a run, which goes on to where it would have come", function()
    local output, status = child [[
      local rows = {}
      for i = 1, 4 do rows[i] = { input = "Q" .. i .. ":", output = ("yes "):rep(60) } end
      local run = assert(crucible.lora.training_loop.start(session, rows, { max_steps = 20000, checkpoint_every = 0 }))
      later(0.5)
      local ok, found, message, code = interrupt.guard(function() return run:go(20000) end)
      print(ok, found, code)
      local step = run.state.step
      print(run:go(2).step - step, run.finished)
      print(run:finish().status)]]
    assert.equal(0, status, output)
    assert.equal("true\tnil\tcancelled\n2\tfalse\nfinished\n", output)
  end)

  it("ends a run that may not pause with a checkpoint", function()
    local output, status = child [[
      local rows = {}
      for i = 1, 4 do rows[i] = { input = "Q" .. i .. ":", output = ("yes "):rep(60) } end
      local ok, found, message, code, partial = interrupt.guard(function()
        return crucible.lora.training_loop.run(session, rows, { max_steps = 50, checkpoint_every = 0, callbacks = {
          on_step_end = function(event) if event.step == 3 then io.popen("kill -INT " .. PID):close() end end,
        } })
      end)
      print(ok, found, code, partial and #partial.checkpoints)
      print(#session:sample({ "Hello" }, { max_tokens = 2 }))]]
    assert.equal(0, status, output)
    assert.equal("true\tnil\tcancelled\t1\n1\n", output)
  end)
end)
