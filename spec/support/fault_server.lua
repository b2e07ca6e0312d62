-- A web server on the loopback interface that goes wrong as it is told to. As a module it starts one
-- in a process of its own; run as a script it is one, over LuaSocket.
--
-- GET /name?plan=step,step,…  takes one step a request, the last one again and again:
--
--     ok             the file, with ETag and ranges           fresh      the same under another ETag
--     drop:30        its length, 30% of the bytes, the end     noetag     without ETag (and date)
--     status:500     that status and a short page              norange    ranges are not understood
--     retry:429:1    a status with Retry-After: 1              other      another file of the same length
--     redirect:/b    to another path (or address)              wrong      206 of another range
--     lie:-10        a Content-Length that is 10 short         html       a page instead of the file
--     long:10        a Content-Length that is 10 too large     slow       a little every 20 ms
--     hang           nothing at all                            reset      closes at once
--     circle         a redirect to itself                      hub:DIGEST a redirect as the model hub makes it
--     echo           method, head and body of the request
--
-- The plan may also begin the path: /plan=step,step/name. The file is `bytes`, if the query has file=PATH that file. /log tells the requests so far, /quit ends it.
local BYTES = 200000

-- 200,000 bytes that no compressor and no off-by-one forgives.
local function content(seed)
  local parts, state = {}, seed
  for i = 1, BYTES do
    state = (state * 1103515245 + 12345) & 0x7fffffff
    parts[i] = string.char((state >> 16) & 255)
  end
  return table.concat(parts)
end

-- ---- the server itself ---------------------------------------------------------------------------

