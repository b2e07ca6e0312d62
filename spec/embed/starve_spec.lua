-- A host whose allocator refuses: any request of Lua's may be turned down once.
local hosts = require "spec.support.hosts"
local temp = require "spec.support.temp"

if not hosts.path "starve_test" then
  pending "hosts: no Lua library to link with"
  return
end

-- Requests and errors by part, of which there must be some.
local function starve(...)
  local output, found = hosts.must("starve_test", ...), {}
  assert.truthy(output:find("\n0 broken\n", 1, true), output)
  for name, requests, refusals in output:gmatch "(%w[%w ]*): (%d+) requests, (%d+) errors\n" do
    found[name] = { requests = tonumber(requests), errors = tonumber(refusals) }
  end
  return found
end

describe("an allocator that refuses once", function()
  after_each(temp.clean)

  it("while the state and the module open", function()
    local start = starve("start", "1").start
    assert.is_true(start.errors > 300 and start.errors <= start.requests)
  end)

  it("while the library loads", function()
    local start = starve("start", hosts.sanitized and "997" or "307", "spec/embed/load_tree.lua").start
    assert.is_true(start.errors > 10)
  end)

  it("while a session of the engine is made, steps, is saved, samples and ends", function()
    local found = starve("phases", "spec/embed/starve_core.lua", "1", hosts.model, temp.folder())
    for _, name in ipairs { "creation", "step", "save", "sample", "values" } do
      assert.is_true(found[name].errors > 0, name)
    end
    assert.equal(0, found.close.requests)
  end)

  it("while a session of the library is made, steps, is saved, samples and ends", function()
    local stride = hosts.sanitized and "13" or "3"
    local found = starve("phases", "spec/embed/starve_tree.lua", stride, "lua", hosts.model, temp.folder())
    for _, name in ipairs { "creation", "step", "step of a loss in Lua", "checkpoint", "sample" } do
      assert.is_true(found[name].errors > 0, name)
    end
  end)
end)
