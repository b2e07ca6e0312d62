-- Folders that a spec may fill and that are gone afterwards.
local fs = require("crucible.core").fs

local temp = {}
local made = {}

-- In memory where there is such a place: checkpoints are synced file by file, and a busy disk makes
-- the suite wait for minutes.
local function root()
  local given = os.getenv "TMPDIR"
  if given and given ~= "" then return given end
  local shared = fs.stat "/dev/shm"
  return shared and shared.folder and "/dev/shm" or "/tmp"
end

--- A new empty folder.
---@return string
function temp.folder()
  local name = fs.random_bytes(6):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
  local path = root() .. "/crucible-spec-" .. name
  assert(fs.make_folder(path))
  made[#made + 1] = path
  return path
end

--- Writes a file below a folder; returns its path.
---@param folder string
---@param name string
---@param text string
---@return string
function temp.file(folder, name, text)
  local path = folder .. "/" .. name
  assert(fs.make_folder((path:match("^(.*)/"))))
  assert(fs.write_file(path, text))
  return path
end

--- The bytes of a file.
---@param path string
---@return string
function temp.read(path) return assert(fs.read_file(path)) end

--- Removes every folder made so far: for after_each.
function temp.clean()
  for _, path in ipairs(made) do fs.remove_tree(path) end
  made = {}
end

return temp
