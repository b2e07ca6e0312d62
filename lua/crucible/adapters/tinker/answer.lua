-- What an answer of a server means: every shape that servers of the Tinker API, proxies before them and
-- broken lines give, as one verdict.
--
--     done       the answer's body, decoded
--     pending    the operation is still running: ask again at once
--     again      it did not happen and may be tried again, after `wait` seconds if the server says so
--     unknown    it may or may not have happened
--     gone       the server does not know what it was asked about (a model, a session, a future)
--     dialect    the body's content type is not spoken there
--     failed     it did not happen and will not
local codec = require "crucible.adapters.tinker.codec"
local errors = require "crucible.errors"
local json = require "crucible.json"

local answer = {}

local SHOWN = 300 -- bytes of a server's explanation in a message: it may echo the whole request
local LONGEST_PAUSE = 60 -- seconds that a Retry-After is followed for

---@class crucible.tinker.Verdict
---@field kind "done"|"pending"|"again"|"unknown"|"gone"|"dialect"|"failed"
---@field message string?
---@field code string?     of the failure, should it stand
---@field wait number?     seconds that the server asks for
---@field value any        kind "done"
---@field status integer?
---@field counted boolean|number|nil  an answer that is wrong in itself: only so many are borne, however patient one is
---@field absent boolean?  the address itself is unknown there
---@field conflict { expected: integer, got: integer }?  of sequence numbers

-- ---- words ---------------------------------------------------------------------------------

