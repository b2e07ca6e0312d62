-- A proxy before a Tinker server that goes wrong as it is told to; a process of its own:
--
--     lua5.4 spec/support/tinker_fault_proxy.lua OPTIONS.json      prints its port, then serves
--
-- spec/support/tinker_faults.lua starts it and lists the faults.
local http = require "spec.support.http_server"
local json = require "crucible.json"
local loop = require "spec.support.socket_loop"

local handle <close> = assert(io.open(arg[1], "rb"))
local options = assert(json.decode(handle:read "a"))
local done, seen, last = json.array {}, {}, loop.now()
local GIGABYTE = 1 << 30

if options.random then math.randomseed(options.random.seed) end

-- ---- which fault ------------------------------------------------------------------------------------------

local function planned(name)
  local plan = options.plan and options.plan[name]
  if not plan then return nil end
  seen[name] = (seen[name] or 0) + 1
  return plan[seen[name]] or options.always and plan[#plan] or "ok"
end

local function drawn()
  local random = options.random
  if not random or #done >= (random.most or math.huge) or math.random() >= random.share then return "ok" end
  return random.kinds[math.random(#random.kinds)]
end

-- ---- answers made worse ------------------------------------------------------------------------------------

local function bad_numbers(change)
  return function(answer)
    local value = json.decode(answer.body)
    local outputs = type(value) == "table" and value.loss_fn_outputs
    if not outputs or not outputs[1] or not outputs[1].logprobs then return false end
    change(outputs[1].logprobs.data, outputs)
    answer.body = json.encode(value)
    return true
  end
end

local worse = {
  null = bad_numbers(function(data) data[#data] = json.null end),
  short = bad_numbers(function(data) data[#data] = nil end),
  long = bad_numbers(function(data) data[#data + 1] = -1 end),
  fewer = bad_numbers(function(_, outputs) outputs[#outputs] = nil end),
}

-- Zeros without end, by a compressor that has seen nothing else: "0", then "258 bytes from 1 back" for ever.
local function compressed_zeros()
  local bits = "110" .. "00110000"
  local match = "11000101" .. "00000"
  while #bits < 16 + 104 do bits = bits .. match end
  local function byte(at)
    return string.char(tonumber(bits:sub(at, at + 7):reverse(), 2))
  end
  local unit = {}
  for i = 0, 12 do unit[#unit + 1] = byte(17 + 8 * i) end
  return "\x1f\x8b\8\0\0\0\0\0\0\3" .. byte(1) .. byte(9), table.concat(unit)
end

local function pour(stream, first, unit, total)
  local block = unit:rep(65536 // #unit)
  if not stream:write(first) then return end
  for _ = 1, total // #block do
    if not stream:write(block) then return end
  end
end

-- ---- faults ---------------------------------------------------------------------------------------------------

local JSON = { ["Content-Type"] = "application/json" }

local function forward(request)
  local status, headers, body = http.ask("127.0.0.1", options.target, request)
  if not status then return { status = 502, headers = JSON, body = '{"detail":"no server"}' } end
  local kept = {}
  for _, name in ipairs { "content-type", "location", "retry-after" } do kept[name] = headers[name] end
  return { status = status, headers = kept, body = body }
end

local function bytes_of(answer) return http.answer_bytes(answer.status, answer.headers, answer.body) end

local faults = {}

function faults.ok(stream, request) return stream:write(bytes_of(forward(request))) end

function faults.reset(stream) stream:reset() end

function faults.reset_after(stream, request)
  forward(request)
  stream:reset()
end

function faults.half(stream, request)
  local bytes = bytes_of(forward(request))
  stream:write(bytes:sub(1, #bytes // 2))
  stream:close()
end

function faults.status(stream, _, status)
  local headers = { ["Content-Type"] = "application/json" }
  if options.retry_after then headers["Retry-After"] = options.retry_after end
  return stream:write(http.answer_bytes(math.tointeger(status), headers, ('{"detail":"injected %s"}'):format(status)))
end

function faults.after(stream, request, status)
  forward(request)
  return faults.status(stream, request, status)
end

function faults.stall(stream)
  loop.sleep(options.stall or 30)
  stream:reset()
end

function faults.stall_after(stream, request)
  forward(request)
  loop.sleep(options.stall or 30)
  stream:reset()
end

function faults.duplicate(stream, request)
  local bytes = bytes_of(forward(request))
  return stream:write(bytes .. bytes)
end

function faults.html(stream)
  return stream:write(http.answer_bytes(200, { ["Content-Type"] = "text/html; charset=utf-8" },
    "<!doctype html><html><body><h1>Please log in</h1></body></html>"))
end

function faults.zeros(stream)
  pour(stream, http.answer_bytes(200, JSON, "", GIGABYTE), ("\0"):rep(65536), GIGABYTE)
end

function faults.zeros_gzip(stream)
  local first, unit = compressed_zeros()
  local size = GIGABYTE * 13 // (258 * 8)
  local headers = { ["Content-Type"] = "application/json", ["Content-Encoding"] = "gzip" }
  local head = http.answer_bytes(200, headers, "", size)
  pour(stream, head .. first, unit, size)
end

-- Whether the connection is fit for another request.
local function apply(stream, request, asked)
  local kind, argument = asked:match "^([%w_]+):?(.*)$"
  local name = request.method .. " " .. request.path
  if worse[kind] then
    local answer = forward(request)
    if worse[kind](answer) then done[#done + 1] = { kind = asked, request = name } end
    return stream:write(bytes_of(answer))
  end
  if kind ~= "ok" then done[#done + 1] = { kind = asked, request = name } end
  return faults[kind](stream, request, argument)
end

-- ---- serving ---------------------------------------------------------------------------------------------------

local function serve(stream)
  while true do
    local request = http.read_request(stream)
    if not request then return end
    last = loop.now()
    if request.path == "/faults" then
      stream:write(http.answer_bytes(200, JSON, json.encode(done)))
    elseif request.path == "/quit" then
      return loop.stop()
    elseif not apply(stream, request, planned(request.method .. " " .. request.path) or drawn()) then
      return
    end
  end
end

io.stdout:write(loop.listen(0, serve), "\n")
io.stdout:flush()
loop.spawn(function() -- whoever started it is gone
  while loop.now() - last < 120 do loop.sleep(1) end
  loop.stop()
end)
loop.run()
