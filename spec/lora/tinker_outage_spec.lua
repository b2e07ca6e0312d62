-- A server that stops for good in the middle of a run, and is back later.
local fs = require "crucible.fs"
local shell = require "spec.support.shell"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"

local STEPS = 24

-- Trains, from the latest checkpoint if there is one; exit code 1 when the run fails.
local PROGRAM = [[
local crucible = require "crucible"
local remote = require "spec.support.remote"
local rows = {}
for i = 1, 48 do rows[i] = { input = ("claim %d"):format(i), output = i % 3 == 0 and "no" or "yes" } end
local session <close> = assert(remote.session(arg[1], { runs = arg[2], experiment_id = "outage", patience = 1 }))
local started = crucible.lora and require("crucible.fs").clock()
local results, message, code = crucible.lora.training_loop.run(session, rows, {
  epochs = 1, batch_size = 2, checkpoint_every = 4, resume = "auto",
})
if results then
  print("done", results.total_steps, session:describe().remote.model_id)
else
  print("failed", message, code)
end
os.exit(results and 0 or 1, true)
]]

describe("a server that stops for good", function()
  local server

  after_each(function()
    if server and server.pipe then server:stop() end
    temp.clean()
  end)

  local function command(folder)
    return ("%s %s/program.lua %s %s/runs 2>&1; echo status $?"):format(shell.lua, folder, server.url, folder)
  end

  local function wait_for_checkpoint(folder)
    for _ = 1, 600 do
      if fs.stat(folder .. "/runs/outage/checkpoints/step_000008") then return true end
      shell.run "sleep 0.05"
    end
  end

  it("ends the run within its patience, names the last checkpoint, and the run goes on once it is back", function()
    server = standin.start { step_seconds = 0.03 }
    if not server then return pending("LuaSocket is not installed") end
    local folder = temp.folder()
    temp.file(folder, "program.lua", PROGRAM)
    local pipe = assert(io.popen("unset LD_PRELOAD; " .. command(folder), "r"))
    assert.is_true(wait_for_checkpoint(folder))
    server:kill()
    local stopped = fs.clock()
    local output = pipe:read "a"
    pipe:close()
    assert.is_true(fs.clock() - stopped < 30, output)
    assert.truthy(output:find("status 1", 1, true), output)
    local named = output:match "step_0000(%d%d)"
    assert.truthy(named and fs.stat(folder .. "/runs/outage/checkpoints/step_0000" .. named), output)
    server = standin.start { folder = server.folder, port = server.port }
    local again = shell.run(command(folder))
    assert.truthy(again:find("status 0", 1, true), again)
    assert.truthy(again:find("done\t" .. STEPS, 1, true), again)
    local applied = {}
    for _, entry in ipairs(server:everything()) do applied[entry.model] = (applied[entry.model] or 0) + 1 end
    local last = again:match "done\t%d+\t(%S+)"
    -- What came before the checkpoint was done by the first server, and once.
    assert.equal(2 * (STEPS - tonumber(named)), applied[last])
  end)
end)
