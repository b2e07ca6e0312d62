-- HTTP transfers: many at once, driven by the caller.
local core = require "crucible.core"
local expect = require "spec.support.expect"
local fault_server = require "spec.support.fault_server"
local faults = require "spec.support.tinker_faults"
local shell = require "spec.support.shell"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"

describe("core.open_http", function()
  local server, http

  setup(function() server = fault_server.start() end)
  teardown(function() if server then server:stop() end end)
  before_each(function() http = assert(core.open_http()) end)
  after_each(function()
    http:close()
    temp.clean()
  end)

  local function it_serves(title, body)
    it(title, function()
      if not server then return pending("LuaSocket is not installed") end
      body()
    end)
  end

  local function finish(transfer)
    while not transfer:state().done do assert(http:wait(1)) end
    return transfer:state()
  end

  it_serves("sends method, header fields and body as given", function()
    local transfer = assert(http:start({ url = server:url("/echo", "echo"), headers = { "X-One: 1", "X-Two: b" } },
      "a\0b"))
    assert.equal(200, finish(transfer).status)
    local head, body = transfer:body():match("^(.-)\n\n(.*)$")
    assert.equal("a\0b", body)
    assert.truthy(head:find("^POST /echo"))
    assert.truthy(head:find("X-One: 1\nX-Two: b", 1, true))
    assert.truthy(head:find("User-Agent: crucible/" .. core._VERSION, 1, true))
    local put = assert(http:start({ url = server:url("/echo", "echo"), method = "PUT" }, ""))
    finish(put)
    assert.truthy(put:body():find("^PUT /echo"))
  end)

  it_serves("has many under way at once", function()
    local transfers, waiting = {}, assert(http:start { url = server:url("/hang", "hang") })
    for i = 1, 8 do transfers[i] = assert(http:start { url = server:url("/many" .. i) }) end
    for i = 1, 8 do
      finish(transfers[i])
      assert.is_true(transfers[i]:body() == fault_server.bytes)
    end
    assert.is_false(waiting:state().done)
    assert.equal(1, http:wait(0))
  end)

  it_serves("tells status, bytes and the head's fields", function()
    local transfer = assert(http:start { url = server:url("/state") })
    assert.same({ done = false, status = 0, received = 0, url = server:url("/state") }, transfer:state())
    local state = finish(transfer)
    assert.same({ 200, 200000, 200000 }, { state.status, state.received, state.expected })
    assert.equal('"v1"', transfer:header "etag")
    assert.equal('"v1"', transfer:header "ETag")
    assert.equal("close", transfer:header "Connection")
    assert.is_nil(transfer:header "Absent")
    assert.is_nil(transfer:header "ETa")
  end)

  it_serves("gives an answer of any status, and a failure when none came", function()
    local transfer = assert(http:start { url = server:url("/gone", "status:410") })
    local state = finish(transfer)
    assert.equal(410, state.status)
    assert.is_nil(state.code)
    assert.truthy(transfer:body():find("Something went wrong", 1, true))
    state = finish(assert(http:start { url = server:url("/reset", "reset") }))
    assert.same({ "io", true, false }, { state.code, state.transient, state.unreachable })
    assert.truthy(state.message:find("/reset", 1, true))
    state = finish(assert(http:start { url = "http://127.0.0.1:9/" }))
    assert.same({ "io", true, true }, { state.code, state.transient, state.unreachable })
  end)

  it_serves("keeps to its limits of time and size", function()
    local state = finish(assert(http:start { url = server:url("/total", "slow"), total_seconds = 0.2 }))
    assert.same({ "io", true }, { state.code, state.transient })
    state = finish(assert(http:start { url = server:url("/most"), most = 1000 }))
    assert.same({ "format", false }, { state.code, state.transient })
    assert.truthy(state.message:find("longer than 1000 bytes", 1, true))
    state = finish(assert(http:start { url = server:url("/no_redirect", "redirect:/x"), redirects = 0 }))
    assert.equal(302, state.status)
  end)

  it_serves("cancels a transfer that is closed, and all with the set", function()
    local first = assert(http:start { url = server:url("/first", "slow") })
    local second = assert(http:start { url = server:url("/second", "slow") })
    http:wait(0.01)
    first:close()
    first:close()
    expect.raises("transfer is closed", first.state, first)
    assert.equal(1, http:wait(0))
    http:close()
    assert.same({ "cancelled", true }, { second:state().code, second:state().done })
    expect.raises("http is closed", http.wait, http, 0)
    assert.equal("crucible.http (closed)", tostring(http))
    assert.equal("crucible.transfer (closed)", tostring(first))
    second:close()
  end)

  it_serves("survives handles that nobody keeps", function()
    for i = 1, 20 do
      local set = assert(core.open_http())
      assert(set:start { url = server:url("/forgotten" .. i, "slow") })
      set:wait(0)
    end
    collectgarbage()
    collectgarbage()
  end)

  it_serves("says whether a transfer is done, and whether a failure had left this machine", function()
    local transfer = assert(http:start { url = server:url("/done") })
    assert.is_false(transfer:done())
    finish(transfer)
    assert.is_true(transfer:done())
    assert.is_true(finish(assert(http:start { url = server:url("/sent", "reset") })).sent)
    assert.is_false(finish(assert(http:start { url = "http://127.0.0.1:9/" })).sent)
  end)

  it("sleeps when nothing is under way", function()
    local before = core.fs.clock()
    assert.equal(0, http:wait(0.05))
    assert.is_true(core.fs.clock() - before >= 0.04)
  end)

  it("verifies certificates", function()
    local _, status = shell.run("command -v openssl")
    if status ~= 0 or not server then return pending("there is no openssl to serve with") end
    local folder = temp.folder()
    temp.file(folder, "hello", "hello")
    shell.run(("cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=localhost "
      .. "-addext subjectAltName=DNS:localhost"):format(folder))
    local port = 20000 + core.fs.random_bytes(2):byte() * 97 % 20000
    local pipe = assert(io.popen(("unset LD_PRELOAD; cd %s && { openssl s_server -WWW -accept %d -key key -cert cert "
      .. "-naccept 40 >log 2>&1 & echo $!; }"):format(folder, port)))
    local pid = pipe:read "l"
    local url = ("https://localhost:%d/hello"):format(port)
    local trusted
    for _ = 1, 30 do -- until it listens
      trusted = assert(http:start { url = url, ca_file = folder .. "/cert" })
      if not finish(trusted).unreachable then break end
      http:wait(0.1)
    end
    local untrusted = finish(assert(http:start { url = url }))
    shell.run("kill " .. pid)
    pipe:close()
    assert.equal("hello", trusted:body(), trusted:state().message)
    assert.same({ "io", false }, { untrusted.code, untrusted.transient })
    assert.truthy(untrusted.message:find("certificate", 1, true), untrusted.message)
  end)

  it("refuses what is no request", function()
    expect.fails("argument", "expected a URL of http or https", http:start { url = "ftp://x/y" })
    expect.fails("argument", "without line breaks", http:start { url = "http://x/", headers = { "A: b\nC: d" } })
    expect.fails("argument", 'expected a header as "Name: value"', http:start { url = "http://x/", headers = { "A" } })
    expect.raises("url is missing", http.start, http, {})
    expect.raises("unknown field 'uri'", http.start, http, { uri = "x" })
    expect.raises("headers[1]: expected a string", http.start, http, { url = "http://x/", headers = { 1 } })
    expect.raises("expected 0 to 3600 seconds", http.wait, http, -1)
    expect.fails("not_found", "absent/file", http:start { url = "http://x/", file = temp.folder() .. "/absent/file" })
  end)
end)

