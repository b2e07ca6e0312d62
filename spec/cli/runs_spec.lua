-- crucible runs, on runs of the stand-in.
require("spec.support.fake_core").install()
local cli = require "crucible.cli"
local crucible = require "crucible"
local fs = require "crucible.fs"
local temp = require "spec.support.temp"

local lora = crucible.lora
local folder

local function train(id, rate)
  local session <close> = assert(lora.create_session {
    config = { base_model = temp.file(folder, "toy.gguf", "toy"), lora_rank = 2, learning_rate = rate },
    experiment_id = id, runs = folder .. "/runs",
  })
  assert(lora.training_loop.run(session, { { input = "a:", output = "b" } }))
end

-- What the command writes to both streams, and its exit code.
local function call(...)
  local out, err = io.tmpfile(), io.tmpfile()
  local code = cli.main({ "runs", "--runs", folder .. "/runs", ... }, { out = out, err = err })
  out:seek "set"
  err:seek "set"
  return out:read "a", err:read "a", code
end

describe("crucible runs", function()
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("lists, compares and deletes", function()
    train("aaa1", 0.001)
    train("bbb2", 0.1)
    local out, err, code = call "list"
    assert.equal("", err)
    assert.equal(0, code)
    assert.truthy(out:find("aaa1", 1, true) and out:find("bbb2", 1, true) and out:find("finished", 1, true), out)
    out = call("compare", "aaa", "bbb")
    assert.truthy(out:find("learning_rate", 1, true) and out:find("0.1", 1, true), out)
    out, err, code = call("delete", "aaa1")
    assert.equal("", err)
    assert.equal(0, code)
    assert.truthy(out:find("deleted .*/aaa1\n"), out)
    assert.same({ "bbb2" }, fs.list(folder .. "/runs"))
  end)

  it("says what it was not told, and what is not there", function()
    local _, err, code = call("remove", "x")
    assert.truthy(err:find('"remove": expected list, compare or delete', 1, true), err)
    assert.equal(2, code)
    _, err, code = call("compare", "one")
    assert.equal(2, code)
    assert.truthy(err:find("at least two", 1, true))
    _, err, code = call("delete", "nothing")
    assert.equal(1, code)
    assert.truthy(err:find("no run begins like that", 1, true), err)
    assert.truthy(call():find("no runs in", 1, true))
  end)
end)
