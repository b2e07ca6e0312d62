-- Coroutines over LuaSocket: many connections of one process, each written as if it were the only one.
-- A function started by loop.spawn may read, write, connect, accept, sleep and wait; meanwhile the
-- others run.
local socket = require "socket"

local loop = {}

local readers, writers = {}, {} -- socket → the coroutine that waits for it
local read_list, write_list = {}, {}
local sleepers = {}             -- coroutine → when it goes on
local ready, queued = {}, {}    -- coroutines to resume, with what their wait returned
local stopped = false

--- Seconds from a clock; for differences.
loop.now = socket.gettime

local function resume(thread, ...)
  local ok, message = coroutine.resume(thread, ...)
  if not ok then io.stderr:write(debug.traceback(thread, message), "\n") end
end

-- Has a coroutine go on; whoever comes first decides what its wait returns.
local function wake(thread, value)
  if queued[thread] then return end
  queued[thread], sleepers[thread] = true, nil
  ready[#ready + 1] = { thread, value }
end

--- Starts a function; it runs to its first wait when the loop turns.
---@param fn function
function loop.spawn(fn, ...)
  local arguments = table.pack(...)
  ready[#ready + 1] = { coroutine.create(function() fn(table.unpack(arguments, 1, arguments.n)) end) }
end

--- Lets the others run for that long.
---@param seconds number
function loop.sleep(seconds)
  sleepers[coroutine.running()] = socket.gettime() + seconds
  return coroutine.yield()
end

--- Something to wait for: event:wait(seconds) is true once event:signal() was called, false when the time is over.
function loop.event()
  local waiting = {}
  return {
    wait = function(_, seconds)
      local thread = coroutine.running()
      waiting[thread] = true
      if seconds then sleepers[thread] = socket.gettime() + seconds end
      local signalled = coroutine.yield()
      waiting[thread] = nil
      return signalled == true
    end,
    signal = function()
      for thread in pairs(waiting) do
        waiting[thread] = nil
        wake(thread, true)
      end
    end,
  }
end

local function add(list, set, handle)
  if set[handle] then error("two wait for one socket", 0) end
  set[handle] = coroutine.running()
  list[#list + 1] = handle
end

local function drop(list, set, handle)
  set[handle] = nil
  for i, other in ipairs(list) do
    if other == handle then
      list[i] = list[#list]
      list[#list] = nil
      return
    end
  end
end

local function await(list, set, handle, deadline)
  add(list, set, handle)
  if deadline then sleepers[coroutine.running()] = deadline end
  local able = coroutine.yield()
  drop(list, set, handle)
  sleepers[coroutine.running()] = nil
  return able == true
end

-- ---- streams -----------------------------------------------------------------------------------

local Stream = {}
Stream.__index = Stream

local function stream(handle)
  handle:settimeout(0)
  handle:setoption("tcp-nodelay", true)
  return setmetatable({ handle = handle, buffer = "" }, Stream)
end

-- More bytes into the buffer; false at the end, or when `deadline` is past.
function Stream:fill(deadline)
  while true do
    local bytes, message, partial = self.handle:receive(65536)
    bytes = bytes or partial
    if bytes and #bytes > 0 then
      self.buffer = #self.buffer > 0 and self.buffer .. bytes or bytes
      return true
    end
    if message ~= "timeout" then return false end
    if not await(read_list, readers, self.handle, deadline) then return false end
  end
end

--- A line without its end; nil when the other side is gone (or silent for `seconds`).
function Stream:line(seconds)
  local deadline = seconds and socket.gettime() + seconds
  while true do
    local line, rest = self.buffer:match("^([^\n]*)\n(.*)$")
    if line then
      self.buffer = rest
      return (line:gsub("\r$", ""))
    end
    if #self.buffer > 65536 or not self:fill(deadline) then return nil end
  end
end

--- That many bytes, or nil.
function Stream:take(count)
  local parts, have = { self.buffer }, #self.buffer
  while have < count do
    self.buffer = ""
    if not self:fill() then return nil end
    parts[#parts + 1] = self.buffer
    have = have + #self.buffer
  end
  local all = table.concat(parts)
  self.buffer = all:sub(count + 1)
  return all:sub(1, count)
end

--- All until the other side closes.
function Stream:rest()
  local parts = { self.buffer }
  self.buffer = ""
  while self:fill() do
    parts[#parts + 1] = self.buffer
    self.buffer = ""
  end
  return table.concat(parts)
end

--- Whether all was written.
function Stream:write(bytes)
  local at = 1
  while at <= #bytes do
    local last, message, partial = self.handle:send(bytes, at)
    if not last and message ~= "timeout" then return false end
    at = (last or partial) + 1
    if not last and not await(write_list, writers, self.handle) then return false end
  end
  return true
end

function Stream:close() self.handle:close() end

--- Closes so that the other side sees a reset.
function Stream:reset()
  self.handle:setoption("linger", { on = true, timeout = 0 })
  self.handle:close()
end

--- A connection; nil when nobody listens.
function loop.connect(host, port)
  local handle = assert(socket.tcp())
  handle:settimeout(0)
  local ok, message = handle:connect(host, port)
  if not ok and message == "timeout" then
    await(write_list, writers, handle)
    ok, message = handle:connect(host, port)
    ok = ok or message == "already connected"
  end
  if ok then return stream(handle) end
  handle:close()
  return nil, message
end

local MOST = 960 -- select() knows 1024 descriptors
local open = 0

--- Whether connections should be given up rather than kept.
---@return boolean
function loop.crowded() return open > MOST // 2 end

--- Listens on loopback and runs `serve(stream)` for each connection; returns the port.
---@param port integer  0: any
---@param serve function
---@return integer port
function loop.listen(port, serve)
  local listener = assert(socket.bind("127.0.0.1", port, 512))
  listener:settimeout(0)
  local _, bound = listener:getsockname()
  loop.spawn(function()
    while true do
      local handle = open < MOST and listener:accept()
      if handle then
        open = open + 1
        loop.spawn(function()
          local connection = stream(handle)
          serve(connection)
          connection:close()
          open = open - 1
        end)
      elseif open >= MOST then
        loop.sleep(0.005)
      else
        await(read_list, readers, listener)
      end
    end
  end)
  return math.tointeger(tonumber(bound))
end

-- ---- turning --------------------------------------------------------------------------------------

local function run_ready()
  while #ready > 0 do
    local now = ready
    ready = {}
    for _, item in ipairs(now) do
      queued[item[1]] = nil
      resume(item[1], item[2])
    end
  end
end

local function wake_sleepers()
  local now = socket.gettime()
  for thread, time in pairs(sleepers) do
    if time <= now then wake(thread, false) end
  end
end

local function next_wake()
  local first = math.huge
  for _, time in pairs(sleepers) do first = math.min(first, time) end
  return math.min(math.max(first - socket.gettime(), 0), 1)
end

--- Turns until loop.stop().
function loop.run()
  while not stopped do
    run_ready()
    if stopped then return end
    local able_read, able_write = socket.select(read_list, write_list, next_wake())
    for _, handle in ipairs(able_read) do
      if readers[handle] then wake(readers[handle], true) end
    end
    for _, handle in ipairs(able_write) do
      if writers[handle] then wake(writers[handle], true) end
    end
    wake_sleepers()
  end
end

function loop.stop() stopped = true end

return loop
