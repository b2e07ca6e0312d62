-- CRUCIBLE_ERRORS=FILE: every message of an error that the specs provoke is added to FILE, a line each: what
-- scripts/list_errors makes its list of.
local path = os.getenv "CRUCIBLE_ERRORS"
local seen, handle = {}, nil

local errors_seen = {}

--- Adds a message.
---@param message any
function errors_seen.note(message)
  if not path or path == "" or type(message) ~= "string" or seen[message] then return end
  seen[message] = true
  handle = handle or assert(io.open(path, "a"))
  handle:write((message:gsub("\n.*", " …")), "\n")
  handle:flush()
end

--- Listens to error() and to the library's failures from now on.
function errors_seen.listen()
  if not path or path == "" then return end
  local raise = error
  -- A tail call leaves no frame, so that positions in messages stay those of the callers.
  _G.error = function(message, ...) -- luacheck: ignore
    errors_seen.note(message)
    return raise(message, ...)
  end
  local errors = require "crucible.errors"
  local failure = errors.failure
  errors.failure = function(...)
    errors_seen.note((select(2, failure(...))))
    return failure(...)
  end
end

return errors_seen
