-- The Tinker API's protobuf dialect against bytes of the official writer and what the official reader makes
-- of them (scripts/make_tinker_fixtures.py), and against damage.
local core = require "crucible.core"
local expect = require "spec.support.expect"
local json = require "crucible.json"
local proto = require "spec.support.tinker_proto"
local temp = require "spec.support.temp"

local fixtures = assert(json.decode(temp.read "spec/fixtures/tinker_wire.json"))

local function from_hex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

-- JSON has null where a number is NaN.
local function same(expected, found, place)
  if expected == json.null then
    assert.is_true(found ~= found, place .. ": expected NaN, got " .. tostring(found))
  elseif type(expected) == "table" then
    assert.equal("table", type(found), place)
    for key, value in pairs(expected) do same(value, found[key], place .. "." .. key) end
    for key in pairs(found) do assert.truthy(expected[key] ~= nil, place .. "." .. key .. " is not expected") end
  else
    assert.equal(expected, found, place)
  end
end

describe("core.tinker_encode", function()
  local function pass(changes)
    local request = { model_id = "m", seq_id = 1, loss_fn = "cross_entropy",
      data = { { tokens = { 1, 2 }, inputs = { weights = { dtype = "float32", values = { 1, 0.5 } } } } } }
    for name, value in pairs(changes or {}) do request[name] = value end
    return core.tinker_encode("forward_backward", request)
  end

  it("writes the official writer's bytes", function()
    for i, case in ipairs(fixtures.requests) do
      local bytes = assert(core.tinker_encode("forward_backward", case.table))
      assert.is_true(bytes == from_hex(case.bytes), "request " .. i)
    end
  end)

  it("writes what another reader gets back", function()
    local given = { forward_only = true, loss_fn_config = { low = 0.8, high = 1.25 } }
    local body, forward_only = proto.read_request(pass(given))
    assert.is_true(forward_only)
    assert.same({ model_id = "m", seq_id = 1, forward_backward_input = {
      loss_fn = "cross_entropy", loss_fn_config = { low = 0.8, high = 1.25 },
      data = { { model_input = { chunks = { { type = "encoded_text", tokens = { 1, 2 } } } },
        loss_fn_inputs = { weights = { dtype = "float32", shape = { 2 }, data = { 1.0, 0.5 } } } } } } }, body)
  end)

  it("writes settings for older and newer servers alike", function()
    local bytes = pass { loss_fn_config = { a = 0.5 } }
    local number = string.pack("<d", 0.5)
    assert.truthy(bytes:find("\x2a\x0c\x0a\x01a\x11" .. number, 1, true))
    assert.truthy(bytes:find("\x3a\x0e\x0a\x01a\x12\x09\x09" .. number, 1, true))
  end)

  it("refuses what is no request", function()
    expect.raises("seq_id: expected an integer from 1", pass, { seq_id = 0 })
    expect.raises("seq_id: expected an integer from 1", pass, { seq_id = "1" })
    expect.raises("the request.model_id: expected a string", pass, { model_id = 5 })
    expect.raises("the request.loss_fn: expected a string", pass, { loss_fn = false })
    expect.raises("data[1]: expected a datum, got number", pass, { data = { 1 } })
    expect.raises("data[1].tokens[1]: expected an integer of 32 bits", pass, { data = { { tokens = { 0.5 } } } })
    expect.raises("data[1].inputs: expected a table, got nil", pass, { data = { { tokens = {} } } })
    expect.raises("data[1].inputs.x: dtype is 'f16'", pass,
      { data = { { tokens = {}, inputs = { x = { dtype = "f16", values = {} } } } } })
    expect.raises("data[1].inputs: expected whole numbers, got number", pass,
      { data = { { tokens = {}, inputs = { x = { dtype = "int64", values = { 1.5 } } } } } })
    expect.raises("expected a finite number", pass,
      { data = { { tokens = {}, inputs = { x = { dtype = "float32", values = { 0 / 0 } } } } } })
    expect.raises("loss_fn_config.a: expected a number, got string", pass, { loss_fn_config = { a = "1" } })
    expect.raises("invalid option 'optim'", core.tinker_encode, "optim", {})
  end)
end)

