-- The handler of GET /verdict?claim=…&evidence=…: the tuned model's verdict as JSON. lighttpd runs this file for
-- each request in one Lua state, where `require` keeps the session open.
local json = require "crucible.json"
local verdict = require "verdict"

local request = lighty.r -- luacheck: ignore 113
local query = lighty.c.urldec_query(request.req_attr["uri.query"] or "") -- luacheck: ignore 113

local function answer(status, value)
  request.resp_header["Content-Type"] = "application/json"
  request.resp_body:set(json.encode(value) .. "\n")
  return status
end

if not query.claim or query.claim == "" then
  return answer(400, { error = "claim: expected a text, as in /verdict?claim=Water+is+wet." })
end
local ok, found = pcall(verdict.of, query.claim, query.evidence or "")
if not ok then return answer(500, { error = tostring(found) }) end
return answer(200, found)