local function serve()
  local socket = require "socket"
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  io.stdout:write(port, "\n")
  io.stdout:flush()
  local log, counts, hanging, good = {}, {}, {}, content(1)

  local function read_request(client)
    client:settimeout(5)
    local line = client:receive "*l"
    if not line then return nil end
    local request = { headers = {}, head = line .. "\n" }
    request.method, request.target = line:match("^(%S+) (%S+)")
    while true do
      line = client:receive "*l"
      if not line or line == "" then break end
      request.head = request.head .. line .. "\n"
      local name, value = line:match("^([^:]+):%s*(.*)$")
      request.headers[name:lower()] = value
    end
    local length = tonumber(request.headers["content-length"] or 0)
    request.body = length > 0 and client:receive(length) or ""
    return request
  end

  local function send(client, status, headers, body)
    local lines = { "HTTP/1.1 " .. status .. " X", "Connection: close" }
    local has_length = false
    for name, value in pairs(headers) do
      lines[#lines + 1] = name .. ": " .. value
      has_length = has_length or name == "Content-Length"
    end
    if not has_length then lines[#lines + 1] = "Content-Length: " .. #body end
    client:send(table.concat(lines, "\r\n") .. "\r\n\r\n" .. body)
  end

  local function page(client, status, headers)
    headers["Content-Type"] = "text/html; charset=utf-8"
    send(client, status, headers, "<html><body><h1>Something went wrong</h1></body></html>")
  end

  -- The status, headers and bytes that a correct server would answer.
  local function answer(request, bytes, tag, ranges)
    local headers = { ["Content-Type"] = "application/octet-stream" }
    if tag then headers["ETag"] = tag end
    local from = ranges and tonumber((request.headers.range or ""):match("^bytes=(%d+)%-$"))
    local condition = request.headers["if-range"]
    if not from or (condition and condition ~= tag) then return 200, headers, bytes end
    if from >= #bytes then
      headers["Content-Range"] = "bytes */" .. #bytes
      return 416, headers, ""
    end
    headers["Content-Range"] = ("bytes %d-%d/%d"):format(from, #bytes - 1, #bytes)
    return 206, headers, bytes:sub(from + 1)
  end

  local function trickle(client, status, headers, body)
    headers["Content-Length"] = #body
    send(client, status, headers, "")
    for at = 1, #body, 2000 do
      if not client:send(body:sub(at, at + 1999)) then return end
      socket.sleep(0.02)
    end
  end

  local steps = {}
  function steps.ok(client, request, bytes) send(client, answer(request, bytes, '"v1"', true)) end
  function steps.fresh(client, request, bytes) send(client, answer(request, bytes, '"v2"', true)) end
  function steps.noetag(client, request, bytes) send(client, answer(request, bytes, nil, true)) end
  function steps.norange(client, request, bytes) send(client, answer(request, bytes, '"v1"', false)) end
  function steps.other(client, request) send(client, answer(request, content(2), '"v1"', true)) end
  function steps.slow(client, request, bytes) trickle(client, answer(request, bytes, '"v1"', true)) end
  function steps.html(client) page(client, 200, {}) end
  function steps.reset() end
  function steps.status(client, _, _, status) page(client, status, {}) end
  function steps.retry(client, _, _, status, seconds) page(client, status, { ["Retry-After"] = seconds }) end
  function steps.redirect(client, _, _, place) page(client, 302, { Location = place }) end
  function steps.circle(client, request) page(client, 302, { Location = request.target }) end
  -- As the hub answers for a large file: its digest and size in the head of a redirect.
  function steps.hub(client, request, bytes, digest)
    if request.headers.authorization == "Bearer wrong" then return page(client, 401, {}) end
    local query = request.target:match("file=([^&]*)")
    send(client, 302, { Location = "/cdn" .. (query and "?file=" .. query or ""), ["X-Linked-Size"] = #bytes,
      ["X-Linked-Etag"] = '"' .. digest .. '"' }, "")
  end
  function steps.echo(client, request) send(client, 200, {}, request.head .. "\n" .. request.body) end
  function steps.hang(client)
    hanging[#hanging + 1] = client
    return true
  end
  function steps.drop(client, request, bytes, share, tag)
    local status, headers, body = answer(request, bytes, tag ~= "none" and '"v1"' or nil, true)
    headers["Content-Length"] = #body
    send(client, status, headers, body:sub(1, #body * tonumber(share) // 100))
  end
  function steps.lie(client, request, bytes, by)
    local status, headers, body = answer(request, bytes, '"v1"', true)
    headers["Content-Length"] = #body + tonumber(by)
    send(client, status, headers, body)
  end
  steps.long = steps.lie
  function steps.wrong(client, request, bytes)
    local status, headers, body = answer(request, bytes, '"v1"', true)
    if status == 206 then headers["Content-Range"] = ("bytes 5-%d/%d"):format(#bytes - 1, #bytes) end
    send(client, status, headers, body)
  end

  -- Whether the connection stays open.
  local function take_step(client, request)
    local path, query = request.target:match("^([^?]*)%??(.*)$")
    if path == "/log" then return send(client, 200, {}, table.concat(log, "\n")) end
    log[#log + 1] = ("%s %s range=%s if-range=%s auth=%s"):format(request.method, path,
      request.headers.range or "-", request.headers["if-range"] or "-", request.headers.authorization or "-")
    local file, bytes = query:match("file=([^&]*)"), good
    if file then
      local handle = assert(io.open(file, "rb"))
      bytes = handle:read "a"
      handle:close()
    end
    local plan = {}
    local asked = query:match("plan=([^&]*)") or path:match("^/plan=([^/]*)") or "ok"
    for step in asked:gmatch("[^,]+") do plan[#plan + 1] = step end
    counts[path] = (counts[path] or 0) + 1
    local words = {}
    for word in plan[math.min(counts[path], #plan)]:gmatch("[^:]+") do words[#words + 1] = word end
    if words[1] == "redirect" then words = { "redirect", table.concat(words, ":", 2) } end
    return steps[words[1]](client, request, bytes, table.unpack(words, 2))
  end

  listener:settimeout(60) -- whoever started it is gone
  while true do
    local client = listener:accept()
    if not client then return end
    local request = read_request(client)
    if request and request.target == "/quit" then return client:close() end
    local stays = request and take_step(client, request)
    if not stays then client:close() end
  end
end

if arg and arg[0] and arg[0]:find("fault_server%.lua$") then return serve() end

-- ---- starting one --------------------------------------------------------------------------------

local core = require "crucible.core"

---@class spec.FaultServer
---@field port integer
local Server = {}
Server.__index = Server

--- An address on it; `query` as above.
---@param path string
---@param plan string?
---@param query string?
---@return string
function Server:url(path, plan, query)
  return ("http://127.0.0.1:%d%s?plan=%s%s"):format(self.port, path, plan or "ok", query and "&" .. query or "")
end

--- The answer to a request of one's own, as text.
function Server:get(path)
  local client <close> = assert(core.open_http())
  local transfer <close> = assert(client:start { url = ("http://127.0.0.1:%d%s"):format(self.port, path) })
  while not transfer:state().done do client:wait(1) end
  return transfer:body()
end

--- The requests of one path so far: "GET /x range=- if-range=- auth=-".
---@param path string
---@return string[]
function Server:requests(path)
  local lines = {}
  for line in self:get("/log"):gmatch("[^\n]+") do
    if line:match("^%S+ (%S+)") == path then lines[#lines + 1] = line end
  end
  return lines
end

function Server:stop()
  self:get "/quit"
  self.pipe:close()
end

local fault_server = { bytes = content(1) }

--- Starts one; nil where LuaSocket is not there.
---@return spec.FaultServer?
function fault_server.start()
  if not pcall(require, "socket") then return nil end
  local pipe = assert(io.popen("unset LD_PRELOAD; exec lua5.4 spec/support/fault_server.lua", "r"))
  return setmetatable({ pipe = pipe, port = assert(tonumber(pipe:read "l")) }, Server)
end

return fault_server
