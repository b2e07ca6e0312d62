-- Hosts that carry the module: what spec/c's programs ask of it, each a process of its own.
local hosts = require "spec.support.hosts"
local temp = require "spec.support.temp"

if not hosts.path "embed_test" then
  pending "hosts: no Lua library to link with"
  return
end

local LIFE = "spec/embed/life.lua"

local function kept(...) assert.truthy(hosts.must(...):find "^0 broken\n$") end

describe("a host in C with the module linked in", function()
  after_each(temp.clean)

  it("finds its process as it was: signals, locale, floating point, files, threads, and nothing printed", function()
    kept("embed_test", "quiet", LIFE, hosts.model, temp.folder())
  end)

  it("may open a state without os, io, package and debug, and train in it", function()
    local output = hosts.must("embed_test", "bare", "examples/embed/sandbox.lua", hosts.model, temp.folder())
    for _, part in ipairs { "step 3  loss ", "best checkpoint: ", "the stranger reads: ", "0 broken" } do
      assert.truthy(output:find(part, 1, true), part .. " in:\n" .. output)
    end
  end)

  it("may limit the state's memory; a script that wants more is told so and goes on", function()
    kept("embed_test", "limit", hosts.model)
  end)

  it("may have several states, and close them in any order", function() kept("embed_test", "states", hosts.model) end)

  it("ends a call from another thread", function() kept("embed_test", "cancel", hosts.model) end)

  it("shares a model between threads, without Lua", function() kept("embed_test", "shared", hosts.model) end)
end)

describe("a host that loads the module by require", function()
  after_each(temp.clean)

  it("unloads it with the state, without a thread or a signal handler left", function()
    kept("unload_test", LIFE, hosts.model, temp.folder(), tostring(hosts.sanitized))
  end)
end)
