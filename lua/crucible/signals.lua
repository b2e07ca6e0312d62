-- SIGINT and SIGTERM for programs that want to end well: noted while a watcher is open, obeyed otherwise.
--
--     local watcher <close> = assert(signals.install())
--     … watcher:pending() … "SIGINT"
--
-- The first signal is noted; a second one ends the process at once, as if nobody had listened. Nothing is
-- installed until a program asks: in another program's process that is the host's decision. Watchers in one
-- Lua state share; two Lua states of one process cannot both have one.
local core = require "crucible.core"
local errors = require "crucible.errors"

local signals = {}

--- The exit code of a program that was interrupted.
signals.exit_code = 130

---@class crucible.signals.Watcher
---@field closed boolean
local Watcher = { __name = "crucible.signals" }
Watcher.__index = Watcher

local open_watchers = 0

--- Listens from now on. Fails when another Lua state of this process does already.
---@return crucible.signals.Watcher? watcher, string? message, string? code
function signals.install()
  if open_watchers == 0 and not core.signals.install() then
    return errors.failure("unsupported", "SIGINT and SIGTERM belong to another Lua state of this process already")
  end
  open_watchers = open_watchers + 1
  return setmetatable({ closed = false }, Watcher)
end

--- The signal that came, or nil.
---@return "SIGINT"|"SIGTERM"|nil
function Watcher:pending() -- luacheck: ignore self
  return core.signals.pending()
end

--- From now on a signal also cancels what this session is computing, which then returns nil, message,
--- "cancelled"; nil: no session. One session at a time.
---@param session crucible.Session?
function Watcher:cancels(session)
  local handle = session and session.core
  if self.watched then self.watched:heed_signals(nil) end
  self.watched = session and session.heed_signals and session or nil
  if self.watched then self.watched:heed_signals(self) end
  core.signals.cancels(type(handle) == "userdata" and handle or nil)
end

--- Forgets the signal that came: the next one is again the first.
function Watcher:rearm() -- luacheck: ignore self
  core.signals.rearm()
end

--- Stops listening; what was there before is put back. Safe to call twice.
function Watcher:close()
  if self.closed then return end
  self.closed, open_watchers = true, open_watchers - 1
  if open_watchers == 0 then core.signals.restore() end
end

Watcher.__close = Watcher.close
Watcher.__gc = Watcher.close
Watcher.__tostring = function(self) return Watcher.__name .. (self.closed and "(closed)" or "") end

return signals
