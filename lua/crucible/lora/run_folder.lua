-- The folder of a run: manifest.json, telemetry.jsonl, checkpoints/.
local fs = require "crucible.fs"
local json = require "crucible.json"
local jsonl = require "crucible.jsonl"
local paths = require "crucible.paths"

---@class crucible.lora.RunFolder
---@field path string
---@field checkpoints string  folder
local RunFolder = {}
RunFolder.__index = RunFolder

local run_folder = {}

local function of(path)
  return setmetatable({
    path = path, checkpoints = paths.join(path, "checkpoints"), manifest = paths.join(path, "manifest.json"),
    telemetry = paths.join(path, "telemetry.jsonl"),
  }, RunFolder)
end

-- The path itself, or with -2, -3 … behind it when a run lives there already.
local function unused(path)
  local candidate, number = path, 1
  while paths.stat(paths.join(candidate, "manifest.json")) do
    number = number + 1
    candidate = ("%s-%d"):format(path, number)
  end
  return candidate
end

--- A new folder at the path; when a run lives there already, beside it ("<path>-2").
---@param path string
---@return crucible.lora.RunFolder? folder, string? message, string? code
function run_folder.create(path)
  local folder = of(unused(path))
  local ok, message, code = fs.make_folder(folder.checkpoints)
  if not ok then return nil, message, code end
  return folder
end

--- The folder of an earlier run.
---@param path string
---@return crucible.lora.RunFolder? folder, string? message, string? code
function run_folder.open(path)
  local folder = of(path)
  local ok, message, code = fs.make_folder(folder.checkpoints)
  if not ok then return nil, message, code end
  return folder
end

--- Writes the manifest, whole.
---@param manifest table
---@return true? ok, string? message, string? code
function RunFolder:write_manifest(manifest) return fs.write_file(self.manifest, json.encode_pretty(manifest)) end

--- Adds one object to the telemetry.
---@param object table
---@return true? ok, string? message, string? code
function RunFolder:append(object) return fs.append_file(self.telemetry, json.encode(object) .. "\n") end

-- Lines of telemetry up to a step. The last line of a killed run may be half written; it and what
-- follows the step are left out.
local function kept_lines(path, step)
  local next_row, message, code = jsonl.reader(path)
  if not next_row then return nil, message, code end
  local kept = {}
  while true do
    local row, _, failed = next_row()
    if failed or row == nil or type(row) ~= "table" or (row.step or 0) > step then return kept end
    kept[#kept + 1] = row
  end
end

--- Cuts the telemetry back to a step, for a run that goes on from there; returns what is left.
---@param step integer
---@return table[]? rows, string? message, string? code
function RunFolder:rewind(step)
  if not paths.stat(self.telemetry) then return {} end
  local rows, message, code = kept_lines(self.telemetry, step)
  if not rows then return nil, message, code end
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = json.encode(row) .. "\n" end
  local ok
  ok, message, code = fs.write_file(self.telemetry, table.concat(lines))
  if not ok then return nil, message, code end
  return rows
end

return run_folder
