-- SIGINT and SIGTERM for programs that want to end well: noted while a watcher is open, obeyed otherwise.
--
--     local watcher <close> = assert(signals.install())
--     … watcher:pending() … "SIGINT"
--
-- The first signal is noted; a second one ends the process at once, as if nobody had listened (or a later one,
-- for programs that ask for patience). Nothing is installed until a program asks: in another program's process
-- that is the host's decision. Watchers in one Lua state share, and the first's patience counts; two Lua states
-- of one process cannot both have one.
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
---@param patience integer?  signals that are noted before one ends the process; 1
---@return crucible.signals.Watcher? watcher, string? message, string? code
function signals.install(patience)
  if open_watchers == 0 and not core.signals.install(patience) then
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

--- From now on a signal also cancels what these sessions are computing, which then returns nil, message,
--- "cancelled"; nil: no session.
---@param session crucible.Session?
---@param ... crucible.Session
function Watcher:cancels(session, ...)
  local handles, watched = {}, {}
  for _, one in ipairs(self.watched or {}) do one:heed_signals(nil) end
  for _, one in ipairs { session, ... } do
    if one.heed_signals then
      one:heed_signals(self)
      watched[#watched + 1] = one
    elseif type(one.core) == "userdata" and not one.closed then
      handles[#handles + 1] = one.core
    end
  end
  self.watched = watched
  core.signals.cancels(table.unpack(handles))
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
