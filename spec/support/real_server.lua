-- A real server of the Tinker API, for the specs of spec/servers: scripts/tinker_server, which installs it.
-- Only where CRUCIBLE_SERVERS asks for it: "all", or names with commas.
local shell = require "spec.support.shell"

local real_server = {}

---@class spec.RealServer
---@field base_url string
---@field api_key string
---@field base_model string    path of the model for lora.config
---@field remote_model string  what the server calls it
---@field pid string
---@field folder string        what it writes
local RealServer = {}
RealServer.__index = RealServer

function RealServer:stop()
  shell.run("kill " .. self.pid)
  self.pipe:close()
end

local function asked_for(name)
  local list = os.getenv "CRUCIBLE_SERVERS" or ""
  if list == "all" then return true end
  for one in list:gmatch "[^,]+" do
    if one == name then return true end
  end
  return false
end

--- Starts one and waits until it is ready; nil when it is not asked for.
---@param name "hatchery"|"skyrl"|"tuft"
---@param folder string
---@return spec.RealServer?
function real_server.start(name, folder)
  if not asked_for(name) then return nil end
  local pipe = assert(io.popen(("exec scripts/tinker_server %s --folder %s"):format(name, shell.quote(folder)), "r"))
  local server = setmetatable({ pipe = pipe, folder = folder }, RealServer)
  for line in pipe:lines() do
    if line == "ready" then return server end
    local field, value = line:match "^(%S+) (.*)$"
    server[field] = value
  end
  pipe:close()
  error(name .. " did not start: see its log in " .. folder, 0)
end

return real_server