local function cut(text)
  text = text:gsub("%s+", " "):match "^%s*(.-)%s*$"
  if #text <= SHOWN then return text end
  local short = text:sub(1, SHOWN)
  return short:sub(1, (utf8.offset(short, 0, #short) or #short + 1) - 1) .. "…"
end

-- pydantic's list: where and what, without `input`, which may be the whole request.
local function of_list(list)
  local parts = {}
  for _, one in ipairs(list) do
    if type(one) == "table" then
      local place = {}
      for i, word in ipairs(type(one.loc) == "table" and one.loc or {}) do place[i] = tostring(word) end
      parts[#parts + 1] = table.concat(place, ".") .. ": " .. tostring(one.msg)
    end
  end
  return table.concat(parts, "; ")
end

-- The last line of a traceback says what happened.
local function last_line(text)
  if not text:find("Traceback", 1, true) then return text end
  return text:match "([^\n]+)%s*$" or text
end

local function detail_of(body)
  local value = body:find "^%s*[{%[]" and json.decode(body) or nil
  if type(value) ~= "table" then return (body:gsub("<[^>]*>", " ")) end
  local detail = value.detail or value.error or value.message
  if type(detail) == "table" and #detail > 0 then return of_list(detail) end
  if type(detail) == "table" then detail = detail.error or detail.message or json.encode(detail) end
  return type(detail) == "string" and last_line(detail) or body
end

local function explain(status, body)
  local detail = cut(detail_of(body))
  return ("the server answered %d%s"):format(status, detail ~= "" and ": " .. detail or "")
end

-- ---- pauses --------------------------------------------------------------------------------

local function number_of(transfer, name)
  local value = tonumber(transfer:header(name) or "")
  return value and value >= 0 and value or nil
end

-- Seconds that the server asks to be left alone.
local function asked_pause(transfer)
  local milliseconds = number_of(transfer, "retry-after-ms")
  local seconds = milliseconds and milliseconds / 1000 or number_of(transfer, "retry-after")
  return seconds and math.min(seconds, LONGEST_PAUSE)
end

-- ---- verdicts ------------------------------------------------------------------------------

local function verdict(kind, message, code, more)
  local made = more or {}
  made.kind, made.message, made.code = kind, message, code
  return made
end

local hopeless = { memory = true, argument = true, unsupported = true }

-- A line that broke. What never left cannot have happened; TLS that fails to prove a name never lets it leave.
local function of_broken_line(state)
  if hopeless[state.code] then return verdict("failed", state.message, state.code) end
  if state.unreachable or state.sent == false then
    return verdict(state.transient and "again" or "failed", state.message, state.code)
  end
  return verdict("unknown", state.message, state.code, { counted = not state.transient or nil })
end

local function conflict_in(text)
  local expected, got = text:match "expected (%d+), got (%d+)"
  if not expected then return nil end
  return { expected = math.tointeger(expected), got = math.tointeger(got) }
end

local code_of_status = {
  [400] = "argument", [401] = "unsupported", [403] = "unsupported", [413] = "argument", [422] = "argument",
  [405] = "unsupported", [501] = "unsupported", [404] = "not_found", [410] = "not_found",
}

local by_status = {
  [404] = "gone", [408] = "again", [410] = "gone", [415] = "dialect", [425] = "again", [429] = "again", [402] = "again",
}

-- An answer that is no success. 501 and 405 say "never", other 5xx that something went wrong somewhere.
local function of_refusal(state, transfer)
  local body, status = transfer:body(), state.status
  local kind = by_status[status] or "failed"
  if status >= 500 and status ~= 501 then kind = "unknown" end
  return verdict(kind, explain(status, body), code_of_status[status] or "io", {
    status = status, wait = asked_pause(transfer), counted = status >= 500 or nil,
    conflict = status == 409 and conflict_in(body) or nil,
    absent = status == 404 and cut(detail_of(body)) == "Not Found" or nil,
  })
end

local function is_protobuf(transfer)
  return (transfer:header "content-type" or ""):lower():find("application/x-protobuf", 1, true) == 1
end

local function read_body(transfer, expects)
  local bytes = transfer:body()
  if is_protobuf(transfer) then return codec.decode(bytes, expects) end
  local value, message, code = json.decode(bytes)
  if code then return nil, message, code end
  if type(value) ~= "table" then return errors.failure("format", "not an object") end
  return value
end

-- A success by its status. What cannot be read tells nothing of what the server did.
local function of_success(state, transfer, expects)
  local value, message = read_body(transfer, expects)
  if value then return verdict("done", nil, nil, { value = value, status = state.status }) end
  local kind = transfer:header "content-type" or "no content type"
  return verdict("unknown", ("the answer cannot be read (%s, %d bytes): %s"):format(kind, state.received, message),
    "format", { counted = true })
end

--- What an answer to any request means.
---@param state crucible.core.HttpState
---@param transfer crucible.core.Transfer
---@param expects "pass"|"sample"|nil  what a protobuf body would be
---@return crucible.tinker.Verdict
function answer.of(state, transfer, expects)
  if state.code then return of_broken_line(state) end
  if state.status >= 200 and state.status < 300 then return of_success(state, transfer, expects) end
  return of_refusal(state, transfer)
end

-- ---- polls ---------------------------------------------------------------------------------

local function of_error(value)
  local text = type(value.error) == "string" and last_line(value.error) or json.encode(value.error)
  local server = value.category == "server"
  return verdict("failed", "the server could not do it: " .. cut(text), server and "io" or "argument", {
    conflict = conflict_in(text),
  })
end

--- What an answer to a poll means: asking again is always safe there.
---@param state crucible.core.HttpState
---@param transfer crucible.core.Transfer
---@param expects "pass"|"sample"|nil
---@return crucible.tinker.Verdict
function answer.of_poll(state, transfer, expects)
  local found = answer.of(state, transfer, expects)
  if found.kind == "unknown" then found.kind = "again" end
  if found.kind == "again" and (found.status == 408 or state.timed_out) then found.kind = "pending" end
  if found.kind == "dialect" then found.kind = "failed" end
  if found.kind ~= "done" then return found end
  local value = found.value
  if value.type == "try_again" or value.status == "complete_metadata" then return verdict("pending") end
  if value.error ~= nil and value.error ~= json.null then return of_error(value) end
  return found
end

return answer
