-- Names of files and folders, and where the library looks for things it was not told.
local fs = require "crucible.fs"

local paths = {}

local here = debug and debug.getinfo(1, "S").source:match("^@(.*)paths%.lua$")

--- Joins with single slashes; an absolute later part starts anew.
---@param ... string
---@return string
function paths.join(...)
  local joined = ""
  for _, part in ipairs { ... } do
    if part:sub(1, 1) == "/" or joined == "" then
      joined = part
    else
      joined = joined:gsub("/+$", "") .. "/" .. part
    end
  end
  return joined
end

--- "a/b/c.txt" → "c.txt"
---@param path string
---@return string
function paths.basename(path) return path:match("([^/]+)/*$") or path end

--- "a/b/c.txt" → "a/b"
---@param path string
---@return string
function paths.dirname(path)
  local parent = path:gsub("/+$", ""):match("^(.*)/[^/]*$")
  if parent == "" then return "/" end
  return parent or "."
end

--- Kind and size of what lies at a path, or nil.
---@param path string
---@return { folder: boolean, size: integer, modified: number }?
function paths.stat(path) return fs.stat(path) end

---@param path string
---@return boolean
function paths.is_file(path)
  local stat = paths.stat(path)
  return stat ~= nil and not stat.folder
end

---@param path string
---@return boolean
function paths.is_folder(path)
  local stat = paths.stat(path)
  return stat ~= nil and stat.folder
end

local function environment(name)
  local value = os and os.getenv(name)
  return value ~= "" and value or nil
end

--- The folder of downloaded models and data: $CRUCIBLE_HOME, else crucible in the user's cache.
---@return string
function paths.cache()
  local home = environment "CRUCIBLE_HOME"
  if home then return home end
  local cache = environment "XDG_CACHE_HOME" or paths.join(environment "HOME" or ".", ".cache")
  return paths.join(cache, "crucible")
end

--- Folders searched for data sets, in order: $CRUCIBLE_DATA, the cache, and examples/data of
--- the source tree that this library runs from, if it does.
---@return string[]
function paths.data()
  local folders = { environment "CRUCIBLE_DATA" }
  folders[#folders + 1] = paths.join(paths.cache(), "data")
  if here then folders[#folders + 1] = paths.join(here, "../../examples/data") end
  return folders
end

return paths
