-- The event loop of remote sessions: HTTP requests under way, and what is to happen later.
--
-- One loop serves all sessions of a Lua state: whoever waits for an answer moves all of them, heartbeats
-- included. Nothing happens between two waits, and a wait sleeps in the kernel until a byte or the next
-- due moment comes.
local core = require "crucible.core"
local errors = require "crucible.errors"
local fs = require "crucible.fs"

local LONGEST_SLEEP = 0.5 -- seconds: how late a signal or a cancel is seen

---@class crucible.tinker.Loop
---@field http crucible.core.Http
---@field calls table[]   { transfer, on_end } under way
---@field timers table[]  { at, action } in no order: there are few
local Loop = {}
Loop.__index = Loop

local loop = {}

--- A loop of its own.
---@return crucible.tinker.Loop? loop, string? message, string? code
function loop.new()
  local http, message, code = core.open_http()
  if not http then return nil, message, code end
  return setmetatable({ http = http, calls = {}, timers = {}, users = 0 }, Loop)
end

local shared -- of this Lua state, while anyone uses it

--- The loop of this Lua state; each `acquire` asks for one `release`.
---@return crucible.tinker.Loop? loop, string? message, string? code
function loop.acquire()
  if not shared then
    local made, message, code = loop.new()
    if not made then return nil, message, code end
    shared = made
  end
  shared.users = shared.users + 1
  return shared
end

--- Gives a loop back; the last one to do so closes it.
function Loop:release()
  self.users = self.users - 1
  if self.users > 0 then return end
  if shared == self then shared = nil end
  for _, call in ipairs(self.calls) do call.transfer:close() end
  self.calls, self.timers = {}, {}
  self.http:close()
end

---@class crucible.tinker.Call
---@field cancel fun(self: crucible.tinker.Call)

local Call = {}
Call.__index = Call

--- Ends a request whose answer nobody wants any more; on_end is not called.
function Call:cancel()
  if self.ended then return end
  self.ended = true
  self.transfer:close()
end

--- Starts a request. `on_end(state, transfer)` hears of its end, whatever it was.
---@param request crucible.core.HttpRequest
---@param body string?
---@param on_end fun(state: crucible.core.HttpState, transfer: crucible.core.Transfer)
---@return crucible.tinker.Call? call, string? message, string? code
function Loop:send(request, body, on_end)
  local transfer, message, code = self.http:start(request, body)
  if not transfer then return nil, message, code end
  local call = setmetatable({ transfer = transfer, on_end = on_end, ended = false }, Call)
  self.calls[#self.calls + 1] = call
  return call
end

--- Calls `action` once, so many seconds from now; returns what `forget` takes.
---@param seconds number
---@param action fun()
---@return table timer
function Loop:after(seconds, action)
  local timer = { at = fs.clock() + seconds, action = action }
  self.timers[#self.timers + 1] = timer
  return timer
end

--- A timer that is not to go off.
---@param timer table?
function Loop:forget(timer) -- luacheck: ignore self
  if timer then timer.action = nil end
end

-- Takes out the timers that are due or forgotten; returns the due ones' actions and when the next is due.
local function due(self)
  local now, kept, actions, next_at = fs.clock(), {}, {}, nil
  for _, timer in ipairs(self.timers) do
    if timer.action and timer.at <= now then
      actions[#actions + 1] = timer
    elseif timer.action then
      kept[#kept + 1] = timer
      next_at = math.min(next_at or timer.at, timer.at)
    end
  end
  self.timers = kept
  return actions, next_at
end

local function run_timers(self)
  local actions, next_at = due(self)
  for _, timer in ipairs(actions) do
    if timer.action then timer.action() end
  end
  return #actions > 0, next_at
end

-- Tells those whose transfers ended.
local function end_calls(self)
  local running, ended = {}, {}
  for _, call in ipairs(self.calls) do
    if not call.ended then
      local list = call.transfer:done() and ended or running
      list[#list + 1] = call
    end
  end
  self.calls = running
  for _, call in ipairs(ended) do
    if not call.ended then -- another's on_end may have cancelled it
      call.ended = true
      local transfer <close> = call.transfer
      call.on_end(transfer:state(), transfer)
    end
  end
  return #ended > 0
end

--- Moves everything for at most so many seconds; returns early when something has happened.
---@param seconds number
---@return true? ok, string? message, string? code
function Loop:turn(seconds)
  local happened, next_at = run_timers(self)
  if happened then seconds = 0 end
  if next_at then seconds = math.min(seconds, math.max(0, next_at - fs.clock())) end
  local running, message, code = self.http:wait(math.min(seconds, LONGEST_SLEEP))
  if not running then return nil, message, code end
  if running < #self.calls then end_calls(self) end
  run_timers(self)
  return true
end

-- In a coroutine host others run while this one waits.
local function give_way(yield)
  if yield == true then
    if not coroutine.isyieldable() then return false end
    coroutine.yield()
    return true
  end
  if not yield then return false end
  yield()
  return true
end

--- Turns until `condition()` is true, or `deadline` (of fs.clock) has passed, or `stop()` says so.
---@param condition fun(): boolean
---@param options { deadline: number?, yield: boolean|function|nil, stop: (fun(): boolean)? }
---@return true? ok, string? message, string? code
function Loop:turn_until(condition, options)
  while not condition() do
    if options.stop and options.stop() then return errors.failure("cancelled", "cancelled") end
    if options.deadline and fs.clock() >= options.deadline then return errors.failure("io", "timed out") end
    local limit = options.deadline and math.max(0, options.deadline - fs.clock()) or LONGEST_SLEEP
    local ok, message, code = self:turn(give_way(options.yield) and 0 or limit)
    if not ok then return nil, message, code end
  end
  return true
end

return loop
