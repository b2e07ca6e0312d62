-- The remote engine on real servers that train: hatchery and skyrl, as scripts/tinker_server starts them. Pending
-- unless CRUCIBLE_SERVERS asks for them: scripts/test --servers.
local core = require "crucible.core"
local crucible = require "crucible"
local json = require "crucible.json"
local real_server = require "spec.support.real_server"
local remote = require "spec.support.remote"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local lora = crucible.lora

-- alpha: what the server makes of rank 4. adapter: the PEFT folder of a new model's first weights.
local kinds = {
  hatchery = {
    alpha = 8, custom = true, lists = false,
    adapter = function(server, session)
      return ("%s/adapters/sess_%s"):format(server.folder, (session:describe().remote.model_id:gsub("-", "_")))
    end,
  },
  skyrl = {
    alpha = 32, custom = false, lists = true,
    adapter = function(server, session) return assert(session:export(server.folder .. "/exported")) end,
  },
}

local function post(server, path, body)
  local http <close> = assert(core.open_http())
  local transfer <close> = assert(http:start({ url = server.base_url .. "/api/v1/" .. path,
    headers = { "Content-Type: application/json", "X-API-Key: " .. server.api_key } }, json.encode(body)))
  while not transfer:done() do http:wait(1) end
  return transfer:state().status, transfer:body()
end

-- A loss of one's own that has no closed form on any server.
local function register_custom()
  local registry = lora.loss_functions.new()
  registry.register("squared", {
    outputs = { "logprobs" },
    count = function(datum)
      local count = 0
      for _, weight in ipairs(datum.weights) do count = count + (weight ~= 0 and 1 or 0) end
      return count
    end,
    compute = function(predictions)
      local total
      for i = 1, #predictions.logprobs do
        local term = (predictions.logprobs[i] * predictions.logprobs[i]):sum()
        total = total and total + term or term
      end
      return { loss = total * 0.1 }
    end,
  })
  return registry
end

