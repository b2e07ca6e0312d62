-- HTTP/1.1 over spec/support/socket_loop.lua: connections that are kept, whole bodies.
local loop = require "spec.support.socket_loop"

local http = {}

local function read_head(stream, first)
  local request = { headers = {} }
  request.method, request.target = first:match("^(%S+) (%S+)")
  if not request.method then return nil end
  request.path, request.query = request.target:match("^([^?]*)%??(.*)$")
  while true do
    local line = stream:line()
    if not line then return nil end
    if line == "" then return request end
    local name, value = line:match("^([^:]+):%s*(.*)$")
    if name then request.headers[name:lower()] = value end
  end
end

--- The next request, { method, target, path, query, headers, body }; nil when the connection is over.
function http.read_request(stream)
  local first = stream:line()
  local request = first and read_head(stream, first)
  if not request then return nil end
  if request.headers.expect then stream:write "HTTP/1.1 100 Continue\r\n\r\n" end
  local length = tonumber(request.headers["content-length"] or 0)
  request.body = length > 0 and stream:take(length) or ""
  return request.body and request
end

--- An answer as bytes; `length` lies about its body when given.
function http.answer_bytes(status, headers, body, length)
  local lines = { ("HTTP/1.1 %d X"):format(status), ("Content-Length: %d"):format(length or #body) }
  for name, value in pairs(headers) do lines[#lines + 1] = ("%s: %s"):format(name, value) end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. body
end

--- Serves on a port: `handle(request)` gives status, headers, body.
---@param port integer
---@param handle fun(request: table): integer, table, string
---@return integer port
function http.serve(port, handle)
  return loop.listen(port, function(stream)
    while true do
      local request = http.read_request(stream)
      if not request then return end
      local status, headers, body = handle(request)
      local last = loop.crowded() or (request.headers.connection or ""):lower() == "close"
      if last then headers["Connection"] = "close" end
      if not stream:write(http.answer_bytes(status, headers, body)) or last then return end
    end
  end)
end

--- Asks a server, over a connection of its own: status, headers, body; nil when there is no whole answer.
function http.ask(host, port, request)
  local stream = loop.connect(host, port)
  if not stream then return nil end
  local lines = { ("%s %s HTTP/1.1"):format(request.method, request.target) }
  for name, value in pairs(request.headers) do
    if name ~= "connection" and name ~= "content-length" and name ~= "expect" and name ~= "accept-encoding" then
      lines[#lines + 1] = ("%s: %s"):format(name, value)
    end
  end
  lines[#lines + 1] = "Connection: close"
  lines[#lines + 1] = ("Content-Length: %d"):format(#request.body)
  stream:write(table.concat(lines, "\r\n") .. "\r\n\r\n" .. request.body)
  local answer = http.read_answer(stream)
  stream:close()
  if answer then return answer.status, answer.headers, answer.body end
end

local function read_chunks(stream)
  local parts = {}
  while true do
    local size = tonumber((stream:line() or ""):match("^%x+") or "", 16)
    if not size then return nil end
    local bytes = stream:take(size)
    if not bytes or not stream:line() then return nil end
    if size == 0 then return table.concat(parts) end
    parts[#parts + 1] = bytes
  end
end

function http.read_answer(stream)
  local first = stream:line()
  local status = first and tonumber(first:match("^HTTP/%S+ (%d+)"))
  if not status then return nil end
  local answer = { status = status, headers = {} }
  for line in function() return stream:line() end do
    if line == "" then break end
    local name, value = line:match("^([^:]+):%s*(.*)$")
    if name then answer.headers[name:lower()] = value end
  end
  local length = tonumber(answer.headers["content-length"])
  if answer.headers["transfer-encoding"] then
    answer.body = read_chunks(stream)
  elseif length then
    answer.body = stream:take(length)
  else
    answer.body = stream:rest()
  end
  return answer.body and answer
end

return http
