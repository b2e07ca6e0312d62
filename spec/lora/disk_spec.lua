-- Disks that are full, folders that cannot be written and folders that vanish under a run: it says so, stops or
-- goes on as it was told, and what was saved before is whole. On a small file system of its own where the
-- system lets the specs mount one.
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local PROGRAM = [=[
local crucible = require "crucible"
local checkpoints = require "crucible.lora.checkpoints"
local tiny_model = require "spec.support.tiny_model"
local folder, on_save_error, case = arg[1], arg[2], arg[3]
local rows, told, last_step = {}, {}, 0
for i = 1, 24 do rows[i] = { input = "claim " .. i .. ":", output = "yes" } end

local function sh(command) assert(os.execute(command)) end
local trouble = {
  full = function(step)
    if step == 4 then sh("head -c 10000000 /dev/zero > " .. folder .. "/ballast 2>/dev/null || true") end
    if step == 9 then sh("rm " .. folder .. "/ballast") end
  end,
  readonly = function(step)
    if step == 4 then sh("mount -o remount,ro " .. folder) end
    if step == 9 then sh("mount -o remount,rw " .. folder) end
  end,
  vanished = function(step)
    if step == 4 then sh(("mv %s/runs %s/elsewhere"):format(folder, folder)) end
  end,
}

local session <close> = assert(crucible.lora.create_session {
  config = { base_model = tiny_model.path, lora_rank = 2, warmup_steps = 0, threads = 1 }, seed = 1,
  experiment_id = "disk", runs = folder .. "/runs",
})
local results, message, code, partial = crucible.lora.training_loop.run(session, rows, {
  batch_size = 2, checkpoint_every = 2, on_save_error = on_save_error, callbacks = {
    on_step_end = function(event)
      last_step = event.step
      trouble[case](event.step)
    end,
    on_event = function(name) told[name] = (told[name] or 0) + 1 end,
  },
})
print("status", (results or partial).status, code, message)
print("last", last_step)
print("told", told["checkpoint.failed"] or 0, told["telemetry.failed"] or 0)
for _, place in ipairs { "runs", "elsewhere" } do
  local names = {}
  for i, checkpoint in ipairs(assert(checkpoints.list(folder .. "/" .. place .. "/disk/checkpoints"))) do
    assert(checkpoints.verify(checkpoint.path, assert(checkpoints.read(checkpoint.path))))
    names[i] = tostring(checkpoint.step)
  end
  print(place, table.concat(names, " "))
end
]=]

-- What the program wrote, by the first word of each line; nil where nothing can be mounted.
local function run(case, on_save_error)
  local folder = temp.folder()
  local program = temp.file(folder, "program.lua", PROGRAM)
  local mounted = folder .. "/mounted"
  local command = ("mkdir %s && mount -t tmpfs -o size=700k tmpfs %s && %s %s %s %s %s"):format(mounted, mounted,
    shell.lua, program, mounted, on_save_error, case)
  local output, status = shell.run("unshare -rm sh -c " .. shell.quote(command))
  if output:find("unshare", 1, true) or output:find("mount: ", 1, true) then return nil, output end
  assert(status == 0, output)
  local found = {}
  for line in output:gmatch "[^\n]+" do found[line:match "^%S+"] = line:match "^%S+%s*(.*)$" end
  return found
end

local function has(text, ...)
  for _, part in ipairs { ... } do assert.truthy(text:find(part, 1, true), part .. " in " .. text) end
end

describe("a run", function()
  after_each(temp.clean)

  it("on a full disk stops with the reason, and the last checkpoint is whole", function()
    local found, why = run("full", "stop")
    if not found then return pending(why) end
    has(found.status, "failed", "io", "No space left on device", "checkpoint step_000002 kept")
    assert.equal("2", found.runs)
    assert.equal("4", found.last)
  end)

  it("on a full disk goes on when told so, says what failed, and saves again once there is room", function()
    local found, why = run("full", "continue")
    if not found then return pending(why) end
    has(found.status, "finished")
    assert.equal("12", found.last)
    assert.equal("2 10 12", found.runs)
    has(found.told, "3")
  end)

  it("in a folder that became read-only stops, or goes on when told so", function()
    local found, why = run("readonly", "stop")
    if not found then return pending(why) end
    has(found.status, "failed", "io", "Read-only file system", "checkpoint step_000002 kept")
    assert.equal("2", found.runs)
    found = run("readonly", "continue")
    has(found.status, "finished")
    assert.equal("2 10 12", found.runs)
  end)

  it("whose folder vanished stops without claiming what is gone, or makes it anew when told so", function()
    local found, why = run("vanished", "stop")
    if not found then return pending(why) end
    has(found.status, "failed", "not_found", "the folder of the run is gone")
    assert.is_nil(found.status:find("kept", 1, true))
    assert.equal("2", found.elsewhere)
    assert.equal("4", found.last)
    found = run("vanished", "continue")
    has(found.status, "finished")
    assert.equal("2", found.elsewhere)
    assert.equal("6 8 10 12", found.runs)
  end)
end)
