-- Files from the net: taken up where they were cut, checked, and never under their name before they
-- are whole.
--
-- Beside the file `x` stand, while it comes, `x.part` (the bytes so far) and `x.part.json` (which
-- version of which address they are); `.x.lock` stays, empty: processes that want the same file take
-- turns by it. Requests go through crucible.core's transfers (libcurl): certificates are verified
-- ($CURL_CA_BUNDLE or $SSL_CERT_FILE name others than the system's) and proxies are those of the
-- environment (https_proxy, no_proxy …).
local core = require "crucible.core"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local utc = require "crucible.utc"

local download = {}

local TICK = 0.1 -- seconds between two looks at progress
local LONGEST_WAIT = 120 -- seconds: a server that asks for more is not waited for
local STEADY = 1 << 20 -- bytes: an attempt that brought so many does not count as one
local PASSING = { [408] = true, [425] = true, [429] = true, [500] = true, [502] = true, [503] = true, [504] = true }

local function environment(name)
  local value = os and os.getenv(name)
  return value ~= "" and value or nil
end

local TRUE = { ["1"] = true, ON = true, YES = true, TRUE = true }

--- Whether the person switched the network off: CRUCIBLE_OFFLINE or HF_HUB_OFFLINE is 1, true, yes or on.
---@return boolean
function download.is_offline()
  for _, name in ipairs { "CRUCIBLE_OFFLINE", "HF_HUB_OFFLINE" } do
    if TRUE[(environment(name) or ""):upper()] then return true end
  end
  return false
end

--- Shows a text to the person who waits. Replace it to show it elsewhere.
---@param text string
function download.notice(text)
  if io then io.stderr:write(text, "\n") end
end

local function megabytes(bytes) return ("%.1f MB"):format(bytes / 1e6) end

local function meter_text(name, now)
  if now.state == "locked" then return name .. ": another process fetches it" end
  if now.state == "waiting" then return ("%s: %s; again in %.0f s"):format(name, now.reason, now.seconds) end
  if not now.total or now.total == 0 then return ("%s: %s"):format(name, megabytes(now.received)) end
  return ("%s: %s of %s (%d%%)"):format(name, megabytes(now.received), megabytes(now.total),
    100 * now.received // now.total)
end

--- A function for the option `progress` that keeps one line on a terminal's stderr up to date; nil
--- where there is no terminal.
---@param name string  what is fetched
---@return (fun(progress: crucible.download.Progress))?
function download.meter(name)
  if not io or not fs.is_terminal "stderr" then return nil end
  return function(now)
    local done = now.total and now.received == now.total
    io.stderr:write("\r\27[K", meter_text(name, now), done and "\n" or "")
  end
end

local sha256 = schema.test("64 hexadecimal digits", function(value)
  return type(value) == "string" and #value == 64 and not value:find("%X")
end)

local fetch_options = schema.new("download.fetch", {
  { name = "url", required = true, check = schema.nonempty_string, doc = "http or https" },
  { name = "to", required = true, check = schema.nonempty_string, doc = "path of the file" },
  { name = "sha256", check = sha256, doc = "of the whole file" },
  { name = "size", check = schema.integer { min = 0 }, doc = "bytes of the whole file" },
  { name = "headers", check = schema.table, doc = "name → value; they stay with the first host" },
  { name = "progress", check = schema.callable, doc = "called as bytes come; false cancels" },
  { name = "offline", default = false, check = schema.boolean, doc = "take what is there, ask nobody" },
  { name = "retries", default = 4, check = schema.integer { min = 0 }, doc = "attempts after the first" },
  { name = "backoff", default = 0.5, check = schema.number { min = 0 }, doc = "seconds, then doubled" },
  { name = "max_bytes", check = schema.integer { min = 1 }, doc = "that are accepted" },
  { name = "connect_timeout", default = 20, check = schema.number { above = 0 }, doc = "seconds" },
  { name = "idle_timeout", default = 60, check = schema.number { min = 0 }, doc = "seconds without a byte" },
  { name = "html", default = false, check = schema.boolean, doc = "whether an HTML page may be the file" },
})

-- ---- the file that is there ----------------------------------------------------------------------

local function file_size(path)
  local stat = fs.stat(path)
  return stat and not stat.folder and stat.size or nil
end

-- Why the file at `path` is not the one that is meant; nil when it is.
local function mismatch(path, want)
  local size = file_size(path)
  if want.size and size ~= want.size then return ("has %s bytes, expected %d"):format(size, want.size) end
  if not want.sha256 then return nil end
  local digest, message = fs.sha256 { file = path }
  if digest == want.sha256:lower() then return nil end
  return digest and ("has the SHA-256 %s, expected %s"):format(digest, want.sha256:lower()) or message
end

local function is_there(want) return file_size(want.to) ~= nil and mismatch(want.to, want) == nil end

-- ---- what is known of the part -------------------------------------------------------------------

local function read_note(place)
  local text = fs.read_file(place.note)
  local note = text and json.decode(text)
  return type(note) == "table" and note or {}
end

local function drop_part(place)
  fs.remove_tree(place.part)
  fs.remove_tree(place.note)
end

-- How many bytes can be kept, and what proves to the server that they are of its file: its entity
-- tag or date. With a checksum the proof comes at the end, so any start may be kept.
local function kept_bytes(place, want)
  local size = file_size(place.part) or 0
  if size == 0 then return 0 end
  local note = read_note(place)
  local same = note.url == want.url and type(note.validator) == "string"
  if same then return size, note.validator end
  if want.sha256 then return size end
  return 0
end

-- A weak tag says "much the same", which is not enough for bytes.
local function validator_of(transfer)
  local tag = transfer:header "ETag"
  if tag and not tag:find("^W/") then return tag end
  return transfer:header "Last-Modified"
end

local function write_note(place, want, transfer)
  fs.write_file(place.note, json.encode { url = want.url, validator = validator_of(transfer) })
end

-- ---- one attempt ---------------------------------------------------------------------------------

local function header_lines(headers, kept, validator)
  local lines = {}
  for name, value in pairs(headers or {}) do
    if type(name) ~= "string" or type(value) ~= "string" then
      errors.raise("download.fetch: headers are strings by name, got %s for %s", schema.show(value), schema.show(name))
    end
    lines[#lines + 1] = name .. ": " .. value
  end
  table.sort(lines)
  if kept > 0 then lines[#lines + 1] = ("Range: bytes=%d-"):format(kept) end
  if kept > 0 and validator then lines[#lines + 1] = "If-Range: " .. validator end
  return lines
end

local function certificates() return environment "CURL_CA_BUNDLE" or environment "SSL_CERT_FILE" end

local function start(client, want, place, kept, validator)
  return client:start {
    url = want.url, headers = header_lines(want.headers, kept, validator), file = place.part, size = want.size,
    most = want.max_bytes and math.max(1, want.max_bytes - kept), html = want.html, ca_file = certificates(),
    connect_seconds = want.connect_timeout, idle_seconds = want.idle_timeout,
  }
end

--- Where it is set, asked again and again while something is fetched: true ends it as if progress had returned
--- false. For programs that listen to Ctrl-C.
---@type (fun(): boolean)?
download.unwanted = nil

-- False when the caller wants no more.
local function report(want, fields)
  if download.unwanted and download.unwanted() then return false end
  if not want.progress then return true end
  fields.url = want.url
  return want.progress(fields) ~= false
end

local function cancelled(want) return errors.failure("cancelled", "%s: cancelled", want.url) end

-- Moves bytes until the transfer ends: its last state; nil, message, code when it was cancelled.
local function follow(client, transfer, want, place, kept)
  local noted = false
  while true do
    local running, message, code = client:wait(TICK)
    if not running then return nil, message, code end
    local state = transfer:state()
    local whole = state.status == 200 or state.status == 206
    if whole and not noted and (state.received > 0 or state.done) then
      write_note(place, want, transfer)
      noted = true
    end
    local base = state.status == 206 and kept or 0
    local ok = report(want, {
      state = "receiving", received = base + state.received, total = state.expected and base + state.expected,
    })
    if state.done then return state end
    if not ok then return cancelled(want) end
  end
end

-- "120" or a date (RFC 9110, section 10.2.3) → seconds from now.
local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10,
  Nov = 11, Dec = 12 }

local function seconds_until(text)
  if not text then return nil end
  local seconds = tonumber(text:match("^%s*(%d+)%s*$"))
  if seconds then return seconds end
  local day, month, year, hour, minute, second = text:match("(%d+) (%a+) (%d+) (%d+):(%d+):(%d+) GMT")
  if not MONTHS[month] then return nil end
  local time = utc.seconds(math.tointeger(year), MONTHS[month], math.tointeger(day), math.tointeger(hour),
    math.tointeger(minute), math.tointeger(second))
  return math.max(0, time - utc.time())
end

local STATUS_CODES = { [404] = "not_found", [410] = "not_found" }

local function first_line(body)
  local line = body:gsub("<[^>]*>", " "):gsub("%s+", " "):match("^%s*(.-)%s*$")
  return line ~= "" and (": " .. line:sub(1, 200)) or ""
end

local function refused(want, transfer, state)
  return {
    message = ("%s: the server answered %d%s"):format(want.url:gsub("//[^/]*@", "//"), state.status,
      first_line(transfer:body())),
    code = STATUS_CODES[state.status] or "io", status = state.status, again = PASSING[state.status] or false,
    wait = seconds_until(transfer:header "Retry-After"),
  }
end

-- 416: the part is as long as the file, or is not of it.
local function beyond_end(place, transfer)
  local total = math.tointeger(tonumber((transfer:header "Content-Range" or ""):match("^bytes %*/(%d+)$")))
  if total and total == file_size(place.part) then return nil end
  drop_part(place)
  return { again = true, now = true, message = "the server has no such range" , code = "io" }
end

-- Nil when the part holds what the server calls the whole file; else a table: message, code, again
-- (another attempt may help), now (without waiting), wait (what the server asks for).
local function attempt(client, want, place)
  local kept, validator = kept_bytes(place, want)
  if kept == 0 then drop_part(place) end
  if want.size and kept == want.size then return nil end
  if want.size and kept > want.size then
    drop_part(place)
    kept, validator = 0, nil
  end
  local transfer <close>, message, code = start(client, want, place, kept, validator)
  if not transfer then return { message = message, code = code } end
  local state
  state, message, code = follow(client, transfer, want, place, kept)
  if not state then return { message = message, code = code } end
  if state.code then
    return {
      message = state.message, code = state.code, again = state.transient, received = state.received,
      unreachable = state.unreachable,
    }
  end
  if state.status == 416 and kept > 0 then return beyond_end(place, transfer) end
  if state.status ~= 200 and state.status ~= 206 then return refused(want, transfer, state) end
end

-- ---- attempts ------------------------------------------------------------------------------------

-- Waits in small steps, so that it can be cancelled.
local function pause(client, want, seconds, failure)
  local ends = fs.clock() + seconds
  while fs.clock() < ends do
    if not report(want, { state = "waiting", seconds = ends - fs.clock(), reason = failure.message }) then
      return false
    end
    client:wait(math.max(0, math.min(TICK, ends - fs.clock())))
  end
  return true
end

local function give_up(failure, count)
  local attempts = count > 1 and (" (%d attempts)"):format(count) or ""
  return nil, failure.message .. attempts, failure.code
end

-- No connection at all is tried once more only: mostly there is no net.
local function may_try(failure, want, count)
  if not failure.again then return false end
  return count <= (failure.unreachable and math.min(1, want.retries) or want.retries)
end

local function receive(client, want, place)
  local count = 0
  while true do
    local failure = attempt(client, want, place)
    if not failure then return true end
    if (failure.received or 0) < STEADY then count = count + 1 end
    if not may_try(failure, want, count) then return give_up(failure, count) end
    local asked = failure.wait or 0
    if asked > LONGEST_WAIT then
      failure.message = ("%s; it asks to wait %d s"):format(failure.message, asked)
      return give_up(failure, count)
    end
    local seconds = failure.now and 0 or math.max(asked, math.min(60, want.backoff * 2 ^ (count - 1)))
    if not pause(client, want, seconds, failure) then return cancelled(want) end
  end
end

-- Renames the part when it is the file that is meant; else drops it and says why.
local function settle(want, place)
  local wrong = mismatch(place.part, want)
  if wrong then
    drop_part(place)
    return errors.failure("format", "%s: what came %s", want.url, wrong)
  end
  local ok, message, code = fs.rename(place.part, want.to)
  if not ok then return nil, message, code end
  fs.remove_tree(place.note)
  return want.to
end

local function fetch_locked(client, want, place)
  local resumed = (file_size(place.part) or 0) > 0
  local ok, message, code = receive(client, want, place)
  if not ok then
    if file_size(place.part) == 0 then drop_part(place) end
    return nil, message, code
  end
  local path
  path, message, code = settle(want, place)
  if path or not resumed or code ~= "format" then return path, message, code end
  -- A start that was kept from another day may be what is wrong: once more, from nothing.
  ok, message, code = receive(client, want, place)
  if not ok then return nil, message, code end
  return settle(want, place)
end

-- The lock of the file; nil, message, code when that failed or the caller wants no more.
local function take_turn(client, want, place)
  while true do
    local lock, message, code = fs.lock(place.lock)
    if lock or code then return lock, message, code end
    if not report(want, { state = "locked" }) then return cancelled(want) end
    client:wait(TICK)
  end
end

local head_options = schema.new("download.head", {
  { name = "url", required = true, check = schema.nonempty_string, doc = "http or https" },
  { name = "headers", check = schema.table, doc = "name → value" },
  { name = "retries", default = 2, check = schema.integer { min = 0 }, doc = "attempts after the first" },
  { name = "backoff", default = 0.5, check = schema.number { min = 0 }, doc = "seconds, then doubled" },
})

local function head_once(client, want)
  local transfer, message, code = client:start {
    url = want.url, method = "HEAD", headers = header_lines(want.headers, 0), redirects = 0, connect_seconds = 20,
    total_seconds = 60, ca_file = certificates(),
  }
  if not transfer then return nil, { message = message, code = code } end
  while not transfer:state().done do client:wait(TICK) end
  local state = transfer:state()
  if state.code then
    return nil, { message = state.message, code = state.code, again = state.transient,
      unreachable = state.unreachable }
  end
  if state.status < 400 then return transfer end
  return nil, refused(want, transfer, state)
end

--- The head of an address' own answer: redirects are not followed, so that what the first host says of the
--- file is seen. `header(name)` reads a field. Failures as of fetch.
---@param options { url: string, headers: table<string, string>?, retries: integer?, backoff: number? }
---@return { status: integer, header: fun(name: string): string? }? head, string? message, string? code
function download.head(options)
  local want, count = head_options:resolve(options), 0
  local client <close> = assert(core.open_http())
  while true do
    local transfer, failure = head_once(client, want)
    if transfer then
      return { status = transfer:state().status, header = function(name) return transfer:header(name) end }
    end
    count = count + 1
    if not may_try(failure, want, count) then return give_up(failure, count) end
    pause(client, want, math.min(LONGEST_WAIT, math.max(failure.wait or 0, want.backoff * 2 ^ (count - 1))), failure)
  end
end

local function places(to)
  return {
    part = to .. ".part", note = to .. ".part.json",
    lock = paths.join(paths.dirname(to), "." .. paths.basename(to) .. ".lock"),
  }
end

---@class crucible.download.Progress
---@field url string
---@field state "receiving"|"waiting"|"locked"  waiting: before another attempt; locked: another process fetches it
---@field received integer?  bytes of the whole file so far
---@field total integer?     of them, when the server says
---@field seconds number?    still to wait
---@field reason string?     why the last attempt failed

---@class crucible.download.Options
---@field url string
---@field to string          path of the file; its folder is made
---@field sha256 string?     of the whole file
---@field size integer?      bytes of the whole file
---@field headers table<string, string>?  sent to the first host alone, not to those it redirects to
---@field progress (fun(progress: crucible.download.Progress): boolean?)?  about ten times a second; false cancels
---@field offline boolean?   take what is there, ask nobody
---@field retries integer?   attempts after the first that may fail for a reason that may pass; 4
---@field backoff number?    seconds before the first of them, then doubled to at most 60; 0.5
---@field max_bytes integer? that are accepted
---@field connect_timeout number?  seconds; 20
---@field idle_timeout number?     seconds without a byte; 60
---@field html boolean?      whether an HTML page may be the file; false

--- The file of an address, fetched unless it lies there already (with the size and SHA-256 that
--- were given). Broken connections, 408, 425, 429 and 5xx are tried again with doubled pauses (or
--- what Retry-After asks for, up to two minutes), going on where the bytes ended when the server
--- shows by its ETag or date that they are of the same file. Fails with "io" (the network, a
--- status), "not_found" (404, or offline and not there), "format" (wrong size or checksum, an HTML
--- page), "cancelled".
---@param options crucible.download.Options
---@return string? path, string? message, string? code
function download.fetch(options)
  local want = fetch_options:resolve(options)
  if is_there(want) then return want.to end
  if want.offline then
    return errors.failure("not_found", "%s is not there, and the network is switched off (it comes from %s)",
      want.to, want.url)
  end
  local made, message, code = fs.make_folder(paths.dirname(want.to))
  if not made then return nil, message, code end
  local client <close> = assert(core.open_http())
  local place = places(want.to)
  local lock <close>, why, failed = take_turn(client, want, place)
  if not lock then return nil, why, failed end
  if is_there(want) then return want.to end
  return fetch_locked(client, want, place)
end

return download