for _, name in ipairs { "hatchery", "skyrl" } do
  local kind = kinds[name]

  describe("a real server: " .. name, function()
    local server, folder

    setup(function()
      folder = temp.folder()
      server = real_server.start(name, folder)
    end)
    teardown(function()
      if server then server:stop() end
      temp.clean()
    end)

    local function config()
      return remote.config { base_model = server.base_model, lora_alpha = kind.alpha, learning_rate = 1e-2 }
    end

    local function open_remote(options)
      local given = { adapter = "tinker", base_url = server.base_url, api_key = server.api_key,
        remote_model = server.remote_model, config = config(), runs = folder .. "/runs", patience = 120 }
      for field, value in pairs(options or {}) do given[field] = value end
      return assert(lora.create_session(given))
    end

    -- The local engine with the server's first weights.
    local function open_local(session, options)
      local given = { adapter = "local", config = config(), runs = folder .. "/runs" }
      for field, value in pairs(options or {}) do given[field] = value end
      local twin = assert(lora.create_session(given))
      assert(twin:load_checkpoint(kind.adapter(server, session), { weights_only = true }))
      return twin
    end

    local function it_serves(title, body)
      it(title, function()
        if not server then return pending("CRUCIBLE_SERVERS does not ask for it") end
        body()
      end)
    end

    it_serves("predicts as the local engine does before the first step, to 1e-5", function()
      local session <close> = open_remote()
      local twin <close> = open_local(session)
      local batch, worst = remote.batch(4), 0
      local theirs, ours = assert(session:forward(batch)).logprobs, assert(twin:forward(batch)).logprobs
      for i, list in ipairs(ours) do
        for t, value in ipairs(list) do
          if value == value then worst = math.max(worst, math.abs(value - theirs[i][t])) end
        end
      end
      print(("\n%s: first forward differs by at most %.2g"):format(name, worst))
      assert.is_true(worst < 1e-5, tostring(worst))
    end)

    it_serves("follows the local engine's losses for 20 steps, to 1e-3, over a kill and a resume", function()
      local session = open_remote { experiment_id = name .. "-run" }
      local twin <close> = open_local(session)
      local worst = 0
      local function step(remote_session, i)
        local batch = remote.batch(4, 1 + i % 3)
        local theirs = assert(remote_session:forward_backward(batch))
        assert(remote_session:optim_step())
        local ours = assert(twin:forward_backward(batch))
        twin:optim_step()
        worst = math.max(worst, math.abs(theirs.loss - ours.loss))
        assert.is_true(math.abs(theirs.loss - ours.loss) < 1e-3,
          ("step %d: %g, here %g"):format(i, theirs.loss, ours.loss))
      end
      for i = 1, 12 do step(session, i) end
      local saved = assert(session:save_checkpoint "twelve")
      if kind.lists then assert.is_true(#assert(session:remote_states()) > 0) end
      assert.equal("twelve", assert(session:checkpoints())[1].name)
      session.client:close() -- as if this process had been killed: nothing is unloaded
      local again = open_remote { experiment_id = name .. "-again" }
      assert(again:load_checkpoint(saved.path))
      for i = 13, 20 do step(again, i) end
      print(("\n%s: 20 losses differ by at most %.2g"):format(name, worst))
      local mine = assert(twin:sample({ { 10, 11, 12, 13 } }, { temperature = 0, max_tokens = 4 }))[1]
      local theirs = assert(again:sample({ { 10, 11, 12, 13 } }, { temperature = 0, max_tokens = 4 }))[1]
      assert.same(mine.tokens, theirs.tokens)
      local model_id = again:describe().remote.model_id
      again:close()
      local status, about = post(server, "get_info", { model_id = model_id })
      assert.is_true(status >= 400 or about:find("unloaded", 1, true) ~= nil, about)
    end)

    it_serves("trains with a loss of one's own where that is right, and refuses it by name where it is not", function()
      local registry = register_custom()
      local session <close> = open_remote { loss_functions = registry }
      if not kind.custom then
        local ok, message = pcall(session.forward_backward, session, remote.batch(2), "squared")
        assert.is_false(ok)
        assert.truthy(tostring(message):find("squared", 1, true), message)
        return
      end
      local twin <close> = open_local(session, { loss_functions = registry })
      for i = 1, 5 do
        local theirs = assert(session:forward_backward(remote.batch(2, i), "squared"))
        assert(session:optim_step())
        local ours = assert(twin:forward_backward(remote.batch(2, i), "squared"))
        twin:optim_step()
        assert.is_true(math.abs(theirs.loss - ours.loss) < 1e-3 * math.abs(ours.loss),
          ("step %d: %g, here %g"):format(i, theirs.loss, ours.loss))
      end
    end)

    it_serves("runs the training loop from a script, with a checkpoint, and goes on in another process", function()
      local program = temp.file(folder, "program.lua", ([[
        local crucible = require "crucible"
        local rows = {}
        for i = 1, 16 do rows[i] = { input = "claim " .. i, output = i %% 2 == 0 and "yes" or "no" } end
        local session <close> = assert(crucible.lora.create_session {
          adapter = "tinker", base_url = %q, remote_model = %q, runs = %q, experiment_id = %q, differences = "note",
          config = { base_model = %q, lora_rank = 4, max_grad_norm = 0, learning_rate = 1e-2, warmup_steps = 0 },
        })
        local results, message = crucible.lora.training_loop.run(session, rows, {
          epochs = tonumber(arg[1]), batch_size = 4, checkpoint_every = 2, resume = "auto",
          loss_fn = %s,
        })
        print(results and ("steps " .. results.total_steps) or message)
        os.exit(results and 0 or 1, true)
      ]]):format(server.base_url, server.remote_model, folder .. "/runs", name .. "-script", server.base_model,
        name == "skyrl" and '{ "cross_entropy", { reduction = "sequence_mean" } }' or '"cross_entropy"'))
      local command = ("TINKER_API_KEY=%s %s %s "):format(server.api_key, shell.lua, program)
      local first, status = shell.run(command .. "1")
      assert.equal(0, status, first)
      assert.truthy(first:find("steps 4", 1, true), first)
      local second
      second, status = shell.run(command .. "2")
      assert.equal(0, status, second)
      assert.truthy(second:find("steps 8", 1, true), second)
    end)
  end)
end
