-- report.html: a run, or several compared, as one page that needs nothing beyond itself.
--
--     report.write({ "runs/first" })                     → runs/first/report.html
--     report.write({ "runs/first", "runs/second" })      → report.html, both in one
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local page = require "crucible.report.page"
local paths = require "crucible.paths"
local run_data = require "crucible.report.run_data"
local schema = require "crucible.schema"

---@class crucible.report
local report = {}

--- Runs that one page compares at most: there are eight colours.
report.most_runs = 8

local function check_folders(run_dirs)
  if type(run_dirs) == "string" then run_dirs = { run_dirs } end
  if not schema.list(schema.nonempty_string, { nonempty = true }).read(run_dirs) then
    errors.raise("report: expected a run folder or a list of them, got %s", schema.show(run_dirs))
  end
  return run_dirs
end

--- The page of runs as text. A folder that is no run's is a failure; what is missing or damaged in a run's
--- folder is said on the page.
---@param run_dirs string|string[]
---@return string? html, string? message, string? code
function report.html(run_dirs)
  local runs = {}
  for i, path in ipairs(check_folders(run_dirs)) do
    local run, message, code = run_data.read(path)
    if not run then return nil, message, code end
    runs[i] = run
  end
  if #runs > report.most_runs then
    return errors.failure("argument", "%d runs: a page compares at most %d", #runs, report.most_runs)
  end
  return page.of(runs, { made_at = experiment.now() })
end

--- Writes the page.
---@param run_dirs string|string[]
---@param path string?  default: report.html in the run's folder; of several runs, in the current one
---@return string? path, string? message, string? code
function report.write(run_dirs, path)
  run_dirs = check_folders(run_dirs)
  local html, message, code = report.html(run_dirs)
  if not html then return nil, message, code end
  path = path or #run_dirs == 1 and paths.join(run_dirs[1], "report.html") or "report.html"
  local ok
  ok, message, code = fs.write_file(path, html)
  if not ok then return nil, message, code end
  return path
end

return report
