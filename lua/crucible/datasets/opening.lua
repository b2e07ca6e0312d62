-- Finding what a name, a path or a table stands for, and a reader of its raw rows.
--
-- A named data set is looked for in the folders of paths.data() and, when none has it, fetched.
local download = require "crucible.download"
local errors = require "crucible.errors"
local files = require "crucible.datasets.files"
local lists = require "crucible.lists"
local paths = require "crucible.paths"
local sources = require "crucible.datasets.sources"

local opening = {}

--- A reader of a file's rows (as files.reader gives), and its path.
---@param path string
---@param options table
function opening.file(path, options)
  local next_row, message, code = files.reader(path, options)
  return next_row, next_row and path or message, code
end

--- A reader of the rows of a table.
---@param rows table[]
function opening.table(rows)
  local index = 0
  return function()
    index = index + 1
    if rows[index] ~= nil then return rows[index], index end
  end, "the given table"
end

local function folders_of(dataset, given_path)
  local name = dataset.folder or dataset.name
  if given_path then return { given_path, paths.join(given_path, name) } end
  local folders = {}
  for i, root in ipairs(paths.data()) do folders[i] = paths.join(root, name) end
  return folders
end

-- The first file of the split, as published or compressed.
local function open_files(dataset, folder, options)
  local published = paths.join(folder, dataset.files[options.split][1].name)
  for _, ending in ipairs { "", ".gz", ".zst" } do
    if paths.is_file(published .. ending) then return opening.file(published .. ending, options) end
  end
end

local function open_in(dataset, folder, options)
  if dataset.open then return dataset.open(folder, options.split, options) end
  return open_files(dataset, folder, options)
end

-- Its reader, fetched before; or nil, why that cannot be.
local function open_fetched(dataset, options)
  if not dataset.files or options.path then return nil end
  if not options.download then return nil, "; downloads are switched off" end
  local folder = paths.join(paths.cache(), "data", dataset.folder or dataset.name)
  if download.is_offline() then return nil, "; the network is switched off" end
  local ok, message = sources.fetch(dataset, options.split, folder)
  if not ok then return nil, "; it could not be fetched: " .. message end
  local next_row, path, code = open_in(dataset, folder, options)
  if not next_row and not code then return nil, "; what was fetched does not have it" end
  return next_row, path, code
end

local function advice_of(dataset, split)
  if dataset.advice then return "; " .. dataset.advice(split) end
  return dataset.files and "; " .. sources.advice(dataset, split) or ""
end

local function check_split(dataset, options)
  if lists.contains(dataset.splits, options.split) then return true end
  if options.labels == "all" and lists.contains(dataset.unlabelled or {}, options.split) then return true end
  return errors.failure("not_found", '%s has no labelled split "%s"; it has: %s', dataset.name, options.split,
    table.concat(dataset.splits, ", "))
end

--- A reader of a split of a named data set, and what it reads.
---@param dataset crucible.lora.Dataset
---@param options table
---@return function? next_row, string? path_or_message, string? code
function opening.named(dataset, options)
  if options.path and paths.is_file(options.path) then return opening.file(options.path, options) end
  local ok, message, failed = check_split(dataset, options)
  if not ok then return nil, message, failed end
  local folders = folders_of(dataset, options.path)
  for _, folder in ipairs(folders) do
    local next_row, path, code = open_in(dataset, folder, options)
    if code then return nil, path, code end
    if next_row then return next_row, path end
  end
  local next_row, path, code = open_fetched(dataset, options)
  if next_row or code then return next_row, path, code end
  return errors.failure("not_found", "%s (%s) was not found in %s%s%s", dataset.name, options.split,
    table.concat(folders, ", "), path or "", advice_of(dataset, options.split))
end

return opening
