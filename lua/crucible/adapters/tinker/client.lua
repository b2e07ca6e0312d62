-- A connection to a server of the Tinker training API: addresses and headers, one session with its
-- heartbeat, requests that are repeated where a repeat is safe, and long polls.
--
-- The key lives in a closure: no field, tostring or message of this module holds it, and what a server says
-- is cleaned of it.
local answer = require "crucible.adapters.tinker.answer"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local future = require "crucible.adapters.tinker.future"
local json = require "crucible.json"
local loop = require "crucible.adapters.tinker.loop"

local HEARTBEAT = 10 -- seconds between two
local LONGEST_PAUSE = 30 -- seconds between two attempts
local MISREAD = 3 -- what a whole answer of wrong content counts: it is hardly the line's fault
local SHORTEST_HOLD = 0.05 -- seconds: a poll that comes back sooner is not repeated at once
local SPOKEN = "0.24.1" -- the version of the protocol that is spoken, by the name of the SDK's release

---@class crucible.tinker.Client
---@field url string           without a password
---@field dialect "json"|"protobuf"
---@field options table
---@field session_id string?
---@field last_alive number    fs.clock() of the last answer
---@field down string?         why the server was given up
local Client = { __name = "crucible.tinker" }
Client.__index = Client

local client = {}

-- ---- making --------------------------------------------------------------------------------

local function check_url(url)
  if type(url) ~= "string" or not url:find "^https?://[^/]" then
    errors.raise("lora.create_session: base_url must be an address of http or https, got %s",
      type(url) == "string" and '"' .. url:gsub("//[^/]*@", "//") .. '"' or tostring(url))
  end
  return (url:gsub("/+$", ""):gsub("/api/v1$", ""))
end

local function check_key(key)
  if key == nil or key == "" then return nil end
  if key:find "[%c ]" then
    errors.raise("lora.create_session: api_key holds spaces or control characters; is it the key itself?")
  end
  return key
end