-- libcurl repeats a request of its own accord when a connection that it kept breaks before the answer: with `once`
-- a submit was done twice because of it.
describe("a request over a connection that was kept", function()
  local server

  setup(function() server = standin.start {} end)
  teardown(function() if server then server:stop() end end)

  -- The state of the second request, whose connection is reset, and what the proxy did to it.
  local function second(options)
    local plan = { ["POST /api/v1/telemetry"] = { "ok", "reset_after", "ok" } }
    local proxy = faults.start { target = server, plan = plan }
    local http <close> = assert(core.open_http())
    local state
    for _ = 1, 2 do
      options.url = proxy.url .. "/api/v1/telemetry"
      local transfer <close> = assert(http:start(options, "{}"))
      while not transfer:done() do assert(http:wait(1)) end
      state = transfer:state()
    end
    proxy:stop()
    return state
  end

  local function count_telemetry()
    local count = 0
    for _, request in ipairs(server:requests()) do count = count + (request == "POST telemetry" and 1 or 0) end
    return count
  end

  it("is sent again unless it may leave but once", function()
    if not server then return pending("LuaSocket is not installed") end
    assert.equal(200, second({}).status)
    assert.equal(3, count_telemetry())
    local state = second { once = true }
    assert.same({ "io", true, true }, { state.code, state.transient, state.sent })
    assert.equal(5, count_telemetry())
  end)

  it("undoes compression, within the limit of size", function()
    if not server then return pending("LuaSocket is not installed") end
    local proxy = faults.start { target = server, always = true, plan = { ["GET /api/v1/healthz"] = { "zeros_gzip" } } }
    local http <close> = assert(core.open_http())
    local url = proxy.url .. "/api/v1/healthz"
    local transfer <close> = assert(http:start { url = url, compressed = true, most = 100000 })
    while not transfer:done() do assert(http:wait(1)) end
    assert.truthy(transfer:state().message:find("longer than 100000 bytes", 1, true), transfer:state().message)
    assert.equal(0, transfer:body():byte(1))
    proxy:stop()
  end)
end)

describe("core.fs.lock", function()
  after_each(temp.clean)

  it("is held by one at a time, and let go by close", function()
    local path = temp.folder() .. "/lock"
    local first = assert(core.fs.lock(path))
    assert.equal(1, select("#", core.fs.lock(path)))
    assert.is_nil(core.fs.lock(path))
    first:close()
    first:close()
    local second <close> = assert(core.fs.lock(path))
    assert.equal("crucible.lock", tostring(second))
    assert.equal("crucible.lock (closed)", tostring(first))
  end)

  it("fails where there is no folder", function()
    expect.fails("not_found", "absent/lock", core.fs.lock(temp.folder() .. "/absent/lock"))
  end)
end)
