-- JSON Lines: one JSON value a line, parsed one at a time.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
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
  local text, message, code = fs.read_file(path)
  if not text then return nil, message, code end
  local number, first = 0, text:sub(1, #MARK) == MARK and #MARK + 1 or 1
  local function next_row()
    while first <= #text do
      local last = text:find("\n", first, true) or #text
      local line = text:sub(first, last)
      number, first = number + 1, last + 1
      if line:find "%S" then
        local row, problem, kind = json.decode(line)
        if kind then return errors.failure(kind, "%s:%d: %s", path, number, problem) end
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
