-- Rows out of data files: JSON Lines, a JSON array, CSV, TSV, lines of text; each plain or compressed.
--
-- The file is read, unpacked and parsed on a thread of its own, a few blocks ahead and in constant memory.
-- A row of CSV or TSV is a table of strings by the names in the first line, of text { text = line }.
local core = require "crucible.core"
local errors = require "crucible.errors"
local paths = require "crucible.paths"

local files = {}

--- What the option `format` may be; without it the name ("rows.csv.gz") or the first character decides.
files.formats = { "jsonl", "json", "csv", "tsv", "text" }

---@class crucible.datasets.FileOptions
---@field format string?    one of files.formats
---@field max_row_bytes integer?  a longer row is a bad one; 16 MiB
---@field columns string[]|table<string, string>|nil  keys to keep, or new key → key; a key may be a path: "answer.0.text"

-- ---- columns -----------------------------------------------------------------------------------

-- "a.b.1" → { "a", "b", "1" }
local function steps_of(path)
  local steps = {}
  for step in (path .. "."):gmatch("([^.]*)%.") do steps[#steps + 1] = step end
  return steps
end

-- One step down: a member, or the element with that number, counted from 0 as JSON paths do.
local function descend(value, step)
  if type(value) ~= "table" then return nil end
  local index = #value > 0 and math.tointeger(tonumber(step))
  if index then return value[index + 1] end
  return value[step]
end

-- A key with dots of its own goes before a path.
local function look_up(row, column)
  local value = row[column.path]
  if value ~= nil then return value end
  value = row
  for _, step in ipairs(column.steps) do value = descend(value, step) end
  return value
end

local function compile(columns)
  local list = {}
  for key, path in pairs(columns) do
    list[#list + 1] = { name = type(key) == "string" and key or path, path = path, steps = steps_of(path) }
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

-- The members of a raw row that the columns lead through.
local function needed(columns)
  local names = {}
  for _, column in ipairs(columns) do
    names[#names + 1] = column.path
    if #column.steps > 1 then names[#names + 1] = column.steps[1] end
  end
  return names
end

--- A function that picks columns out of a row: the picked row; or nil and why.
---@param columns string[]|table<string, string>
---@return fun(row: table): table?, string?
function files.picker(columns)
  local list = compile(columns)
  return function(row)
    if type(row) ~= "table" then return nil, ("is a %s, expected an object"):format(type(row)) end
    local picked = {}
    for _, column in ipairs(list) do
      local value = look_up(row, column)
      if value == nil then return nil, ('"%s" is missing'):format(column.path) end
      picked[column.name] = value
    end
    return picked
  end
end

-- ---- reading -----------------------------------------------------------------------------------

--- A reader of a file: a function that returns a row and the line it begins in; nil at the end; nil,
--- message, code and the line for a row that is none (the next call goes on behind it); nil, message, code
--- without a line when no more can be read. Messages name file and line.
---@param path string
---@param options crucible.datasets.FileOptions?
---@return (fun(): any, integer|string|nil, string?, integer?)? next_row, string? message, string? code
function files.reader(path, options)
  options = options or {}
  if paths.is_folder(path) then return errors.failure("io", "%s: is a folder, expected a data file", path) end
  local keep = options.columns and needed(compile(options.columns)) or nil
  local rows, message, code = core.open_rows(path, { format = options.format, longest = options.max_row_bytes,
    keep = keep })
  if not rows then return nil, message, code end
  return function()
    if not rows then return nil end
    local row, line, failed, bad_line = rows:next()
    if failed then
      return nil, bad_line and ("%s:%d: %s"):format(path, bad_line, line) or line, failed, bad_line
    end
    if row ~= nil then return row, line end
    rows:close()
    rows = nil
  end
end

return files
