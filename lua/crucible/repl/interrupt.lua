-- Ctrl-C at a prompt: ends the call that is running and leaves what it worked on usable.
--
-- The engine looks between layers whether it was cancelled and then fails with "cancelled"; everything else is ended by an
-- error that a hook raises between two instructions. A training run that is cancelled is given a moment to save a
-- checkpoint; a second Ctrl-C does not wait. Nothing is installed while no call is guarded.
local fs = require "crucible.fs"
local signals = require "crucible.signals"

local interrupt = {}

local INSTRUCTIONS = 1000 -- between two looks
local GRACE = 3 -- seconds that a run has to save what it learnt
local PATIENCE = 5 -- signals that are noted before one ends the process: a call may be stuck

--- What is raised when a call is ended.
interrupt.reason = setmetatable({}, { __tostring = function() return "interrupted" end })

-- Whether a run is at work: it pauses or saves when it is cancelled.
local at_work = false
local function follow_runs(name)
  if name == "training.start" or name == "step.start" then at_work = true end
  if name == "training.stop" then at_work = false end
end

local function open_sessions()
  local local_session = package.loaded["crucible.adapters.local.session"]
  local list = {}
  for session in pairs(local_session and local_session.open or {}) do list[#list + 1] = session end
  return list
end

local function watch(watcher)
  local local_session = require "crucible.adapters.local.session"
  local function follow() watcher:cancels(table.unpack(open_sessions(), 1, math.min(64, #open_sessions()))) end
  follow()
  local_session.on_open = follow
end

-- Looks for a signal; ends the call at once, or, in a run, when it had its moment.
local function hook_of(watcher)
  local noticed
  return function()
    local again = watcher:pending()
    if not again and not (noticed and fs.clock() - noticed > GRACE) then return end
    watcher:rearm()
    if not at_work or noticed then error(interrupt.reason, 0) end
    noticed = fs.clock()
    for _, session in ipairs(open_sessions()) do session:cancel() end
  end
end

-- Wishes that nobody heard are not for the next call.
local function forget_wishes()
  for _, session in ipairs(open_sessions()) do session:cancelled() end
end

--- Calls f(...) so that Ctrl-C ends it: true and its results; false, what was raised, and whether it was
--- interrupted.
---@param f function
---@param ... any
---@return boolean ok, any ...
function interrupt.guard(f, ...)
  local watcher, message = signals.install(PATIENCE)
  if not watcher then return false, message, false end
  local listener <close> = require("crucible.telemetry").attach(follow_runs) -- luacheck: ignore
  at_work = false
  watch(watcher)
  local download = require "crucible.download"
  download.unwanted = function() return watcher:pending() ~= nil end
  local arguments = table.pack(...)
  debug.sethook(hook_of(watcher), "", INSTRUCTIONS)
  local results = table.pack(xpcall(function() return f(table.unpack(arguments, 1, arguments.n)) end, interrupt.trace))
  debug.sethook()
  download.unwanted = nil
  require("crucible.adapters.local.session").on_open = nil
  watcher:close()
  forget_wishes()
  if results[1] then return table.unpack(results, 1, results.n) end
  local raised = results[2]
  return false, raised.message, raised.interrupted, raised.trace
end

--- The handler of guard: what was raised, with the place.
---@param raised any
---@return { message: string, interrupted: boolean, trace: string }
function interrupt.trace(raised)
  debug.sethook()
  local text = tostring(raised)
  return {
    message = text, interrupted = raised == interrupt.reason or text:find("interrupted", 1, true) ~= nil,
    trace = debug.traceback(text, 2),
  }
end

return interrupt
