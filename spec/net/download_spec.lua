-- Downloads from a server that goes wrong: what comes under the final name is the file or nothing.
local core = require "crucible.core"
local download = require "crucible.download"
local expect = require "spec.support.expect"
local fault_server = require "spec.support.fault_server"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local fs = core.fs
local bytes = fault_server.bytes
local SHA256 = fs.sha256(bytes)

describe("a download", function()
  local server, folder

  setup(function() server = fault_server.start() end)
  teardown(function() if server then server:stop() end end)
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  local function fetch(path, plan, options)
    local given = { url = server:url(path, plan), to = folder .. "/file", backoff = 0.01 }
    for name, value in pairs(options or {}) do given[name] = value end
    return download.fetch(given)
  end

  local function assert_good(path, message)
    assert.equal(folder .. "/file", path, message)
    assert.is_true(temp.read(path) == bytes)
    assert.same({ ".file.lock", "file" }, fs.list(folder))
  end

  local function assert_nothing_named()
    assert.is_nil(fs.stat(folder .. "/file"))
  end

  -- Every test needs LuaSocket for the server.
  local function it_serves(title, body)
    it(title, function()
      if not server then return pending("LuaSocket is not installed") end
      body()
    end)
  end

  it_serves("gives the path of the file, whole and alone", function()
    assert_good(fetch("/plain"))
    assert_good(fetch("/checked", "ok", { sha256 = SHA256, size = #bytes }))
  end)

  it_serves("asks nobody for a file that is there", function()
    assert_good(fetch("/once", "ok", { sha256 = SHA256 }))
    assert_good(fetch("/once", "ok", { sha256 = SHA256:upper() }))
    assert_good(fetch("/once", "ok"))
    assert.equal(1, #server:requests("/once"))
  end)

  it_serves("replaces a file of that name that has another checksum", function()
    temp.file(folder, "file", "not it")
    assert_good(fetch("/replaced", "ok", { sha256 = SHA256 }))
  end)

  it_serves("makes the folder of the file", function()
    local path = folder .. "/a/b/file"
    assert.equal(path, fetch("/deep", "ok", { to = path }))
    assert.is_true(temp.read(path) == bytes)
  end)

  describe("that is cut", function()
    it_serves("goes on where the bytes ended", function()
      assert_good(fetch("/cut", "drop:30,ok"))
      assert.same({ "GET /cut range=- if-range=- auth=-", 'GET /cut range=bytes=60000- if-range="v1" auth=-' },
        server:requests("/cut"))
    end)

    it_serves("again and again, goes on each time", function()
      assert_good(fetch("/cuts", "drop:30,drop:50,drop:50,ok", { sha256 = SHA256 }))
      assert.equal('GET /cuts range=bytes=165000- if-range="v1" auth=-', server:requests("/cuts")[4])
    end)

    it_serves("goes on in another process, too", function()
      expect.fails("io", "/later", fetch("/later", "drop:30,ok", { retries = 0 }))
      assert_nothing_named()
      assert.equal(60000, fs.stat(folder .. "/file.part").size)
      assert_good(fetch("/later", "drop:30,ok"))
      assert.equal('GET /later range=bytes=60000- if-range="v1" auth=-', server:requests("/later")[2])
    end)

    it_serves("starts anew when the file changed meanwhile", function()
      assert_good(fetch("/changed", "drop:30,fresh"))
      assert.equal(2, #server:requests("/changed"))
    end)

    it_serves("starts anew when nothing shows that the bytes are of one file", function()
      assert_good(fetch("/untagged", "drop:30:none,noetag"))
      assert.equal("GET /untagged range=- if-range=- auth=-", server:requests("/untagged")[2])
    end)

    it_serves("goes on without a tag when a checksum will show", function()
      assert_good(fetch("/untagged_sum", "drop:30:none,noetag", { sha256 = SHA256 }))
      assert.equal("GET /untagged_sum range=bytes=60000- if-range=- auth=-", server:requests("/untagged_sum")[2])
    end)

    it_serves("starts anew at a server that knows no ranges", function()
      assert_good(fetch("/norange", "drop:30,norange"))
    end)

    it_serves("refuses bytes of another place", function()
      expect.fails("format", "asked for the bytes from 60000, the server sent those from 5",
        fetch("/wrong", "drop:30,wrong"))
      assert_nothing_named()
    end)

    it_serves("with a start of another file is fetched whole in the end", function()
      temp.file(folder, "file.part", ("x"):rep(1000))
      assert_good(fetch("/poisoned", "ok", { sha256 = SHA256 }))
      assert.same({ "GET /poisoned range=bytes=1000- if-range=- auth=-", "GET /poisoned range=- if-range=- auth=-" },
        server:requests("/poisoned"))
    end)

    it_serves("too often, fails with the cause and keeps what came", function()
      local path, message, code = fetch("/hopeless", "drop:10", { retries = 2 })
      expect.fails("io", "(3 attempts)", path, message, code)
      assert.equal(3, #server:requests("/hopeless"))
      assert_nothing_named()
      assert.is_truthy(fs.stat(folder .. "/file.part"))
    end)
  end)

  describe("of a range past the end (416)", function()
    it_serves("takes a part that is the whole file", function()
      temp.file(folder, "file.part", bytes)
      assert_good(fetch("/complete", "ok", { sha256 = SHA256 }))
    end)

    it_serves("drops a part that is too long", function()
      temp.file(folder, "file.part", bytes .. "more")
      assert_good(fetch("/toolong", "ok", { sha256 = SHA256 }))
      assert.equal(2, #server:requests("/toolong"))
    end)
  end)

  for _, status in ipairs { 429, 500, 503 } do
    it_serves(("tries again after %d"):format(status), function()
      assert_good(fetch("/" .. status, ("status:%d,ok"):format(status)))
    end)
  end

  it_serves("tries again after a reset", function() assert_good(fetch("/reset", "reset,ok")) end)

  it_serves("waits as long as Retry-After says", function()
    local waited = 0
    assert_good(fetch("/patient", "retry:429:1,ok", {
      progress = function(now) if now.state == "waiting" then waited = math.max(waited, now.seconds) end end,
    }))
    assert.is_true(waited > 0.5 and waited <= 1)
  end)

  it_serves("does not wait for an hour", function()
    expect.fails("io", "it asks to wait 3600 s", fetch("/impatient", "retry:503:3600"))
  end)

  it_serves("does not try again what will not change", function()
    expect.fails("not_found", "the server answered 404: Something went wrong", fetch("/404", "status:404"))
    expect.fails("io", "the server answered 403", fetch("/403", "status:403"))
    assert.equal(1, #server:requests("/404"))
    assert_nothing_named()
    assert.same({ ".file.lock" }, fs.list(folder))
  end)

  it_serves("with a wrong checksum is refused and dropped", function()
    expect.fails("format", "expected " .. SHA256, fetch("/sum", "other", { sha256 = SHA256 }))
    assert.same({ ".file.lock" }, fs.list(folder))
  end)

  it_serves("of a wrong size is refused", function()
    expect.fails("format", "expected a file of 5 bytes, the server announces 200000",
      fetch("/size", "ok", { size = 5 }))
    assert_nothing_named()
  end)

  it_serves("follows a redirect, leaving secrets with the first host", function()
    local place = server:url("/target"):gsub("127%.0%.0%.1", "localhost"):gsub("%?.*", "")
    assert_good(fetch("/moved", "redirect:" .. place, { headers = { Authorization = "Bearer secret" } }))
    assert.same({ "GET /moved range=- if-range=- auth=Bearer secret" }, server:requests("/moved"))
    assert.same({ "GET /target range=- if-range=- auth=-" }, server:requests("/target"))
  end)

  it_serves("does not follow redirects for ever", function()
    expect.fails("io", "/circle", fetch("/circle", "circle"))
  end)

  it_serves("does not follow a redirect to a file of this machine", function()
    local path, _, code = fetch("/local", "redirect:file:///etc/passwd")
    assert.is_nil(path)
    assert.equal("argument", code)
    assert_nothing_named()
  end)

  describe("from a server that lies about the length", function()
    it_serves("is refused when fewer bytes come, every time", function()
      expect.fails("io", "/lie_long", fetch("/lie_long", "long:10", { retries = 1 }))
      assert_nothing_named()
    end)

    it_serves("is refused when the announced length is not the file's", function()
      expect.fails("format", "expected a file of 200000 bytes, the server announces 199990",
        fetch("/lie_short", "lie:-10", { size = #bytes }))
      expect.fails("format", "expected " .. SHA256, fetch("/lie_sum", "lie:-10", { sha256 = SHA256 }))
      assert_nothing_named()
    end)
  end)

  it_serves("is no HTML page, unless one is wanted", function()
    expect.fails("format", "expected a file, the server sent an HTML page", fetch("/page", "html"))
    assert_nothing_named()
    assert.equal(folder .. "/file", fetch("/page", "html", { html = true }))
  end)

  it_serves("is no larger than allowed", function()
    expect.fails("format", "longer than 1000 bytes", fetch("/large", "ok", { max_bytes = 1000 }))
    assert_nothing_named()
  end)

  it_serves("gives up on a server that says nothing", function()
    expect.fails("io", "/hang", fetch("/hang", "hang", { idle_timeout = 1, retries = 0 }))
  end)

  it_serves("tells how far it is, and stops when told so", function()
    local last = 0
    expect.fails("cancelled", "cancelled", fetch("/slow", "slow,ok", {
      progress = function(now)
        if now.state ~= "receiving" then return end
        assert.is_true(now.received >= last)
        last = now.received
        if last > 0 then assert.equal(#bytes, now.total) end
        return last < 20000
      end,
    }))
    assert.is_true(last >= 20000 and last < #bytes)
    assert_nothing_named()
    assert_good(fetch("/slow", "slow,ok"))
    assert.truthy(server:requests("/slow")[2]:find("range=bytes=", 1, true))
  end)

  it_serves("stops between attempts, too", function()
    expect.fails("cancelled", "cancelled", fetch("/stop_waiting", "status:500", {
      backoff = 30, progress = function(now) return now.state ~= "waiting" end,
    }))
  end)

  it_serves("waits for another process that fetches the same file", function()
    local script = temp.file(folder, "other.lua", ([[
      local download = require "crucible.download"
      print(assert(download.fetch { url = %q, to = %q }))
    ]]):format(server:url("/shared", "slow"), folder .. "/file"))
    local pipe = assert(io.popen("unset LD_PRELOAD; exec lua5.4 " .. shell.quote(script) .. " 2>&1"))
    local path, message = fetch("/shared", "slow")
    local printed = pipe:read "a"
    pipe:close()
    if os.getenv "LD_PRELOAD" then return pending("a sanitized module needs its library ahead") end
    assert.equal(folder .. "/file\n", printed)
    assert.equal(folder .. "/file", path, message)
    assert.is_true(temp.read(path) == bytes)
    assert.equal(1, #server:requests("/shared"))
  end)

  it_serves("says that it waits, and can be stopped, while the file is locked", function()
    local lock <close> = assert(fs.lock(folder .. "/.file.lock"))
    assert.is_nil(fs.lock(folder .. "/.file.lock"))
    local states = {}
    expect.fails("cancelled", "cancelled", fetch("/locked", "ok", {
      progress = function(now)
        states[#states + 1] = now.state
        return #states < 2
      end,
    }))
    assert.same({ "locked", "locked" }, states)
    assert.equal("crucible.lock", tostring(lock))
  end)

  it("takes what is there when offline, and says what is missing", function()
    local path = temp.file(folder, "file", "here")
    assert.equal(path, download.fetch { url = "http://127.0.0.1:9/x", to = path, offline = true })
    expect.fails("not_found", "the network is switched off", download.fetch {
      url = "http://127.0.0.1:9/x", to = folder .. "/absent", offline = true })
    assert.same({ "file" }, fs.list(folder))
  end)

  it("fails when nobody listens, after one more attempt", function()
    expect.fails("io", "(2 attempts)",
      download.fetch { url = "http://127.0.0.1:9/x", to = folder .. "/x", backoff = 0 })
  end)

  it("never shows a password of the address", function()
    local _, message = download.fetch { url = "http://me:secret@127.0.0.1:9/x", to = folder .. "/x", retries = 0 }
    assert.is_nil(message:find("secret", 1, true), message)
    assert.truthy(message:find("http://127.0.0.1:9/x", 1, true), message)
  end)

  it("is refused for what is no address or no file", function()
    local to = folder .. "/x"
    expect.fails("argument", "expected a URL of http or https", download.fetch { url = "file:///etc/passwd", to = to })
    expect.fails("argument", "no spaces", download.fetch { url = "http://a/b c", to = to })
    expect.raises("url is missing", download.fetch, { to = "x" })
    expect.raises('unknown option "sha256sum"; did you mean "sha256"?', download.fetch,
      { url = "x", to = "x", sha256sum = "x" })
    expect.raises("sha256 must be 64 hexadecimal digits", download.fetch, { url = "x", to = "x", sha256 = "abc" })
    temp.file(folder, "folder/x", "")
    assert.is_nil((download.fetch { url = "http://127.0.0.1:9/x", to = folder .. "/folder", retries = 0 }))
  end)
end)
