-- telemetry.jsonl as a table for spreadsheets and data frames: telemetry.csv, RFC 4180, one row a step.
-- Columns are the figures of a step in the order below, then those of its components, evaluation and
-- gradient hooks that are numbers, by name. A value that a step lacks is an empty field; NaN, which JSON
-- has no word for, is one too.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local jsonl = require "crucible.jsonl"
local paths = require "crucible.paths"

local telemetry_csv = {}

local first_columns = {
  "step", "epoch", "loss", "lr", "grad_norm", "update_norm", "skipped", "tokens", "supervised", "seconds",
  "tokens_per_s", "timestamp",
}

-- Adds the plain values below `value` to `row`, lists left out, nested names joined with dots.
local function flatten(row, prefix, value)
  for key, inner in pairs(value) do
    local name = prefix .. tostring(key)
    if type(inner) == "table" then
      if #inner == 0 then flatten(row, name .. ".", inner) end
    elseif inner ~= json.null then
      row[name] = inner
    end
  end
end

local function columns_of(rows)
  local columns, known, others = {}, {}, {}
  for i, name in ipairs(first_columns) do columns[i], known[name] = name, true end
  for _, row in ipairs(rows) do
    for name in pairs(row) do
      if not known[name] then
        known[name] = true
        others[#others + 1] = name
      end
    end
  end
  table.sort(others)
  return table.move(others, 1, #others, #columns + 1, columns)
end

local function field(value)
  if value == nil then return "" end
  if type(value) == "number" then return json.encode(value) end
  local text = tostring(value)
  if not text:find '[",\r\n]' then return text end
  return '"' .. text:gsub('"', '""') .. '"'
end

local function line_of(columns, row)
  local fields = {}
  for i, name in ipairs(columns) do fields[i] = field(row[name]) end
  return table.concat(fields, ",") .. "\r\n"
end

--- The telemetry as CSV.
---@param steps table[]  objects of telemetry.jsonl
---@return string
function telemetry_csv.text(steps)
  local rows = {}
  for i, step in ipairs(steps) do
    rows[i] = {}
    flatten(rows[i], "", step)
  end
  local columns, header = columns_of(rows), {}
  for i, name in ipairs(columns) do header[i] = field(name) end
  local lines = { table.concat(header, ",") .. "\r\n" }
  for i, row in ipairs(rows) do lines[i + 1] = line_of(columns, row) end
  return table.concat(lines)
end

--- Writes the CSV of a run. A last line that a kill left half written is left out.
---@param run_dir string
---@param path string?  default: telemetry.csv in the run's folder
---@return string? path, string? message, string? code
function telemetry_csv.write(run_dir, path)
  local source = paths.join(run_dir, "telemetry.jsonl")
  if not paths.is_file(source) then return errors.failure("not_found", "%s: no such file", source) end
  local steps, next_row, message, code = {}, jsonl.reader(source)
  if not next_row then return nil, message, code end
  for row in next_row do steps[#steps + 1] = row end
  path = path or paths.join(run_dir, "telemetry.csv")
  local ok
  ok, message, code = fs.write_file(path, telemetry_csv.text(steps))
  if not ok then return nil, message, code end
  return path
end

return telemetry_csv
