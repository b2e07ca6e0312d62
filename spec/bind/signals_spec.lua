-- Signals of this process: noted, obeyed the second time, and put back as they were.
local core = require "crucible.core"
local crucible = require "crucible"
local expect = require "spec.support.expect"
local hooked = require "spec.support.hooked"
local lists = require "spec.support.lists"
local shell = require "spec.support.shell"
local signals = require "crucible.signals"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

-- Sends a signal to this process and waits until it was sent.
local function send(name) assert(io.popen(("kill -%s $PPID"):format(name))):close() end

-- Sends it a moment later, while something else is going on.
local function send_later(name, seconds)
  return io.popen(("exec >/dev/null; sleep %g; kill -%s $PPID"):format(seconds, name))
end

describe("a watcher of signals", function()
  it("notes the first one until it is rearmed", function()
    local watcher <close> = assert(signals.install())
    assert.is_nil(watcher:pending())
    send "INT"
    assert.equal("SIGINT", watcher:pending())
    watcher:rearm()
    assert.is_nil(watcher:pending())
    send "TERM"
    assert.equal("SIGTERM", watcher:pending())
  end)

  it("is shared within a Lua state and starts afresh after the last one closed", function()
    local first = assert(signals.install())
    local second <close> = assert(signals.install())
    first:close()
    first:close()
    send "INT"
    assert.equal("SIGINT", second:pending())
    second:close()
    local third <close> = assert(signals.install())
    assert.is_nil(third:pending())
  end)

  it("cannot be had twice in a process", function()
    assert.is_true(core.signals.install())
    local watcher, message, code = signals.install()
    core.signals.restore()
    expect.fails("unsupported", "belong to another Lua state", watcher, message, code)
  end)

  -- A program of its own; `body` sees `signals` and `send`.
  local function child(body)
    local script = ([[
      local signals = require "crucible.signals"
      local function send(name) io.popen("kill -" .. name .. " $PPID"):close() end
      io.stdout:setvbuf "no"
      %s]]):format(body)
    return shell.run(shell.lua .. " -e " .. shell.quote(script))
  end

  it("lets a second signal end the process at once, by its default action", function()
    local output, status = child [[
      local watcher = signals.install()
      send "INT"
      print(watcher:pending())
      send "TERM"
      print "not reached"]]
    assert.equal(143, status)
    assert.truthy(output:find "^SIGINT\n" and not output:find("not reached", 1, true))
  end)

  it("has as much patience as was asked for", function()
    local output, status = child [[
      local watcher = signals.install(3)
      for i = 1, 3 do
        send "INT"
        print(i, watcher:pending())
      end
      watcher:rearm()
      print(watcher:pending())
      for i = 1, 3 do send "INT" end
      print "still here"
      send "INT"
      print "not reached"]]
    assert.equal(130, status)
    assert.equal("1\tSIGINT\n2\tSIGINT\n3\tSIGINT\nnil\nstill here\n", output)
    expect.raises("expected 1 to 100", core.signals.install, 0)
  end)

  it("puts back what was there before", function()
    local _, status = child [[
      signals.install():close()
      send "TERM"
      print "not reached"]]
    assert.equal(143, status)
  end)

  it("leaves an ignored signal ignored", function()
    local output, status = shell.run("trap '' TERM; " .. shell.lua .. " -e " .. shell.quote [[
      local watcher = require("crucible.signals").install()
      io.popen("kill -TERM $PPID"):close()
      print(watcher:pending())
      watcher:rearm()
      io.popen("kill -TERM $PPID"):close()
      print "reached"]])
    assert.equal("nil\nreached\n", output)
    assert.equal(0, status)
  end)
end)

