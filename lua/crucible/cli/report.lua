-- crucible report: the page of a run, or of several compared.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local paths = require "crucible.paths"
local report = require "crucible.report"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local telemetry_csv = require "crucible.lora.telemetry_csv"

local options = schema.new("crucible report", {
  { name = "run", positional = true, required = true, check = schema.list(schema.nonempty_string),
    doc = "folder of a run, or its name in --runs; several are compared" },
  { name = "output", check = schema.nonempty_string,
    doc = "file to write; default: report.html in the run's folder, of several runs in the current one" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder of run folders" },
  { name = "csv", default = false, check = schema.boolean, doc = "also write telemetry.csv in each run's folder" },
})

-- The folder that a word means.
local function find_run(word, runs)
  local named = paths.join(runs, word)
  if paths.is_folder(word) then return word end
  if paths.is_folder(named) then return named end
  local names = paths.is_folder(runs) and fs.list(runs) or {}
  return errors.failure("not_found", "no run %s, nor %s%s", word, named, suggest.phrase(word, names))
end

local function find_runs(given)
  local folders = {}
  for i, word in ipairs(given.run) do
    local folder, message, code = find_run(word, given.runs)
    if not folder then return nil, message, code end
    folders[i] = folder
  end
  return folders
end

local function run(given, streams)
  local folders, message, code = find_runs(given)
  if not folders then return nil, message, code end
  local path
  path, message, code = report.write(folders, given.output)
  if not path then return nil, message, code end
  streams.out:write(path, "\n")
  for _, folder in ipairs(given.csv and folders or {}) do
    path, message, code = telemetry_csv.write(folder)
    if not path then return nil, message, code end
    streams.out:write(path, "\n")
  end
end

return {
  summary = "writes report.html of a run, or compares several",
  usage = "[options] RUN [RUN …]",
  description = [[
The page is one file that loads nothing: curves, gradients, evaluations, generations, data and configuration.
It prints the path of what it wrote. A damaged or unfinished run gives a page of what is there.]],
  options = options,
  run = run,
}
