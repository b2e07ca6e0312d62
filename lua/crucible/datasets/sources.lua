-- Where data sets come from: the published files, fetched once into the cache and checked.
--
-- A data set names, by split, the files it needs:
--
--     files = { train = { { name = "train.jsonl", url = "https://…", sha256 = "…", size = 4166206 } } }
--
-- A file with `members` is an archive: those of its entries are kept, under the names given, and the
-- archive itself is not. Licence and citation are shown once: when the first file is fetched.
local download = require "crucible.download"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local paths = require "crucible.paths"

local sources = {}

---@class crucible.datasets.File
---@field name string
---@field url string
---@field sha256 string?
---@field size integer?
---@field members table<string, string>?  entry of the archive → name of the file

-- What a file stands for in the folder: itself, or the members of an archive.
local function names_of(file)
  if not file.members then return { file.name } end
  local names = {}
  for _, name in pairs(file.members) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function is_here(folder, file)
  for _, name in ipairs(names_of(file)) do
    if not paths.is_file(paths.join(folder, name)) then return false end
  end
  return true
end

-- The words of licence and citation, once per folder.
local function show_terms(folder, dataset, file)
  local note = paths.join(folder, "SOURCE.txt")
  local terms = ("%s\nlicence: %s\ncite: %s\n"):format(dataset.source or file.url, dataset.licence or "unknown",
    dataset.citation or "-")
  download.notice(("%s: fetching %s"):format(dataset.name, file.url))
  if fs.read_file(note) == terms then return end
  if fs.write_file(note, terms) then download.notice((terms:gsub("\n$", ""):gsub("^", "  "):gsub("\n", "\n  "))) end
end

local function move_members(file, from, folder)
  for member, name in pairs(file.members) do
    local ok, message, code = fs.rename(paths.join(from, member), paths.join(folder, name))
    if not ok then
      if code ~= "not_found" then return nil, message, code end
      return errors.failure("format", "%s: has no entry %s", file.url, member)
    end
  end
  return true
end

local function unpack_members(file, archive, folder)
  local aside = ("%s.%08x"):format(archive, string.unpack("<I4", assert(fs.random_bytes(4))))
  local ok, message, code = fs.unpack(archive, aside, { most_bytes = file.most_bytes or 1 << 34 })
  if ok then ok, message, code = move_members(file, aside, folder) end
  fs.remove_tree(aside)
  fs.remove_tree(archive)
  if not ok then return nil, message, code end
  return true
end

local function fetch_file(dataset, file, folder)
  show_terms(folder, dataset, file)
  local path, message, code = download.fetch {
    url = file.url, to = paths.join(folder, file.name), sha256 = file.sha256, size = file.size,
    progress = download.meter(file.name),
  }
  if not path then return nil, message, code end
  if not file.members then return true end
  return unpack_members(file, path, folder)
end

--- Fetches what the folder lacks of a split.
---@param dataset { name: string, files: table<string, crucible.datasets.File[]>, source: string?, licence: string?, citation: string? }
---@param split string
---@param folder string
---@return true? ok, string? message, string? code
function sources.fetch(dataset, split, folder)
  local made, message, code = fs.make_folder(folder)
  if not made then return nil, message, code end
  for _, file in ipairs(dataset.files[split] or {}) do
    local ok = is_here(folder, file)
    if not ok then ok, message, code = fetch_file(dataset, file, folder) end
    if not ok then return nil, message, code end
  end
  return true
end

--- "put train.jsonl (https://…) into the folder gsm8k there": what to do by hand.
---@param dataset { name: string, files: table<string, crucible.datasets.File[]>, folder: string? }
---@param split string
---@return string
function sources.advice(dataset, split)
  local parts = {}
  for _, file in ipairs(dataset.files[split] or {}) do
    parts[#parts + 1] = ("%s (from %s)"):format(table.concat(names_of(file), ", "), file.url)
  end
  return ("put %s into the folder %s there"):format(table.concat(parts, " and "), dataset.folder or dataset.name)
end

return sources
