-- Runs that are killed (SIGKILL) at any moment go on from the latest checkpoint and end in the bytes of the run
-- that was left alone; no kill leaves a checkpoint that looks whole and is not. scripts/check_kills does the
-- same at more points, down to single system calls.
local interrupted = require "spec.support.interrupted_run"
local fs = require "crucible.fs"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

-- Calls of crucible.fs in a whole run, at least.
local CALLS = { rename = 24, sync_folder = 24, write_file = 24, append_file = 12, remove_tree = 8, make_folder = 12 }

local function pick(list) return list[math.random(#list)] end

local function random_order()
  local names = {}
  for name in pairs(CALLS) do names[#names + 1] = name end
  table.sort(names)
  local name = pick(names)
  return ("%s:%d:%s"):format(name, math.random(CALLS[name]), pick { "before", "after" })
end

-- A command that is killed where `order` says, or after so many seconds.
local function killed(command, point)
  if point.order then return ("CRUCIBLE_KILL=%s %s"):format(point.order, command) end
  return ("timeout -s KILL %.3f %s"):format(point.seconds, command)
end

local function random_point(seconds)
  if math.random(2) == 1 then return { order = random_order() } end
  return { seconds = math.random() * seconds }
end

-- Trains to the end through one kill; returns whether the kill came in time.
local function train_through(folder, threads, point)
  local command = interrupted.command(folder, threads)
  local _, status = shell.run(killed(command, point))
  interrupted.check_whole(folder)
  if status == 0 then return false end
  local output, after = shell.run(command)
  assert(after == 0, output)
  return true
end

describe("a run that is killed #slow", function()
  local expected, seconds

  setup(function()
    local folder, started = temp.folder(), fs.clock()
    local output, status = shell.run(interrupted.command(folder, 1))
    assert(status == 0, output)
    seconds, expected = fs.clock() - started, interrupted.final_bytes(folder)
    temp.clean()
  end)
  after_each(temp.clean)

  for threads = 1, 2 do
    it(("at random points ends in the same bytes, with threads = %d"):format(threads), function()
      local kills, attempts = 0, 0
      while kills < 10 and attempts < 60 do
        attempts = attempts + 1
        local folder, point = temp.folder(), random_point(seconds)
        if train_through(folder, threads, point) then kills = kills + 1 end
        assert.is_true(expected == interrupted.final_bytes(folder), point.order or point.seconds)
        temp.clean()
      end
      assert.equal(10, kills)
    end)
  end

  it("between any two steps of a checkpoint's way to its name ends in the same bytes", function()
    for _, order in ipairs { "make_folder:3:after", "write_file:6:before", "write_file:6:after", "sync_folder:5:before",
      "rename:4:before", "rename:4:after", "sync_folder:6:before", "rename:8:after", "remove_tree:2:before" } do
      local folder = temp.folder()
      assert.is_true(train_through(folder, 1, { order = order }), order)
      assert.is_true(expected == interrupted.final_bytes(folder), order)
      temp.clean()
    end
  end)

  it("again and again goes on from wherever it was", function()
    local folder, status = temp.folder(), nil
    for _ = 1, 60 do
      _, status = shell.run(killed(interrupted.command(folder, 1), { order = "append_file:3:after" }))
      interrupted.check_whole(folder)
      if status == 0 then break end
    end
    assert.equal(0, status)
    assert.is_true(expected == interrupted.final_bytes(folder))
  end)
end)
