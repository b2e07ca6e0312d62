-- crucible fetch: models and data sets by name into the cache.
local cli = require "crucible.cli"
local dataset_integration = require("crucible").lora.dataset_integration
local download = require "crucible.download"
local fault_server = require "spec.support.fault_server"
local paths = require "crucible.paths"
local temp = require "spec.support.temp"

local function run(...)
  local out, err = {}, {}
  local function stream(parts)
    return { write = function(_, ...)
      for _, text in ipairs { ... } do parts[#parts + 1] = text end
    end, flush = function() end }
  end
  local code = cli.main({ ... }, { out = stream(out), err = stream(err) })
  return code, table.concat(out), table.concat(err)
end

describe("crucible fetch", function()
  local server, folder
  local cache, notice = paths.cache, download.notice

  setup(function() server = fault_server.start() end)
  teardown(function() if server then server:stop() end end)
  before_each(function()
    folder = temp.folder()
    paths.cache = function() return folder end
    download.notice = function() end
  end)
  after_each(function()
    paths.cache, download.notice = cache, notice
    temp.clean()
  end)

  it("lists what it knows", function()
    local code, out = run "fetch"
    assert.equal(0, code)
    for _, part in ipairs { "models", "llama-3-8b                 4.9 GB", "smollm2-135m-instruct", "data sets",
      "gsm8k                    train, test", "scifact" } do
      assert.truthy(out:find(part, 1, true), part)
    end
  end)

  it("fetches every split of a data set", function()
    if not server then return pending("LuaSocket is not installed") end
    local path = temp.file(folder, "rows", '{"question":"q","answer":"a"}\n')
    local files = {}
    for _, split in ipairs { "train", "test" } do
      files[split] = { { name = split .. ".jsonl", url = server:url("/" .. split, "ok", "file=" .. path) } }
    end
    dataset_integration.register_dataset("fetched_by_name", { files = files, splits = { "train", "test" } })
    local code, out, err = run("fetch", "fetched_by_name")
    assert.equal(0, code, err)
    assert.equal(folder .. "/data/fetched_by_name\n", out)
    for _, split in ipairs { "train", "test" } do
      assert.truthy(paths.is_file(folder .. "/data/fetched_by_name/" .. split .. ".jsonl"))
    end
    local status, _, why = run("fetch", "fetched_by_name", "--split", "dev")
    assert.equal(1, status)
    assert.truthy(why:find('fetched_by_name has no split "dev"; it has: train, test', 1, true), why)
  end)

  it("is content with a model that is here", function()
    local path = temp.file(folder, "models/gemma-3-270m-Q8_0.gguf", "x")
    local code, out = run("fetch", "gemma-3-270m")
    assert.equal(0, code)
    assert.equal(path .. "\n", out)
  end)

  it("names the nearest name", function()
    local code, _, err = run("fetch", "gsm8")
    assert.equal(1, code)
    assert.truthy(err:find('no model and no data set is called "gsm8"; did you mean "gsm8k"?', 1, true), err)
  end)
end)
