-- The remote engine on tuft: protobuf alone, strict order, authentication. Its numbers are made up. Pending unless
-- CRUCIBLE_SERVERS asks for it: scripts/test --servers.
local crucible = require "crucible"
local faults = require "spec.support.tinker_faults"
local real_server = require "spec.support.real_server"
local remote = require "spec.support.remote"
local temp = require "spec.support.temp"

local lora = crucible.lora

describe("a real server: tuft", function()
  local server, folder

  setup(function()
    folder = temp.folder()
    server = real_server.start("tuft", folder)
  end)
  teardown(function()
    if server then server:stop() end
    temp.clean()
  end)

  local function open(options)
    local given = { adapter = "tinker", base_url = server.base_url, api_key = server.api_key,
      remote_model = server.remote_model, config = remote.config { base_model = server.base_model, lora_alpha = 8 },
      runs = folder .. "/runs", patience = 60, differences = "note" }
    for field, value in pairs(options or {}) do given[field] = value end
    return lora.create_session(given)
  end

  local function it_serves(title, body)
    it(title, function()
      if not server then return pending("CRUCIBLE_SERVERS does not ask for it") end
      body()
    end)
  end

  it_serves("takes the whole flow", function()
    local session = assert(open { experiment_id = "tuft-run" })
    local logprobs = assert(session:forward(remote.batch(2))).logprobs
    assert.equal(11, #logprobs[1])
    assert(remote.train(session, 5))
    assert.equal("protobuf", session:describe().remote.dialect)
    local saved = assert(session:save_checkpoint "five")
    assert.is_true(#assert(session:remote_states()) > 0)
    local again <close> = assert(open { experiment_id = "tuft-again" })
    assert(again:load_checkpoint(saved.path))
    assert(remote.train(again, 3))
    local completion = assert(again:sample({ { 10, 11, 12 } }, { max_tokens = 4 }))[1]
    assert.equal(4, #completion.tokens)
    assert.equal(4, #completion.logprobs)
    session:close()
  end)

  it_serves("refuses a wrong key in one error without the key", function()
    local session, message = open { api_key = "tml-wrong" }
    assert.is_nil(session)
    assert.truthy(message:find("403", 1, true), message)
    assert.is_nil(message:find("tml-wrong", 1, true))
  end)

  it_serves("keeps its order of sequence numbers through retries", function()
    local proxy = faults.start { target = { port = server.base_url:match ":(%d+)$" }, stall = 0.05,
      random = { seed = 5, share = 0.3, most = 40, kinds = faults.passing } }
    local session <close> = assert(open { base_url = proxy.url, backoff = 0.01, retries = 40 })
    local losses, message = remote.train(session, 20)
    assert.truthy(losses, message)
    assert.equal(20, #losses)
    assert.is_true(#proxy:done() >= 20)
    session:close()
    proxy:stop()
  end)
end)