-- Functions that know the key: headers with it, and texts without it.
local function keeper_of(key)
  local line = key and "X-API-Key: " .. key
  local function sign(headers)
    headers[#headers + 1] = line
    return headers
  end
  local function clean(text)
    if not key or not text then return text end
    local from, parts = 1, {}
    while true do
      local first, last = text:find(key, from, true)
      if not first then break end
      parts[#parts + 1], from = text:sub(from, first - 1) .. "[key]", last + 1
    end
    return table.concat(parts) .. text:sub(from)
  end
  return sign, clean
end

--- A client of a server; nothing is sent yet.
---@param options table  base_url, api_key, timeouts, patience … as adapters/tinker.lua checks them
---@return crucible.tinker.Client? client, string? message, string? code
function client.new(options)
  local address, key = check_url(options.base_url), check_key(options.api_key)
  local sign, clean = keeper_of(key)
  local turning, message, code = loop.acquire()
  if not turning then return nil, message, code end
  local kept = {}
  for name, value in pairs(options) do
    if name ~= "api_key" then kept[name] = value end
  end
  kept.base_url = nil
  return setmetatable({
    url = (address:gsub("//[^/]*@", "//")), loop = turning, options = kept, sign = sign, clean = clean,
    address = function() return address end, dialect = options.dialect == "protobuf" and "protobuf" or "json",
    last_alive = fs.clock(), model_number = 0, sampler_number = 0, under_way = {}, closed = false,
    idempotency = 0, id = options.client_id,
  }, Client)
end

--- What futures of this client wait by.
---@return { turn: function, peek: function }
function Client:host()
  if not self.hosting then
    self.hosting = {
      turn = function(condition) return self:turn_until(condition) end,
      peek = function() self.loop:turn(0) end,
    }
  end
  return self.hosting
end

--- Moves the loop until a condition holds; "cancelled" when `stopping` says so.
---@param condition fun(): boolean
---@param deadline number?  of fs.clock()
---@return true? ok, string? message, string? code
function Client:turn_until(condition, deadline)
  return self.loop:turn_until(condition, {
    deadline = deadline, yield = self.options.yield, stop = self.stopping,
  })
end

---@return crucible.tinker.Future
function Client:future() return future.new(self:host()) end

-- ---- one request ---------------------------------------------------------------------------

local ACCEPT = { json = "application/json", protobuf = "application/x-protobuf, application/json" }

---@class crucible.tinker.Request
---@field path string          under /api/v1/
---@field method string?
---@field body string?         bytes
---@field content_type string? "application/json"
---@field expects "pass"|"sample"|nil
---@field seconds number?      of the whole request
---@field once boolean?        its body leaves at most once
---@field poll boolean?
---@field key string?          the same for all attempts at one thing
---@field file string?         where the answer's body goes
---@field url string?          instead of path
---@field unsigned boolean?    the key is not for this host

local function headers_of(self, request)
  local headers = { "Accept: " .. ACCEPT[request.expects and self.dialect or "json"] }
  if request.body then headers[#headers + 1] = "Content-Type: " .. (request.content_type or "application/json") end
  if request.key then headers[#headers + 1] = "X-Idempotency-Key: " .. request.key end
  return request.unsigned and headers or self.sign(headers)
end

local function note_life(self, verdict, state)
  if state.status > 0 and verdict.kind ~= "unknown" then
    self.last_alive = fs.clock()
    self.down = nil
  end
end

--- Starts one request; `on_verdict(verdict, transfer)` hears what came of it.
---@param request crucible.tinker.Request
---@param on_verdict fun(verdict: crucible.tinker.Verdict, transfer: crucible.core.Transfer?)
---@return crucible.tinker.Call?
function Client:send(request, on_verdict)
  local options, started = self.options, fs.clock()
  local seconds = request.seconds or options.timeout
  local call, message, code
  call, message, code = self.loop:send({
    url = request.url or self.address() .. "/api/v1/" .. request.path, method = request.method,
    headers = headers_of(self, request), ca_file = options.ca_file, connect_seconds = options.connect_timeout,
    idle_seconds = seconds,
    total_seconds = seconds, redirects = 0, most = options.max_bytes, compressed = true,
    once = request.once, file = request.file,
  }, request.body, function(state, transfer)
    self.under_way[call] = nil
    state.timed_out = state.code and state.transient and fs.clock() - started >= seconds - 0.25 or nil
    local read = request.poll and answer.of_poll or answer.of
    local saved = request.file and not state.code and state.status == 200
    local verdict = saved and { kind = "done", value = true } or read(state, transfer, request.expects)
    verdict.message = self.clean(verdict.message)
    verdict.seconds = fs.clock() - started
    note_life(self, verdict, state)
    on_verdict(verdict, transfer)
  end)
  if not call then
    on_verdict { kind = "failed", message = self.clean(message), code = code }
  else
    self.under_way[call] = true
  end
  return call
end

-- ---- attempts ------------------------------------------------------------------------------

---@class crucible.tinker.Attempts  at one thing, in a row
---@field failures integer
---@field counted integer
---@field since number?  fs.clock() of the first failure
local Attempts = {}
Attempts.__index = Attempts

--- The bookkeeping of attempts at one thing.
---@param what string  for messages
---@return crucible.tinker.Attempts
function Client:attempts(what)
  return setmetatable({ client = self, what = what, failures = 0, counted = 0 }, Attempts)
end

--- What went well ends the row.
function Attempts:well() self.failures, self.counted, self.since = 0, 0, nil end

-- Half to all of a pause, so that clients that failed together do not come back together.
local function jittered(seconds) return seconds * (0.5 + fs.random_bytes(1):byte() / 510) end

--- The pause before another attempt; nil and a message when there is to be none.
---@param verdict crucible.tinker.Verdict
---@return number? seconds, string? message, string? code
function Attempts:after(verdict)
  local options, now = self.client.options, fs.clock()
  self.failures, self.since = self.failures + 1, self.since or now
  if verdict.counted then self.counted = self.counted + (tonumber(verdict.counted) or 1) end
  local patience = self.client.down and 0 or options.patience
  local times = self.failures > 1 and (" (%d attempts in %.0f s)"):format(self.failures, now - self.since) or ""
  if self.counted > options.retries then
    return nil, ("%s: %s%s"):format(self.what, verdict.message, times), verdict.code
  end
  if now - self.since >= patience then
    self.client.down = verdict.message
    return nil, ("%s: %s%s; given up after %g s without success"):format(self.what, verdict.message, times,
      options.patience), verdict.code
  end
  local pause = jittered(math.min(LONGEST_PAUSE, options.backoff * 2 ^ math.min(self.failures - 1, 16)))
  return math.min(math.max(pause, verdict.wait or 0), math.max(0, self.since + patience - now) + 0.01)
end

--- A key that all attempts at one thing share.
---@return string
function Client:new_key()
  self.idempotency = self.idempotency + 1
  return ("%s-%d"):format(self.id, self.idempotency)
end

-- ---- calls that may be repeated ------------------------------------------------------------

local function words_of(path) return path:gsub("%?.*", "") end

--- A request that may be made any number of times, made until it succeeds or patience ends. With `gone`, what
--- the server does not know settles the future with false.
---@param request crucible.tinker.Request
---@param options { gone: boolean?, once: boolean? }?
---@return crucible.tinker.Future
function Client:call(request, options)
  local result, attempts = self:future(), self:attempts(self.url .. ": " .. words_of(request.path))
  request.key = request.key or self:new_key()
  local try
  local function hear(verdict)
    if verdict.kind == "done" then return result:resolve(verdict.value) end
    if verdict.kind == "gone" and options and options.gone then return result:resolve(false) end
    if verdict.kind ~= "again" and verdict.kind ~= "unknown" or options and options.once then
      return result:fail(("%s: %s"):format(attempts.what, verdict.message), verdict.code)
    end
    local pause, message, code = attempts:after(verdict)
    if not pause then return result:fail(message, code) end
    self.loop:after(pause, try)
  end
  function try()
    if self.closed then return result:fail("the session was closed", "cancelled") end
    self:send(request, hear)
  end
  try()
  return result
end

--- The same with a table for a body.
---@param path string
---@param body table
---@param options table?
---@return crucible.tinker.Future
function Client:post(path, body, options) return self:call({ path = path, body = json.encode(body) }, options) end

---@param path string
---@param options table?
---@return crucible.tinker.Future
function Client:get(path, options) return self:call({ path = path }, options) end

-- ---- polls ---------------------------------------------------------------------------------

---@class crucible.tinker.Poll
---@field cancel fun(self: crucible.tinker.Poll)
local Poll = {}
Poll.__index = Poll

--- Asks no more.
function Poll:cancel()
  self.ended = true
  if self.transfer then self.transfer:cancel() end
  self.client.loop:forget(self.timer)
end

local function wait_and_ask(self, seconds)
  self.timer = self.client.loop:after(seconds, function() self:ask() end)
end

-- Pending: at once, unless the server has not held the question at all; given up only when the server is silent.
local function ask_on(self, verdict)
  local options = self.client.options
  self.attempts:well()
  if fs.clock() - self.client.last_alive > options.patience then
    return self:finish {
      kind = "failed", code = "io",
      message = ("%s: no word from the server for %g s"):format(self.attempts.what, options.patience),
    }
  end
  self.quick = verdict.seconds < SHORTEST_HOLD and (self.quick or 0) + 1 or 0
  wait_and_ask(self, self.quick == 0 and 0 or math.min(2, SHORTEST_HOLD * 2 ^ math.min(self.quick - 1, 10)))
end

function Poll:finish(verdict)
  self.ended = true
  self.on_end(verdict)
end

local function hear_poll(self, verdict)
  if self.ended then return end
  if verdict.kind == "pending" then return ask_on(self, verdict) end
  if verdict.kind == "done" then
    local value, message, code = self.read(verdict.value)
    if value ~= nil then return self:finish { kind = "done", value = value } end
    verdict = { kind = "again", counted = MISREAD, message = message, code = code or "format" }
  end
  if verdict.kind ~= "again" then return self:finish(verdict) end
  local pause, message, code = self.attempts:after(verdict)
  if pause then return wait_and_ask(self, pause) end
  self:finish { kind = "failed", message = message, code = code, exhausted = true }
end

function Poll:ask()
  if self.ended or self.client.closed then return end
  self.transfer = self.client:send({
    path = "retrieve_future", body = self.body, expects = self.expects, seconds = self.client.options.poll_timeout,
    poll = true,
  }, function(verdict) hear_poll(self, verdict) end)
end

--- Asks for the result of a future until there is one: on_end(verdict), kind "done", "gone" or "failed". `read`
--- takes the decoded answer and returns what it holds, or nil and what is wrong with it: then it is asked again.
---@param request_id string
---@param what string  for messages
---@param expects "pass"|"sample"|nil
---@param read fun(value: table): any, string?
---@param on_end fun(verdict: crucible.tinker.Verdict)
---@return crucible.tinker.Poll
function Client:poll(request_id, what, expects, read, on_end)
  local self_ = setmetatable({
    client = self, read = read, on_end = on_end, expects = expects, ended = false,
    attempts = self:attempts(("%s: %s"):format(self.url, what)),
    body = json.encode { request_id = request_id, allow_metadata_only = false },
  }, Poll)
  self_:ask()
  return self_
end

-- ---- operations outside a model's order ----------------------------------------------------

local function as_it_is(value) return value end

--- Id of the future in an answer to a submit; nil where the result itself was given.
---@param value table
---@return string?
function client.request_id(value)
  local id = value.request_id or value.future_id
  if type(id) == "number" then id = ("%d"):format(id) end
  if type(id) == "string" and id ~= "" then return id end
end

--- An operation that may be repeated, to its result: submitted until it is accepted, then polled for. A future that
--- the server lost is submitted again.
---@param path string
---@param make_body fun(): string, string?  bytes and content type; called for each submit
---@param options { what: string?, expects: string?, read: function?, submitted: fun(value: table)?, gone: boolean? }?
---@return crucible.tinker.Future
function Client:operation(path, make_body, options)
  options = options or {}
  local result, what = self:future(), options.what or words_of(path)
  local attempts, read = self:attempts(self.url .. ": " .. what), options.read or as_it_is
  local submit
  local function again(verdict)
    local pause, message, code = attempts:after(verdict)
    if not pause then return result:fail(message, code) end
    self.loop:after(pause, submit)
  end
  local function ended(verdict)
    if verdict.kind == "done" then return result:resolve(verdict.value) end
    if verdict.kind == "gone" and not options.gone then
      verdict.counted = true
      return again(verdict)
    end
    if verdict.kind == "gone" then return result:resolve(false) end
    local told = verdict.exhausted and verdict.message or ("%s: %s"):format(attempts.what, verdict.message)
    result:fail(told, verdict.code)
  end
  local function accepted(verdict)
    if verdict.kind == "again" or verdict.kind == "unknown" then return again(verdict) end
    if verdict.kind == "dialect" and self:switch_dialect() then return submit() end
    if verdict.kind ~= "done" then return ended(verdict) end
    if options.submitted then options.submitted(verdict.value) end
    local id = client.request_id(verdict.value)
    if id then return self:poll(id, what, options.expects, read, ended) end
    local value, message = read(verdict.value)
    if value ~= nil then return result:resolve(value) end
    again { kind = "unknown", counted = true, message = message, code = "format" }
  end
  function submit()
    if self.closed then return result:fail("the session was closed", "cancelled") end
    local body, content_type = make_body()
    self:send({ path = path, body = body, content_type = content_type }, accepted)
  end
  submit()
  return result
end

--- From now on protobuf; false when that was chosen or refused already.
---@return boolean
function Client:switch_dialect()
  if self.dialect == "protobuf" or self.options.dialect == "json" then return false end
  self.dialect = "protobuf"
  return true
end

-- ---- the session ---------------------------------------------------------------------------

local function beat(self)
  if self.closed then return end
  self:send({
    path = "session_heartbeat", seconds = HEARTBEAT,
    body = json.encode { session_id = self.session_id, type = "session_heartbeat" },
  }, function()
    self.beating = self.loop:after(HEARTBEAT, function() beat(self) end)
  end)
end

--- What the server says of itself; {} where it says nothing.
---@return table? capabilities, string? message, string? code
function Client:capabilities()
  local found, message, code = self:get("get_server_capabilities", { gone = true }):wait()
  if found == nil then return nil, message, code end
  return found or {}
end

--- Opens the session on the server and keeps it alive from now on. Returns what the server wants to be shown.
---@return string[]? notices, string? message, string? code
function Client:open_session()
  local found, message, code = self:post("create_session", {
    tags = json.array {}, user_metadata = {}, sdk_version = SPOKEN, type = "create_session",
  }):wait()
  if not found then return nil, message, code end
  if type(found.session_id) ~= "string" then
    return errors.failure("format", "%s: create_session: the answer names no session_id", self.url)
  end
  self.session_id = found.session_id
  self.beating = self.loop:after(HEARTBEAT, function() beat(self) end)
  local notices = {}
  for _, field in ipairs { "info_message", "warning_message", "error_message" } do
    if type(found[field]) == "string" and found[field] ~= "" then notices[#notices + 1] = self.clean(found[field]) end
  end
  return notices
end

--- The next number of a model or sampler in this session, from 0.
---@param kind "model_number"|"sampler_number"
---@return integer
function Client:number(kind)
  local number = self[kind]
  self[kind] = number + 1
  return number
end

--- Ends everything under way. Safe to call twice.
function Client:close()
  if self.closed then return end
  self.closed = true
  self.loop:forget(self.beating)
  for call in pairs(self.under_way) do call:cancel() end
  self.loop:release()
end

Client.__gc = Client.close

function Client:__tostring()
  return ("crucible.tinker(%s%s)"):format(self.url, self.closed and ", closed" or "")
end

return client