describe("core.tinker_decode", function()
  local function check(kind, cases)
    for _, case in ipairs(cases) do
      same(case.table, assert(core.tinker_decode(kind, from_hex(case.bytes))), case.name)
    end
  end

  it("reads outputs as the official reader does", function()
    check("forward_backward_output", fixtures.outputs)
  end)

  it("reads samples as the official reader does", function() check("sample_response", fixtures.samples) end)

  it("reads what another writer wrote", function()
    local bytes = proto.write_output("Loss", { { -1.5, -0.25 }, {} }, { ["loss:sum"] = 2.5 })
    local found = core.tinker_decode("forward_backward_output", bytes)
    assert.same({ type = "Loss", metrics = { ["loss:sum"] = 2.5 },
      outputs = { { logprobs = { -1.5, -0.25 } }, { logprobs = {} } } }, found)
  end)

  -- Every cut of a message is another message or damage; what is read never leaves its bytes.
  it("fails on a cut, or reads what is left", function()
    for _, kind in ipairs { "forward_backward_output", "sample_response" } do
      local cases = kind == "sample_response" and fixtures.samples or fixtures.outputs
      local failures = 0
      for _, case in ipairs(cases) do
        local bytes = from_hex(case.bytes)
        for length = 0, #bytes - 1 do
          local found, message, code = core.tinker_decode(kind, bytes:sub(1, length))
          if not found then
            assert.equal("format", code, message)
            failures = failures + 1
          end
        end
      end
      assert.is_true(failures > 20, kind)
    end
  end)

  local function field(number, bytes) return string.char(number << 3 | 2) .. string.pack("s1", bytes) end

  local function output_of(tensor, count)
    local record = field(2, field(1, "x") .. field(2, tensor)) .. (count and "\x18" .. string.char(count) or "")
    return core.tinker_decode("forward_backward_output", field(2, record))
  end

  local function offsets(...)
    local bytes = ""
    for _, offset in ipairs { ... } do bytes = bytes .. string.pack("<i8", offset) end
    return field(2, bytes)
  end

  it("says what is wrong with a tensor", function()
    local data = field(1, ("\0"):rep(8))
    expect.fails("format", "x: dtype is 0", output_of(data .. offsets(0, 8)))
    expect.fails("format", "x: offsets: 0 bytes are no list", output_of(data .. "\x18\1"))
    expect.fails("format", "x: offsets[1] is 12", output_of(data .. offsets(0, 12) .. "\x18\1"))
    expect.fails("format", "x: offsets[1] is -4", output_of(data .. offsets(0, -4) .. "\x18\1"))
    expect.fails("format", "x: offsets[2] is 4", output_of(data .. offsets(0, 8, 4) .. "\x18\1"))
    expect.fails("format", "x: offsets[1] is 2: expected a multiple of 4", output_of(data .. offsets(0, 2) .. "\x18\1"))
    expect.fails("format", "a record says 5 datums and holds 1", output_of(data .. offsets(0, 8) .. "\x18\1", 5))
    assert.same({ { x = { 0.0, 0.0 } } }, assert(output_of(data .. offsets(0, 8) .. "\x18\1", 1)).outputs)
  end)

  it("is bounded by the bytes that came, not by numbers in them", function()
    local many = field(2, "\x18\xff\xff\xff\xff\x07")
    expect.fails("format", "more than 1048576 datums", core.tinker_decode("forward_backward_output", many))
    expect.fails("format", "a field of 268435455 bytes, 0 are left",
      core.tinker_decode("forward_backward_output", "\x0a\xff\xff\xff\x7f"))
    expect.fails("format", "records", core.tinker_decode("forward_backward_output", field(2, ""):rep(70000)))
    expect.fails("format", "sequences", core.tinker_decode("sample_response", field(1, ""):rep(70000)))
  end)

  it("says what is wrong with samples", function()
    local tokens = field(2, ("\0"):rep(8))
    expect.fails("format", "stop_reason is 2", core.tinker_decode("sample_response", field(1, "\x08\2")))
    expect.fails("format", "a sequence of 2 tokens has 1 logprobs",
      core.tinker_decode("sample_response", field(1, tokens .. field(3, ("\0"):rep(4)))))
    expect.fails("format", "tokens: 3 bytes are no whole number",
      core.tinker_decode("sample_response", field(1, field(2, "abc"))))
    expect.fails("format", "of protobuf kind 0, expected 2", core.tinker_decode("sample_response", "\x08\1"))
    expect.fails("format", "which is not read", core.tinker_decode("sample_response", "\x0b"))
    expect.fails("format", "longer than 64 bits", core.tinker_decode("sample_response", ("\xff"):rep(11)))
    expect.raises("invalid option 'x'", core.tinker_decode, "x", "")
  end)
end)
