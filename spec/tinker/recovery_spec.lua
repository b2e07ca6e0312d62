-- Lines that break, answers that lie, servers that go: every step is applied once, in its order, or the caller
-- is told what failed.
local expect = require "spec.support.expect"
local faults = require "spec.support.tinker_faults"
local fs = require "crucible.fs"
local remote = require "spec.support.remote_sessions"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"

local batch = { remote.datum("hello world", 5), remote.datum("abcabc", 5) }
local adam = { lr = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01, max_grad_norm = 0 }

-- Kinds of server by what they make of a submit that comes twice.
local kinds = {
  { kind = "hosted", repeats = "deduplicated" },
  { kind = "hosted" }, -- not known: nothing may come twice
  { kind = "skyrl", config = { max_grad_norm = 0,
    target_modules = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" } } },
  { kind = "hatchery", config = { lora_alpha = 8 } },
  { kind = "tuft", key = "tml-secret", config = { lora_alpha = 8 } },
}

local servers = {}

local function server_of(case)
  servers[case] = servers[case]
    or standin.start { kind = case.kind, key = case.key, poll_seconds = 0.5, idle_seconds = 1800 }
  return servers[case]
end

local function session_on(case, target, options)
  local given = { repeats = case.repeats, config = case.config }
  for key, value in pairs(options or {}) do given[key] = value end
  return assert(remote.session({ url = target.url, base_model = standin.base_model or "tiny", key = case.key }, given))
end

local loss = { "cross_entropy", { reduction = "sequence_mean" } }

local function train(session, steps)
  local losses = {}
  for step = 1, steps do
    local found, message = session:forward_backward(batch, loss)
    assert(found, message)
    losses[step] = found.loss
    assert(session:optim_step(adam))
  end
  return losses
end

local function assert_same_losses(expected, found)
  assert.equal(#expected, #found)
  for step, value in ipairs(expected) do
    assert.is_true(math.abs(value - found[step]) < 1e-5, ("step %d: %.9g for %.9g"):format(step, found[step], value))
  end
end

-- What was applied to the session's model: "forward_backward …", "optim_step …" in order.
local function updates(server, session)
  local list = {}
  for _, entry in ipairs(server:applied(session.lane.model_id)) do
    if entry:find "^forward_backward" or entry:find "^optim_step" then list[#list + 1] = entry end
  end
  return list
end

describe("a remote session", function()
  teardown(function()
    for _, server in pairs(servers) do server:stop() end
    temp.clean()
  end)

  local function it_survives(title, body)
    for _, case in ipairs(kinds) do
      it(("%s (%s, repeats %s)"):format(title, case.kind, case.repeats or "auto"), function()
        local server = server_of(case)
        if not server then return pending "LuaSocket is not installed" end
        body(server, case)
      end)
    end
  end

  local function undisturbed(server, case)
    local session <close> = session_on(case, server)
    local losses = train(session, 4)
    return losses, updates(server, session)
  end

  local function disturbed(server, case, plan, options)
    local expected, applied = undisturbed(server, case)
    local proxy = faults.start { target = server, plan = plan, stall = 0.3 }
    local session <close> = session_on(case, proxy, options)
    local found = train(session, 4)
    local seen = updates(server, session)
    local happened = proxy:done()
    session:close()
    proxy:stop()
    assert.is_true(#happened > 0)
    assert_same_losses(expected, found)
    assert.same(applied, seen)
    return session
  end

  it_survives("broken and mangled answers to polls", function(server, case)
    disturbed(server, case, { ["POST /api/v1/retrieve_future"] = {
      "ok", "reset", "half", "status:500", "html", "after:502", "short", "long", "fewer", "duplicate", "ok", "short",
    } }, { retries = 40 })
  end)

  it("tells what it mended", function()
    local server = server_of(kinds[3])
    if not server then return pending "LuaSocket is not installed" end
    local session = disturbed(server, kinds[3], { ["POST /api/v1/optim_step"] = { "ok", "reset_after" } })
    assert.truthy(table.concat(session.incidents, "\n"):find("whether it was done is not known", 1, true))
  end)

  it_survives("a model that the server dropped", function(server, case)
    local expected = undisturbed(server, case)
    local session <close> = session_on(case, server)
    local found = train(session, 2)
    server:control { kill_model = session.lane.model_id }
    local rest = train(session, 2)
    assert_same_losses(expected, { found[1], found[2], rest[1], rest[2] })
  end)

  it("gives up after its patience, with one message, and is quick about what follows", function()
    local server = standin.start { kind = "hosted" }
    if not server then return pending "LuaSocket is not installed" end
    local session <close> = session_on(kinds[1], server, { patience = 0.5 })
    train(session, 1)
    server:kill()
    local started = fs.clock()
    expect.fails("io", "given up after 0.5 s without success", session:forward_backward(batch))
    assert.is_nil((session:save_checkpoint "x"))
    assert.is_true(fs.clock() - started < 5)
  end)

  it("passes a refusal on in the server's words, and goes on", function()
    local server = server_of(kinds[1])
    if not server then return pending "LuaSocket is not installed" end
    local expected = undisturbed(server, kinds[1])
    local proxy = faults.start { target = server, plan = {
      ["POST /api/v1/forward_backward"] = { "ok", "ok", "status:400" },
    } }
    local session <close> = session_on(kinds[1], proxy)
    local found = train(session, 2)
    expect.fails("argument", "the server answered 400", session:forward_backward(batch))
    local rest = train(session, 2)
    session:close()
    proxy:stop()
    assert_same_losses(expected, { found[1], found[2], rest[1], rest[2] })
  end)
end)
