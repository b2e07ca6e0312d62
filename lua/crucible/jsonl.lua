-- JSON Lines: one JSON value a line, read one at a time.
local errors = require "crucible.errors"
local json = require "crucible.json"
local paths = require "crucible.paths"

local jsonl = {}

local MARK = "\u{FEFF}" -- a byte order mark that some editors write first

--- A reader of a file: a function that returns a row and its line number; nil at the end; and
--- nil, message, code when a line is not JSON (naming file and line) or cannot be read. Empty
--- lines are skipped.
---@param path string
---@return (fun(): any, integer|string|nil, string?)? next_row, string? message, string? code
function jsonl.reader(path)
  if paths.is_folder(path) then return errors.failure("io", "%s: is a folder, expected a JSONL file", path) end
  local file, why = io.open(path, "rb")
  if not file then return errors.failure(paths.stat(path) and "io" or "not_found", "%s", why) end
  local number = 0
  local function next_row()
    while file do
      local line = file:read "L"
      if not line then
        file:close()
        file = nil
        return nil
      end
      number = number + 1
      if number == 1 and line:sub(1, #MARK) == MARK then line = line:sub(#MARK + 1) end
      if line:find "%S" then
        local row, message, code = json.decode(line)
        if code then return errors.failure(code, "%s:%d: %s", path, number, message) end
        return row, number
      end
    end
  end
  return next_row
end

--- All rows of a file.
---@param path string
---@return any[]? rows, string? message, string? code
function jsonl.read(path)
  local next_row, message, code = jsonl.reader(path)
  if not next_row then return nil, message, code end
  local rows = {}
  while true do
    local row, line
    row, line, code = next_row()
    if code then return nil, line --[[@as string]], code end
    if row == nil then return rows end
    rows[#rows + 1] = row
  end
end

return jsonl
