-- Programs run from a spec, in a folder of their own.
local shell = {}

--- A word for sh, whatever it holds.
---@param text string
---@return string
function shell.quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- Runs a command; what it wrote to both streams, and its exit status. A sanitizer that is loaded
--- ahead of this interpreter stays out of the command, whose leaks are not ours.
---@param command string
---@return string output, integer status
function shell.run(command)
  local pipe = assert(io.popen("unset LD_PRELOAD; { " .. command .. "\n} 2>&1", "r"))
  local output = pipe:read("a")
  local _, _, status = pipe:close()
  return output, status
end

local preload = os.getenv "LD_PRELOAD"

--- The interpreter as a command's first word, with the sanitizer that a build under test may need.
shell.lua = preload and preload ~= "" and "LD_PRELOAD=" .. shell.quote(preload) .. " lua5.4" or "lua5.4"

--- A new, empty folder; shell.remove_tree takes it away.
---@return string path
function shell.temporary_folder()
  local path, status = shell.run("mktemp -d")
  assert(status == 0, path)
  return (path:gsub("\n$", ""))
end

function shell.remove_tree(path) shell.run("rm -rf " .. shell.quote(path)) end

--- Writes a file, making its folder.
---@param path string
---@param bytes string
function shell.write(path, bytes)
  shell.run("mkdir -p " .. shell.quote(path:match("^(.*)/") or "."))
  local handle = assert(io.open(path, "wb"))
  handle:write(bytes)
  handle:close()
end

return shell
