-- Names of models: the table, one's own, the hub.
local download = require "crucible.download"
local expect = require "spec.support.expect"
local fault_server = require "spec.support.fault_server"
local fs = require("crucible.core").fs
local models = require "crucible.models"
local temp = require "spec.support.temp"

local DIGEST = fs.sha256(fault_server.bytes)

describe("names of models", function()
  local folder, server, notices
  local getenv, notice = os.getenv, download.notice
  local environment

  setup(function() server = fault_server.start() end)
  teardown(function() if server then server:stop() end end)
  before_each(function()
    folder, notices = temp.folder(), {}
    environment = { CRUCIBLE_HOME = folder }
    -- luacheck: ignore 122
    os.getenv = function(name) -- what the library looks up is the spec's; the rest stays
      if name:find("^HF_") or name:find("^HUGGING") or name:find("^CRUCIBLE_") then return environment[name] end
      return getenv(name)
    end
    download.notice = function(text) notices[#notices + 1] = text end
  end)
  after_each(function()
    os.getenv, download.notice = getenv, notice -- luacheck: ignore 122
    temp.clean()
  end)

  local function use_hub(plan) environment.HF_ENDPOINT = ("http://127.0.0.1:%d/plan=%s/"):format(server.port, plan) end

  local function config(text) temp.file(folder, "models.json", text) end

  local function it_serves(title, body)
    it(title, function()
      if not server then return pending("LuaSocket is not installed") end
      body()
    end)
  end

  describe("on the hub", function()
    it_serves("are fetched into the cache, checked by what the hub says", function()
      use_hub("hub:" .. DIGEST)
      local path = assert(models.resolve "qwen3-0.6b")
      assert.equal(folder .. "/models/Qwen3-0.6B-Q8_0.gguf", path)
      assert.is_true(temp.read(path) == fault_server.bytes)
      assert.truthy(notices[1]:find("licence: Apache-2.0", 1, true))
      assert.equal(path, models.resolve "QWEN3-0.6B")
      assert.equal("qwen3-0.6b", models.find(path).name)
    end)

    it_serves("are refused when the bytes are not what the hub says", function()
      use_hub("hub:" .. ("0"):rep(64))
      expect.fails("format", "has the SHA-256 " .. DIGEST, models.fetch "qwen3-0.6b")
      expect.fails("not_found", "could not be fetched", models.resolve "qwen3-0.6b")
      assert.is_nil(fs.stat(folder .. "/models/Qwen3-0.6B-Q8_0.gguf"))
    end)

    it_serves("are refused when they are not those of the table", function()
      use_hub("ok")
      expect.fails("format", "expected b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        models.fetch "smollm2-135m-instruct")
    end)

    it_serves("may be any file of it, in a folder of its own", function()
      use_hub("hub:" .. DIGEST)
      local path = assert(models.resolve "hf:some/repo/sub/x y.gguf@v1")
      assert.equal(folder .. "/models/some--repo/v1/sub/x y.gguf", path)
      local asked = server:requests(("/plan=hub:%s/some/repo/resolve/v1/sub/x%%20y.gguf"):format(DIGEST))
      assert.truthy(asked[1]:find("^HEAD"), asked[1])
    end)

    it_serves("get the token, which nobody else sees", function()
      use_hub("hub:" .. DIGEST)
      environment.HF_TOKEN = "wrong"
      local path, message, code = models.fetch "gemma-3-270m"
      expect.fails("io", "it may be gated: accept its terms at http", path, message, code)
      assert.truthy(message:find("ggml-org/gemma-3-270m-GGUF and set HF_TOKEN", 1, true))
      assert.is_nil(message:find("wrong", 1, true))
      environment.HF_TOKEN = "right \n"
      assert(models.fetch "gemma-3-270m")
      local asked = server:requests(("/plan=hub:%s/ggml-org/gemma-3-270m-GGUF/resolve/main/gemma-3-270m-Q8_0.gguf")
        :format(DIGEST))
      assert.truthy(asked[#asked]:find("auth=Bearer right$"), asked[#asked])
      assert.is_nil(table.concat(notices):find("right", 1, true))
    end)

    it_serves("are not asked for when the network is switched off", function()
      use_hub("hub:" .. DIGEST)
      for _, name in ipairs { "HF_HUB_OFFLINE", "CRUCIBLE_OFFLINE" } do
        environment[name] = "1"
        expect.fails("not_found", "the network is switched off; put Qwen3-0.6B-Q8_0.gguf at", models.fetch "qwen3-0.6b")
        environment[name] = nil
      end
      expect.fails("not_found", "fetch it (0.6 GB) by models.fetch", models.resolve("qwen3-0.6b", { download = false }))
    end)

    it_serves("can be cancelled on the way", function()
      use_hub("hub:" .. DIGEST)
      expect.fails("cancelled", "cancelled", models.fetch("qwen3-0.6b", { progress = function() return false end }))
    end)
  end)

  it("that are large wait for models.fetch", function()
    expect.fails("not_found", 'fetch it (4.9 GB) by models.fetch("llama-3-8b")', models.resolve "llama-3-8b")
  end)

  describe("of one's own", function()
    it("stand in models.json", function()
      local path = temp.file(folder, "mine.gguf", "x")
      config(('{"mine":{"path":%q},"also":"mine","small":"smollm2-135m-instruct"}'):format(path))
      assert.equal(path, models.resolve "mine")
      assert.equal(path, models.resolve "Also")
      assert.equal("smollm2-135m-instruct", models.find("small").name)
      local names = table.concat(models.names(), " ")
      assert.truthy(names:find("also", 1, true) and names:find("mine", 1, true) and names:find("llama-3-8b", 1, true))
    end)

    it("give known names another file", function()
      config '{"Llama-3-8B":{"repo":"me/llama","file":"llama.Q8_0.gguf","revision":"v2"}}'
      local entry = models.find "llama-3-8b"
      assert.same({ "me/llama", "llama.Q8_0.gguf", "v2", "meta-llama/Meta-Llama-3-8B" },
        { entry.repo, entry.file, entry.revision, entry.hub })
      assert.is_nil(entry.bytes)
    end)

    it("may stand in another file, which an environment variable names", function()
      environment.CRUCIBLE_MODELS = temp.file(folder, "elsewhere.json", '{"other":"gemma-3-270m"}')
      assert.equal("gemma-3-270m", models.find("other").name)
    end)

    for text, message in pairs {
      ['{"x":'] = "models.json: not JSON",
      ['[1]'] = "models.json: expected an object",
      ['{"x":5}'] = "models.json: x: expected an object, or another name",
      ['{"x":"nobody"}'] = 'models.json: x: no model is called "nobody"',
      ['{"x":{"repo":"a/b"}}'] = 'models.json: x: expected "path", or "repo" and "file"',
      ['{"x":{"repos":"a/b"}}'] = 'models.json: x: unknown option "repos"; did you mean "repo"?',
      ['{"x":{"path":5}}'] = "models.json: x: path must be a string that is not empty, got 5",
    } do
      it("are refused: " .. text, function()
        config(text)
        expect.fails("format", message, models.resolve "x")
      end)
    end

    it("that lead to nothing are missed by name", function()
      config '{"x":{"path":"/nowhere/x.gguf"}}'
      expect.fails("not_found", "x is not at /nowhere/x.gguf", models.resolve "x")
      expect.fails("not_found", "/nowhere/x.gguf: no such file (x)", models.fetch "x")
    end)
  end)
end)
