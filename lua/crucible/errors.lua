-- The two kinds of trouble. Misuse (a wrong argument, an unknown option) raises at the
-- caller's own line. A failure of the world (a file, memory, data, a server) is returned
-- as nil, message, code.
--
-- Codes: those of crucible.core ("argument", "memory", "io", "format", "unsupported",
-- "not_found", "context_overflow", "cancelled") and two of the Lua side: "data" (rows that
-- cannot be trained on) and "nonfinite" (a run stopped by NaN or infinite losses).
local errors = {}

local library = debug and debug.getinfo(1, "S").source:match("^(.*)errors%.lua$")

-- The nearest function on the stack that is not part of this library, so that the position
-- in the message is the line that has to change. Counted for error() called by errors.raise.
local function caller_level()
  if not library then return 0 end
  local level = 3
  while true do
    local info = debug.getinfo(level, "S")
    if not info then return 0 end
    if info.what ~= "C" and info.source:sub(1, #library) ~= library then return level - 1 end
    level = level + 1
  end
end

--- Raises a misuse error at the line of the caller of the library.
---@param format string
---@param ... any  arguments of string.format
function errors.raise(format, ...)
  local message = select("#", ...) > 0 and format:format(...) or format
  error(message, caller_level())
end

--- A failure of the world, to be returned: `return errors.failure("io", "%s: %s", path, why)`.
---@param code string
---@param format string
---@param ... any  arguments of string.format
---@return nil, string message, string code
function errors.failure(code, format, ...)
  return nil, select("#", ...) > 0 and format:format(...) or format, code
end

--- Runs steps that return something true or nil, message, code, up to the first failure.
---@param steps (fun(): any, string?, string?)[]
---@return true? ok, string? message, string? code
function errors.in_order(steps)
  for _, step in ipairs(steps) do
    local ok, message, code = step()
    if not ok then return nil, message, code end
  end
  return true
end

--- What happened where, as debug.traceback has it; the message alone in a host without that library.
--- For xpcall.
---@param message any
---@param level integer?
---@return any
function errors.traceback(message, level)
  if not debug then return message end
  return debug.traceback(message, (level or 1) + 1)
end

return errors
