-- Programs of the build under test that carry the module or the library: built where liblua is at hand.
local shell = require "spec.support.shell"
local tiny_model = require "spec.support.tiny_model"

local hosts = { model = tiny_model.path, build = os.getenv "CRUCIBLE_BUILD" or "build/release" }

local cache = io.open(hosts.build .. "/CMakeCache.txt")
local settings = cache and cache:read "a" or ""
if cache then cache:close() end

--- A build whose programs check memory themselves.
hosts.sanitized = settings:find("CR_SANITIZE:BOOL=ON", 1, true) ~= nil

--- Path of a program in <build>/embed; nil where it was not built.
---@param name string
---@return string?
function hosts.path(name)
  local path = hosts.build .. "/embed/" .. name
  local file = io.open(path)
  if not file then return nil end
  file:close()
  return path
end

--- Runs one with words as arguments; "pending" where it was not built.
---@param name string
---@param ... string
---@return string output, integer status
function hosts.run(name, ...)
  local words = { "timeout", "300", hosts.path(name) }
  for _, word in ipairs { ... } do words[#words + 1] = shell.quote(word) end
  return shell.run(table.concat(words, " "))
end

--- The same, which must end well.
---@param name string
---@param ... string
---@return string output
function hosts.must(name, ...)
  local output, status = hosts.run(name, ...)
  assert(status == 0, output)
  return output
end

--- Names of programs that are not in PATH.
---@param ... string
---@return string[]
function hosts.missing(...)
  local list = {}
  for _, name in ipairs { ... } do
    if select(2, shell.run(("PATH=$PATH:/usr/sbin:/sbin command -v %s >/dev/null"):format(name))) ~= 0 then
      list[#list + 1] = name
    end
  end
  return list
end

return hosts
