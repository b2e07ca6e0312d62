-- The remote engine on lines and servers that go wrong: every fault ends in success or in one clear error,
-- and what the server has applied in the end is what was asked for, neither more nor less.
local faults = require "spec.support.tinker_faults"
local remote = require "spec.support.remote"
local shell = require "spec.support.shell"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"

local PASS, STEP = "POST /api/v1/forward_backward", "POST /api/v1/optim_step"
local POLL, SAVE = "POST /api/v1/retrieve_future", "POST /api/v1/save_weights"
local MODEL, HELLO = "POST /api/v1/create_model", "POST /api/v1/create_session"

-- How each kind of server takes a submit that it has seen, as the client is told it.
local kinds = {
  hosted = { repeats = "deduplicated", reduction = "sum", alpha = 32, order = "number" },
  hatchery = { repeats = "deduplicated", reduction = "token_mean", alpha = 8 },
  skyrl = { repeats = "ignored", reduction = "sequence_mean", alpha = 32 },
  tuft = { repeats = "refused", reduction = "sum", alpha = 8 },
}

-- A port that nobody listens on.
local function free_port()
  local listener = assert(require("socket").bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return port
end

describe("the remote engine behind a proxy that goes wrong", function()
  local servers, proxy

  setup(function()
    servers = {}
    for kind, known in pairs(kinds) do
      servers[kind] = standin.start { kind = kind, alpha = known.alpha, poll_seconds = 0.2, idle_seconds = 1800 }
    end
  end)
  teardown(function()
    for _, server in pairs(servers) do server:stop() end
    temp.clean()
  end)
  after_each(function()
    if proxy then proxy:stop() end
    proxy = nil
  end)

  local function start_proxy(kind, options)
    options.target, options.stall = servers[kind], options.stall or 0.05
    proxy = faults.start(options)
    return proxy
  end

  local function open(kind, url, options)
    local given = { repeats = kinds[kind].repeats, reduction = kinds[kind].reduction, order = kinds[kind].order,
      config = remote.config { lora_alpha = kinds[kind].alpha } }
    for name, value in pairs(options or {}) do given[name] = value end
    return remote.session(url, given)
  end

  -- Losses and what was applied, where nothing goes wrong.
  local known = {}
  local function expected(kind, steps)
    known[kind] = known[kind] or {}
    if not known[kind][steps] then
      local session <close> = assert(open(kind, servers[kind].url))
      local losses = assert(remote.train(session, steps))
      known[kind][steps] = { losses = losses, applied = servers[kind]:applied(session:describe().remote.model_id) }
    end
    return known[kind][steps]
  end

  local function check(kind, session, losses, steps, title)
    local clean = expected(kind, steps)
    assert.same(clean.losses, losses, title)
    assert.same(clean.applied, servers[kind]:applied(session:describe().remote.model_id), title)
  end

  local function it_serves(title, body)
    it(title, function()
      if not next(servers) then return pending("LuaSocket is not installed") end
      body()
    end)
  end

  for _, kind in ipairs { "hosted", "skyrl", "tuft" } do
    it_serves("trains as if nothing had happened, whichever request meets whichever fault, on " .. kind, function()
      local requests = kind == "hosted" and { PASS, STEP, POLL, SAVE, MODEL, HELLO } or { PASS, STEP, POLL }
      for _, request in ipairs(requests) do
        local once = request == MODEL or request == HELLO
        for _, fault in ipairs(faults.passing) do
          start_proxy(kind, { plan = { [request] = once and { fault } or { "ok", fault, "ok", fault } } })
          local title = ("%s, %s, %s"):format(kind, request, fault)
          local session <close> = assert(open(kind, proxy.url))
          local losses, message = remote.train(session, 2)
          assert.truthy(losses, title .. ": " .. tostring(message))
          check(kind, session, losses, 2, title)
          session:close()
          proxy:stop()
          proxy = nil
        end
      end
    end)
  end

  for _, kind in ipairs { "hosted", "hatchery", "skyrl", "tuft" } do
    it_serves("#slow applies 100 steps exactly once through 200 faults, on " .. kind, function()
      start_proxy(kind, { random = { seed = 11, share = 0.4, most = 200, kinds = faults.passing }, stall = 0.02 })
      local session <close> = assert(open(kind, proxy.url, { patience = 60, retries = 60 }))
      local losses, message = remote.train(session, 100)
      assert.truthy(losses, message)
      assert.equal(200, #proxy:done())
      check(kind, session, losses, 100, kind)
    end)
  end

  -- Faults that do not pass: one error, which says what came.
  local lasting = {
    { "status:409", PASS, "injected 409" }, { "status:403", HELLO, "injected 403" },
    { "html", PASS, "forward_backward" }, { "html", HELLO, "create_session" }, { "status:500", STEP, "injected 500" },
    { "null", POLL, "not a number" }, { "short", POLL, "10 log%-probabilities" },
    { "long", POLL, "12 log%-probabilities" }, { "fewer", POLL, "1 output" }, { "zeros", POLL, "longer than" },
    { "zeros_gzip", POLL, "longer than" },
    { "reset", PASS, "forward_backward" }, { "stall", PASS, "forward_backward" }, { "half", POLL, "create_model" },
  }

  for _, case in ipairs(lasting) do
    it_serves(("says in one error what it met: %s of %s"):format(case[1], case[2]:match "[%w_]+$"), function()
      start_proxy("hosted", { always = true, plan = { [case[2]] = { case[1] } } })
      local session, message, code = open("hosted", proxy.url, { patience = 1, retries = 2 })
      local losses
      if session then losses, message, code = remote.train(session, 1) end
      assert.is_nil(losses)
      assert.equal("string", type(code))
      assert.is_true(#message < 700, message)
      assert.truthy(message:find(proxy.url, 1, true), message)
      assert.truthy(message:find(case[3]), message)
      if session then session:close() end
    end)
  end

  it_serves("does not trust a certificate of another name", function()
    local _, status = shell.run "command -v openssl"
    if status ~= 0 then return pending("there is no openssl to serve with") end
    local folder = temp.folder()
    shell.run(("cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=elsewhere "
      .. "-addext subjectAltName=DNS:elsewhere"):format(folder))
    local port = free_port()
    local pipe = assert(io.popen(("unset LD_PRELOAD; cd %s && { openssl s_server -www -accept %d -key key -cert cert "
      .. ">log 2>&1 & echo $!; }"):format(folder, port)))
    local pid = pipe:read "l"
    local session, message, code
    for _ = 1, 300 do -- until it listens
      session, message, code = remote.session(("https://localhost:%d"):format(port),
        { ca_file = folder .. "/cert", patience = 0.1 })
      if not message:find("connect", 1, true) then break end
    end
    shell.run("kill " .. pid)
    pipe:close()
    assert.is_nil(session)
    assert.equal("io", code)
    assert.truthy(message:find("localhost", 1, true), message)
    assert.truthy(message:find("certificate", 1, true), message)
  end)
end)