describe("a signal and a session", function()
  local function rows(count)
    local out = {}
    for i = 1, count do
      out[i] = { tokens = lists.map(lists.uniform(i, 500, 32768), function(x) return x // 1 % 320 end) }
    end
    return out
  end

  -- Calls again and again until a signal falls into a call, sending another when one fell between.
  local function until_cancelled(watcher, call)
    for _ = 1, 200 do
      local pipe = send_later("INT", 0.03)
      local result, message, code
      repeat result, message, code = call() until code or watcher:pending()
      pipe:close()
      if code then return result, message, code end
      watcher:rearm()
    end
    error "no signal fell into a call"
  end

  it("cancels the call in progress, and no other", function()
    local session <close> = tiny_model.session()
    local watcher <close> = assert(signals.install())
    local batch = rows(20)
    core.signals.cancels(session)
    expect.fails("cancelled", "cancelled", until_cancelled(watcher, function() return session:forward(batch) end))
    assert.truthy(session:forward(rows(1)))
    watcher:rearm()
    core.signals.cancels(nil)
    send "INT"
    assert.truthy(session:forward(rows(1)))
  end)

  it("cancels whichever of several is computing", function()
    local first <close> = tiny_model.session()
    local second <close> = tiny_model.session()
    local watcher <close> = assert(signals.install())
    core.signals.cancels(first, second)
    for _, session in ipairs { second, first } do
      local batch = rows(20)
      expect.fails("cancelled", "cancelled", until_cancelled(watcher, function() return session:forward(batch) end))
      watcher:rearm()
      assert.truthy(session:forward(rows(1)))
    end
    core.signals.cancels()
  end)

  it("is not remembered when the session is closed", function()
    local watcher <close> = assert(signals.install())
    local session = tiny_model.session()
    core.signals.cancels(session)
    session:close()
    send "INT"
    assert.equal("SIGINT", watcher:pending())
    assert.has_error(function() core.signals.cancels(session) end)
  end)
end)

describe("a run and a signal", function()
  before_each(hooked.begin)
  after_each(hooked.finish)

  local function interrupt_at(step, name)
    return { on_step_end = function(event) if event.step == step then send(name) end end }
  end

  local function train(session, options)
    options.batch_size = 1
    return crucible.lora.training_loop.run(session, hooked.rows(6), options)
  end

  for _, name in ipairs { "INT", "TERM" } do
    it(("ends after its step with a checkpoint at SIG%s, and can go on"):format(name), function()
      local session <close> = hooked.open()
      local results = assert(train(session, { signals = true, callbacks = interrupt_at(3, name) }))
      assert.equal("interrupted", results.status)
      assert.equal("SIG" .. name, results.reason)
      assert.equal(130, results.exit_code)
      assert.equal(3, results.total_steps)
      assert.equal("step_000003", results.checkpoints[1].name)
      local again = assert(train(session, { resume = true }))
      assert.equal("finished", again.status)
      assert.equal(0, again.exit_code)
    end)
  end

  it("gives the signals back, also when it fails", function()
    local session <close> = hooked.open()
    local callbacks = { on_step_end = function() error "x" end }
    assert.has_error(function() train(session, { signals = true, callbacks = callbacks }) end)
    assert.is_true(core.signals.install())
    core.signals.restore()
  end)

  it("are no business of a run that was not told so: the host's own handling stays", function()
    local script = [[
      local crucible = require "crucible"
      local session = assert(crucible.lora.create_session {
        config = { base_model = %q, lora_rank = 2 }, runs = %q,
      })
      crucible.lora.training_loop.run(session, { { input = "a:", output = "b" } }, { callbacks = {
        on_step_end = function() io.popen("kill -TERM $PPID"):close() end,
      } })
      print "not reached"]]
    local folder = temp.folder()
    local output, status = shell.run(shell.lua .. " -e " .. shell.quote(script:format(tiny_model.path, folder)))
    assert.equal(143, status)
    assert.is_nil(output:find("not reached", 1, true))
  end)

  it("cuts an evaluation short and saves", function()
    local session <close> = hooked.open()
    local results = assert(train(session, { signals = true, evaluate_every = 2, evaluate = function(tuned)
      local result, message, code
      local batch = {}
      for i = 1, 20 do batch[i] = { tokens = lists.fill(500, i) } end
      local watcher <close> = assert(signals.install())
      for _ = 1, 200 do
        local pipe = send_later("INT", 0.03)
        repeat result, message, code = tuned:forward(batch) until code or watcher:pending()
        pipe:close()
        if code then break end
        watcher:rearm()
      end
      return result and {}, message, code
    end }))
    assert.equal("interrupted", results.status)
    assert.equal(2, results.total_steps)
    assert.equal(0, #results.evaluations)
    assert.equal("step_000002", results.checkpoints[1].name)
  end)
end)

describe("a session that is cancelled from Lua", function()
  before_each(hooked.begin)
  after_each(hooked.finish)

  it("ends sampling between two tokens and is usable again", function()
    local session <close> = hooked.open()
    local tokens = 0
    local found, message, code = session:sample({ "one:" }, { temperature = 0, max_tokens = 20, stop_ids = {} },
      function()
        tokens = tokens + 1
        if tokens == 3 then session:cancel() end
      end)
    expect.fails("cancelled", "cancelled", found, message, code)
    assert.equal(3, tokens)
    assert.equal(1, #assert(session:sample({ "one:" }, { max_tokens = 2 })))
  end)

  it("ends a run before its next step, with what it learnt kept", function()
    local session <close> = hooked.open()
    local results, message, code, partial = crucible.lora.training_loop.run(session, hooked.rows(6), {
      batch_size = 1, callbacks = { on_step_end = function(event) if event.step == 2 then session:cancel() end end },
    })
    expect.fails("cancelled", "checkpoint step_000002 kept", results, message, code)
    assert.equal("interrupted", partial.status)
    assert.equal(130, partial.exit_code)
  end)
end)
