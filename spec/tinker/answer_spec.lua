-- Every shape of answer, as one verdict.
local answer = require "crucible.adapters.tinker.answer"

local JSON = "application/json"

local function transfer_of(body, headers)
  local found = {}
  for name, value in pairs(headers or {}) do found[name:lower()] = value end
  return {
    body = function() return body end,
    header = function(_, name) return found[name:lower()] end,
  }
end

local function verdict(read, status, body, headers)
  headers = headers or { ["Content-Type"] = JSON }
  return answer[read]({ status = status, received = #body }, transfer_of(body, headers))
end

local function broken(read, state)
  state.status = 0
  return answer[read](state, transfer_of "")
end

describe("an answer", function()
  for _, case in ipairs {
    -- status, body, to a submit, to a poll, what the message says
    { 200, '{"request_id":"7"}', "done", "done" },
    { 201, '{"session_id":"s"}', "done", "done" },
    { 202, '{"request_id":"7","model_id":"m"}', "done", "done" },
    { 200, '{"type":"try_again","request_id":"7","queue_state":"active"}', "done", "pending" },
    { 200, '{"status":"complete_metadata"}', "done", "pending" },
    { 200, '{"type":"request_failed","error":"Traceback (most recent call last):\\n  x\\nValueError: bad id",'
      .. '"category":"user_error"}', "done", "failed", "ValueError: bad id" },
    { 200, "<html><body>Welcome</body></html>", "unknown", "again", "cannot be read" },
    { 200, '{"request_id":', "unknown", "again", "not JSON" },
    { 200, "17", "unknown", "again", "not an object" },
    { 200, "", "unknown", "again", "cannot be read" },
    { 302, "", "failed", "failed", "302" },
    { 400, '{"detail":"LoRA rank 64 must be between 1 and 8"}', "failed", "failed", "rank 64 must be" },
    { 401, '{"detail":"Missing API key"}', "failed", "failed", "Missing API key" },
    { 402, '{"detail":"Billing"}', "again", "again", "Billing" },
    { 403, '{"detail":"Invalid API key"}', "failed", "failed", "Invalid API key" },
    { 404, '{"detail":"Model not found"}', "gone", "gone", "Model not found" },
    { 405, '{"detail":"Method Not Allowed"}', "failed", "failed", "405" },
    { 408, '{"detail":"Timeout"}', "again", "pending", "408" },
    { 409, '{"detail":"Checkpoint a exists"}', "failed", "failed", "exists" },
    { 410, '{"detail":"Promise expired"}', "gone", "gone", "expired" },
    { 413, "<h1>Request Entity Too Large</h1>", "failed", "failed", "Request Entity Too Large" },
    { 415, '{"detail":"protobuf, please"}', "dialect", "failed", "protobuf" },
    { 422, '{"detail":[{"type":"missing","loc":["body","seq_id"],"msg":"Field required","input":{"a":1}}]}', "failed",
      "failed", "body.seq_id: Field required" },
    { 425, '{"detail":"being written"}', "again", "again", "being written" },
    { 429, '{"detail":"slow down"}', "again", "again", "slow down" },
    { 500, "Internal Server Error", "unknown", "again", "Internal Server Error" },
    { 501, '{"detail":"dro"}', "failed", "failed", "dro" },
    { 502, "<html>Bad Gateway</html>", "unknown", "again", "Bad Gateway" },
    { 503, "", "unknown", "again", "503" },
  } do
    it(("of status %d with %s"):format(case[1], #case[2] > 30 and case[2]:sub(1, 30) .. "…" or case[2]), function()
      local submit, poll = verdict("of", case[1], case[2]), verdict("of_poll", case[1], case[2])
      assert.equal(case[3], submit.kind, submit.message)
      assert.equal(case[4], poll.kind, poll.message)
      if case[5] then
        assert.truthy(poll.message:find(case[5], 1, true), poll.message)
        assert.is_string(poll.code)
      end
    end)
  end

  it("asks for a pause in seconds or milliseconds, and for no more than a minute", function()
    local function wait(headers)
      return verdict("of", 429, "{}", headers).wait
    end
    assert.equal(2, wait { ["Retry-After"] = "2" })
    assert.equal(0.25, wait { ["retry-after-ms"] = "250", ["Retry-After"] = "9" })
    assert.equal(60, wait { ["Retry-After"] = "3600" })
    assert.is_nil(wait { ["Retry-After"] = "Wed, 21 Oct 2026 07:28:00 GMT" })
    assert.is_nil(wait {})
  end)

  it("tells of sequence numbers, in a refusal and in a future that failed", function()
    local text = "Sequence conflict: expected 4, got 3."
    assert.same({ expected = 4, got = 3 }, verdict("of", 409, '{"detail":"' .. text .. '"}').conflict)
    assert.same({ expected = 4, got = 3 }, verdict("of_poll", 200, '{"error":"' .. text .. '"}').conflict)
    assert.is_nil(verdict("of", 409, '{"detail":"Checkpoint exists"}').conflict)
  end)

  it("tells an address that is not there from a thing that is not there", function()
    assert.is_true(verdict("of", 404, '{"detail":"Not Found"}').absent)
    assert.is_nil(verdict("of", 404, '{"detail":"Model not found"}').absent)
  end)

  it("shows at most a line of what a server says", function()
    local long = verdict("of", 422, '{"detail":"' .. ("ä"):rep(5000) .. '"}').message
    assert.is_true(#long < 400)
    assert.truthy(utf8.len(long))
  end)

  it("on a line that broke depends on whether anything had left", function()
    local reset = { code = "io", message = "reset", transient = true, sent = true }
    assert.equal("unknown", broken("of", reset).kind)
    assert.equal("again", broken("of_poll", reset).kind)
    assert.equal("again", broken("of", { code = "io", message = "refused", transient = true, unreachable = true,
      sent = false }).kind)
    assert.equal("failed", broken("of", { code = "io", message = "no such name in the certificate", transient = false,
      sent = false }).kind)
    local long = broken("of", { code = "format", message = "the answer is longer than 10 bytes", transient = false,
      sent = true })
    assert.equal("unknown", long.kind)
    assert.is_true(long.counted)
    assert.equal("pending", broken("of_poll", { code = "io", message = "timed out", transient = true, sent = true,
      timed_out = true }).kind)
  end)
end)
