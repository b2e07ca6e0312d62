-- Starts spec/support/tinker_fault_proxy.lua: a proxy before a Tinker server that goes wrong as it is told to.
--
--   faults.start { target = server, plan = { ["POST /api/v1/optim_step"] = { "ok", "reset_after" } } }
--   faults.start { target = server, random = { seed = 1, share = 0.3, most = 200, kinds = faults.passing } }
--
-- A plan gives one fault a request, then none; with always = true the last one again and again. Other
-- options: stall (seconds, 30), retry_after (a header of status:N).
--
--   ok              as the server answers             duplicate    the answer's bytes twice
--   reset           before the server saw it          null         a null among the log-probabilities
--   reset_after     the server did it                 short, long  a log-probability fewer, more
--   half            of the answer's bytes             fewer        a datum fewer
--   status:503      the server did not see it         html         200 and a page
--   after:502       the server did it                 zeros        a gigabyte of them
--   stall           nothing, then a reset             zeros_gzip   the same, compressed
--   stall_after     the same, but the server did it
local core = require "crucible.core"
local json = require "crucible.json"
local standin = require "spec.support.tinker_standin"

---@class spec.Faults
---@field url string  base_url for the client
local Faults = {}
Faults.__index = Faults

local function ask(self, path)
  local client <close> = assert(core.open_http())
  local transfer <close> = assert(client:start { url = self.url .. path })
  while not transfer:state().done do client:wait(1) end
  return transfer:body()
end

--- What went wrong so far, in order: { kind, request }.
---@return { kind: string, request: string }[]
function Faults:done() return json.decode(ask(self, "/faults")) end

function Faults:stop()
  ask(self, "/quit")
  self.pipe:close()
end

local faults = {}

--- Faults that pass when a request is repeated.
faults.passing = {
  "reset", "reset_after", "half", "status:408", "status:425", "status:429", "status:500", "status:502", "after:502",
  "after:500", "stall", "stall_after", "duplicate",
}

---@param options table  target: spec.Standin
---@return spec.Faults
function faults.start(options)
  local given = {}
  for name, value in pairs(options) do given[name] = value end
  given.target = options.target.port
  local pipe, pid, port = standin.run("tinker_fault_proxy.lua", given)
  return setmetatable({ pipe = pipe, pid = pid, port = port, url = ("http://127.0.0.1:%d"):format(port) }, Faults)
end

return faults
