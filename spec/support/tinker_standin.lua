-- Starts spec/support/tinker_server.lua: a server of the Tinker API that trains the tiny model.
--
--   local server = standin.start { kind = "skyrl" }     nil where LuaSocket is not there
--
-- kind says what it is like; each of these can be given by itself, too:
--
--            dialects         cross-entropy divided by              a seq_id again       order        a poll in vain
--   hosted   JSON, protobuf   nothing: a sum                        same future, or 409  by seq_id    try_again
--   skyrl    JSON             own weights (floored), sequences      done twice           of arrival   408
--   hatchery JSON             the request's weights, 1 at least     same future          of arrival   try_again
--   tuft     protobuf         nothing: a sum                        409                  strict, 409  try_again
--
--   key             the API key that is asked for                   order        "arrival", "wait", "strict"
--   reduction       "sum", "sequence_mean", "token_mean"            dedupe       "none", "body", "silent"
--   latency         seconds of a round trip                         poll_seconds  a poll is held, 2
--   step_seconds    a forward_backward takes at least               sample_seconds  a sampling takes at least
--   load_first_only load_weights is permitted as seq_id 1 alone
--   folder, port    to be back after stop() with what was saved     alpha, targets  of the lora: 32, by the request
local core = require "crucible.core"
local json = require "crucible.json"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

---@class spec.Standin
---@field url string         base_url for the client
---@field port integer
---@field folder string
---@field base_model string  the name that clients use
---@field key string?
local Standin = { base_model = "tiny" }
Standin.__index = Standin

--- The answer to a request of one's own: body, status.
---@param path string
---@param body string?
---@return string body, integer status
function Standin:ask(path, body)
  local client <close> = assert(core.open_http())
  local transfer <close> = assert(client:start({ url = self.url .. path }, body))
  while not transfer:state().done do client:wait(1) end
  return transfer:body(), transfer:state().status
end

--- What was applied to a model's weights, in order, loads taken into account: "forward_backward DIGEST", "optim_step
--- LR". Without an id, of the only model.
---@param id string?
---@return string[]
function Standin:applied(id) return json.decode((self:ask("/history?" .. (id or self:stats().models[1])))) end

--- Every operation that the engine ever applied: { n, model, entry }.
---@return table[]
function Standin:everything()
  local list = {}
  for line in io.lines(self.folder .. "/applied.jsonl") do list[#list + 1] = json.decode(line) end
  return list
end

--- "POST forward_backward" and so on, one a request.
---@return string[]
function Standin:requests()
  local list = {}
  for line in self:ask("/log"):gmatch "[^\n]+" do list[#list + 1] = line end
  return list
end

--- busy, span (seconds), ops, polls, requests, models (ids), applied.
---@return table
function Standin:stats() return json.decode((self:ask "/stats")) end

--- Forgets the figures of stats.
function Standin:reset() self:ask("/reset", "{}") end

--- { kill_model = id }, { expire = request_id }, { options = { latency = … } }
---@param order table
function Standin:control(order) self:ask("/control", json.encode(order)) end

function Standin:stop()
  if not self.pipe then return end
  self:ask "/quit"
  self.pipe:close()
  self.pipe = nil
end

--- Ends it in the middle of whatever it does.
function Standin:kill()
  shell.run("kill -9 " .. self.pid)
  self.pipe:close()
  self.pipe = nil
end

local standin = {}

local folder = debug.getinfo(1, "S").source:match "^@(.*)tinker_standin%.lua$"

-- The process finds its modules where this one does: both run the build under test.
local function command(program, file)
  return ("unset LUA_PATH_5_4 LUA_CPATH_5_4; echo $$; LUA_PATH=%s LUA_CPATH=%s exec lua5.4 %s %s"):format(
    shell.quote(package.path), shell.quote(package.cpath), shell.quote(folder .. program), shell.quote(file))
end

--- Runs a program of this folder that prints its port; pipe, pid, port.
---@param program string
---@param options table
function standin.run(program, options)
  local file = temp.file(temp.folder(), "options.json", json.encode(options))
  local pipe = assert(io.popen("ASAN_OPTIONS=detect_leaks=0 exec sh -c " .. shell.quote(command(program, file)), "r"))
  local pid = assert(pipe:read "l")
  return pipe, pid, assert(math.tointeger(tonumber(pipe:read "l")), program .. " did not start")
end

--- Starts one; nil where LuaSocket is not there.
---@param options table?  as above
---@return spec.Standin?
function standin.start(options)
  if not pcall(require, "socket") then return nil end
  local given = { folder = temp.folder(), path = require("spec.support.tiny_model").path }
  for name, value in pairs(options or {}) do given[name] = value end
  local pipe, pid, port = standin.run("tinker_server.lua", given)
  return setmetatable({ pipe = pipe, pid = pid, port = port, url = ("http://127.0.0.1:%d"):format(port),
    folder = given.folder, key = given.key }, Standin)
end

return standin
