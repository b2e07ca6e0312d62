-- The API key appears in nothing that a run writes or prints, whatever goes wrong.
local json = require "crucible.json"
local shell = require "spec.support.shell"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"

local KEY = "tml-0123456789-never-to-be-seen"

-- A run with everything that writes, and calls that fail; as a program of its own, so that all it prints is heard.
local PROGRAM = [[
local crucible = require "crucible"
local remote = require "spec.support.remote"
local url, folder = arg[1], arg[2]
local lora = crucible.lora
crucible.telemetry.attach(function(event) print(require("crucible.json").encode(event)) end)

local session = assert(remote.session(url, { runs = folder, experiment_id = "secret", differences = "note" }))
print(session, require("crucible.json").encode(session:describe()))
local rows = {}
for i = 1, 4 do rows[i] = { input = "claim " .. i, output = i % 2 == 0 and "yes" or "no" } end
print(lora.training_loop.run(session, rows, {
  epochs = 1, batch_size = 2, checkpoint_every = 1, report = true, tensorboard = true, csv = true,
  callbacks = { require("crucible.callbacks.console").new() },
}))
print(session:sample({ "claim" }, { max_tokens = 3 }))
print(session:load_checkpoint "absent")
print(pcall(session.gradients, session))
for field, value in pairs(session) do print(field, value) end
for field, value in pairs(session.training_client) do print(field, value) end
print(session:export(folder .. "/exported"))
session:close()
print(remote.session(url, { api_key = os.getenv "TINKER_API_KEY" .. "-wrong" }))
print(remote.session(url:gsub("//", "//user:" .. os.getenv "TINKER_API_KEY" .. "@"), { patience = 0.2 }))
print(remote.session("http://127.0.0.1:9", { patience = 0.1 }))
print(pcall(remote.session, url, { api_kye = "x" }))
]]

describe("the API key", function()
  local server

  after_each(function()
    if server then server:stop() end
    server = nil
    temp.clean()
  end)

  it("is in no file and no line of a run", function()
    server = standin.start { key = KEY }
    if not server then return pending("LuaSocket is not installed") end
    local folder = temp.folder()
    local program = temp.file(folder, "program.lua", PROGRAM)
    local command = ("TINKER_API_KEY=%s %s %s %s %s"):format(KEY, shell.lua, program, server.url, folder .. "/runs")
    local output, status = shell.run(command .. " >" .. folder .. "/output 2>&1; cat " .. folder .. "/output")
    assert.equal(0, status, output)
    assert.truthy(output:find("Invalid API key", 1, true), output)
    local files = shell.run("find " .. folder .. " -type f")
    for _, name in ipairs { "telemetry.jsonl", "manifest.json", "report.html", "trainer_state.json", "output" } do
      assert.truthy(files:find(name, 1, true), files)
    end
    local found = shell.run(("grep -rlF -e %s %s"):format(KEY, folder))
    assert.equal("", found)
    -- Encoded it would be as bad.
    local hex = KEY:gsub(".", function(char) return ("%02x"):format(char:byte()) end)
    assert.equal("", (shell.run(("grep -rlF -e %s %s"):format(hex, folder))))
    assert.is_true(#json.encode(server:requests()) > 0)
  end)
end)
