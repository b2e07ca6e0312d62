-- What a remote session refuses before anything is sent, futures, steps under way at once, and the key.
local expect = require "spec.support.expect"
local faults = require "spec.support.tinker_faults"
local fs = require "crucible.fs"
local lora = require("crucible").lora
local remote = require "spec.support.remote_sessions"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"

local KEY = "tml-of-the-specs"
local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }
local batch = { remote.datum("hello world", 5), remote.datum("abcabc", 2) }

local function rows(count)
  local list = {}
  for i = 1, count do
    list[i] = { input = ("claim %d is %d:"):format(i, i * 7), output = i % 3 == 0 and "no" or "yes" }
  end
  return list
end

describe("a remote session", function()
  local servers = {}

  local function server_of(kind)
    local key = kind == "tuft" and KEY or nil
    servers[kind] = servers[kind] or standin.start { kind = kind, key = key, poll_seconds = 0.5, idle_seconds = 1800 }
    return servers[kind]
  end

  teardown(function()
    for _, server in pairs(servers) do server:stop() end
    temp.clean()
  end)

  -- Every test needs LuaSocket for the server.
  local function it_serves(kind, title, body)
    it(title, function()
      local server = server_of(kind)
      if not server then return pending "LuaSocket is not installed" end
      body(server)
    end)
  end

  -- ---- before anything is sent ---------------------------------------------------------------

  it("needs an address of http or https", function()
    expect.raises("needs base_url, or TINKER_BASE_URL", lora.create_session, { adapter = "tinker" })
    expect.raises("base_url must be an address of http or https, got \"ftp://x\"", lora.create_session,
      { adapter = "tinker", base_url = "ftp://x", config = remote.config() })
    expect.raises('unknown option "base_ulr"; did you mean "base_url"?', lora.create_session,
      { adapter = "tinker", base_ulr = "http://x" })
    expect.raises('unknown option "base_url"', lora.create_session, { base_url = "http://x" })
  end)

  it("tells who does not answer, within its patience", function()
    local result, message, code = remote.session({ url = "http://user:secret@127.0.0.1:1", base_model = "tiny" },
      { patience = 0.2 })
    expect.fails("io", "http://127.0.0.1:1: get_server_capabilities", result, message, code)
    assert.is_nil(message:find("secret", 1, true))
  end)

  it_serves("skyrl", "refuses what the server cannot express, with what would mean the same", function(server)
    local result, message, code = remote.session(server)
    expect.fails("unsupported", "config.target_modules is k_proj, o_proj, q_proj, v_proj, the server has", result,
      message, code)
    assert.truthy(message:find("max_grad_norm = 0", 1, true), message)
    local session <close> = assert(remote.session(server, { differences = "note" }))
    local told = table.concat(assert(session:describe()).remote.differences, "\n")
    assert.truthy(told:find("target_modules", 1, true))
    assert.equal(0, server:stats().models[2] and 1 or 0) -- the refused one was unloaded
  end)

  it_serves("hosted", "refuses losses that read what servers do not give, naming the alternative", function(server)
    local session <close> = assert(remote.session(server))
    local function refused(what, loss)
      expect.raises(what, session.forward_backward, session, batch, loss)
      local before = #server:requests()
      expect.raises(what, lora.training_loop.run, session, rows(4), { loss_fn = loss, run_dir = temp.folder() .. "/r" })
      assert.equal(before, #server:requests())
    end
    refused('reads mean_logprobs, which servers of the Tinker API do not give; take the loss without label smoothing',
      { "cross_entropy", { label_smoothing = 0.1 } })
    refused('loss "entropy_bonus" reads entropy, which servers', "entropy_bonus")
    refused('loss "probe" reads hidden', { name = "probe", outputs = { "hidden" }, compute = print })
    refused("reads candidates", { name = "probe", outputs = { "candidates" }, compute = print })
    expect.raises('give no gradients; take them with adapter = "local"', session.gradients, session)
    expect.raises('adapter = "local" does', lora.training_loop.run, session, rows(4), {
      enable_gradient_hooks = true, gradient_hooks = { "norm" }, run_dir = temp.folder() .. "/r",
    })
    expect.raises("no min_p", session.sample, session, { "a" }, { min_p = 0.1 })
  end)

  it_serves("skyrl", "refuses losses whose slopes a mean over rows would spoil", function(server)
    local session <close> = assert(remote.session(server, { config = { target_modules = ALL, max_grad_norm = 0 } }))
    assert.equal("sequence_mean", assert(session:describe()).remote.reduction)
    expect.raises('loss "importance_sampling" cannot be had on', session.forward_backward, session, batch,
      "importance_sampling")
    expect.raises('{ "cross_entropy", { reduction = "sequence_mean" } }', session.forward_backward, session, batch)
    expect.raises('{ "cross_entropy", { reduction = "sequence_mean" } }', lora.training_loop.run, session,
      { { input = "a:", output = "b" }, { input = "a:", output = "long answer" } }, { run_dir = temp.folder() .. "/r" })
    assert(session:forward_backward(batch, { "cross_entropy", { reduction = "sequence_mean" } }))
  end)

  -- ---- the same numbers on servers that divide otherwise ---------------------------------------

  for kind, config in pairs {
    hosted = {}, hatchery = { lora_alpha = 8 }, tuft = { lora_alpha = 8 },
    skyrl = { target_modules = ALL, max_grad_norm = 0 },
  } do
    it_serves(kind, "on " .. kind .. " has the losses of the local engine", function(server)
      local session <close> = assert(remote.session(server, { config = config, seed = 5 }))
      local twin <close> = remote.twin { config = config, seed = 5 }
      local loss = { "cross_entropy", { reduction = "sequence_mean" } }
      local adam = lora.config.adam_params(twin.config)
      for step = 1, 20 do
        local ours, theirs = assert(twin:forward_backward(batch, loss)), assert(session:forward_backward(batch, loss))
        assert.is_true(math.abs(ours.loss - theirs.loss) < (step == 1 and 1e-5 or 1e-4), ("step %d"):format(step))
        assert(twin:optim_step(adam))
        assert(session:optim_step(adam))
      end
    end)
  end

  it_serves("hatchery", "has slopes of any loss where the server's mean is over tokens", function(server)
    local config = { lora_alpha = 8 }
    local session <close> = assert(remote.session(server, { config = config, seed = 5 }))
    local twin <close> = remote.twin { config = config, seed = 5 }
    local squared = { name = "squared", outputs = { "logprobs" }, compute = function(predictions, targets)
      local loss = 0
      for i in ipairs(targets) do loss = loss + (predictions.logprobs[i] ^ 2):sum() end
      return { loss = loss }
    end }
    for _ = 1, 4 do
      local ours = assert(twin:forward_backward(batch, squared))
      local theirs = assert(session:forward_backward(batch, squared))
      assert.is_true(math.abs(ours.loss - theirs.loss) < 1e-4 * math.abs(ours.loss))
      local here, there = assert(twin:optim_step()), assert(session:optim_step())
      assert.is_true(math.abs(here.grad_norm - there.grad_norm) < 1e-4 * here.grad_norm)
    end
  end)

  it_serves("hosted", "submits a step's requests together where the server goes by number", function(server)
    local proxy = faults.start { target = server, stall = 0.1, plan = {
      ["POST /api/v1/forward_backward"] = { "ok", "reset", "ok", "after:502", "half" },
      ["POST /api/v1/optim_step"] = { "ok", "ok", "stall_after", "reset_after" },
    } }
    local target = { url = proxy.url, base_model = server.base_model }
    local session = assert(remote.session(target, { seed = 5, order = "number", repeats = "deduplicated",
      chunk_rows = 1, pipeline = 3 }))
    local twin <close> = remote.twin { seed = 5 }
    assert.equal(16, session.lane.most)
    local tickets, params = {}, lora.config.adam_params(twin.config)
    for step = 1, 5 do tickets[step] = assert(session:begin_step({ batch }, "cross_entropy", { params = params })) end
    for _, ticket in ipairs(tickets) do
      local found = assert(ticket:wait())
      assert.is_true(math.abs(assert(twin:forward_backward(batch)).loss - found.results[1].loss) < 1e-5)
      assert(twin:optim_step(params))
    end
    assert.same({}, session.incidents)
    session:close()
    proxy:stop()
  end)

  it_serves("hosted", "sends batches in chunks that change nothing", function(server)
    local session <close> = assert(remote.session(server, { chunk_rows = 1, seed = 5 }))
    local twin <close> = remote.twin { seed = 5 }
    for _ = 1, 3 do
      local ours, theirs = assert(twin:forward_backward(batch)), assert(session:forward_backward(batch))
      assert.is_true(math.abs(ours.loss - theirs.loss) < 1e-5)
      assert(twin:optim_step())
      assert(session:optim_step())
    end
  end)

  it_serves("hosted", "has base log-probabilities for losses with a reference", function(server)
    local session <close> = assert(remote.session(server, { seed = 5 }))
    local start = assert(session:forward(batch)).logprobs[1][10]
    assert(session:forward_backward(batch))
    assert(session:optim_step())
    assert.is_true(math.abs(assert(session:forward(batch, { base = true })).logprobs[1][10] - start) < 1e-5)
    assert.not_equal(start, assert(session:forward(batch)).logprobs[1][10])
  end)

  -- ---- futures -----------------------------------------------------------------------------------

  it_serves("hosted", "gives futures on request", function(server)
    local session <close> = assert(remote.session(server))
    local pass = session:forward_backward(batch, nil, { async = true })
    local update = session:optim_step(nil, { async = true })
    assert.equal("crucible.future(pending)", tostring(pass))
    while not update:ready() do fs.clock() end
    assert.is_true(pass:ready())
    assert.equal(15, assert(pass:wait()).tokens)
    assert.equal(1, assert(update:wait()).step)
    local failed = session:forward({ { tokens = { 1, 2 } } }, { async = true })
    assert.is_table(assert(failed:wait()).logprobs)
  end)

  it_serves("hosted", "yields in a coroutine host, so that sessions wait side by side", function(server)
    local hosts, resumed, steps = {}, { 0, 0 }, 0
    for number = 1, 2 do
      hosts[number] = coroutine.create(function()
        local session <close> = assert(remote.session(server, { yield = true }))
        for _ = 1, 2 do
          assert(session:forward_backward(batch))
          assert(session:optim_step())
          steps = steps + 1
        end
        return math.min(resumed[1], resumed[2])
      end)
    end
    while coroutine.status(hosts[1]) ~= "dead" or coroutine.status(hosts[2]) ~= "dead" do
      for number, host in ipairs(hosts) do
        if coroutine.status(host) ~= "dead" then
          resumed[number] = resumed[number] + 1
          local ok, least = coroutine.resume(host)
          assert.is_true(ok, least)
          assert.is_true(least == nil or least > 4) -- the other had its turns, too
        end
      end
    end
    assert.equal(4, steps)
  end)

  it_serves("hosted", "ends what it waits for when it is cancelled, and goes on afterwards", function(server)
    local session
    local turns = 0
    local function host()
      turns = turns + 1
      if session and turns > 3 then session:cancel() end
    end
    session = assert(remote.session(server, { yield = host, poll_timeout = 5 }))
    turns = 0
    expect.fails("cancelled", "cancelled", session:forward_backward(batch))
    assert.is_true(session:cancelled())
    assert.is_false(session:cancelled())
    turns = -math.huge
    assert(session:forward(batch))
    session:close()
  end)

  it_serves("hosted", "has the next step under way while one is computed", function(server)
    local function run(pipeline)
      local session <close> = assert(remote.session(server, { pipeline = pipeline, seed = 2, runs = temp.folder() }))
      local losses, most = {}, 0
      local began = session.begin_step
      local under_way = 0
      session.begin_step = function(...)
        under_way = under_way + 1
        most = math.max(most, under_way)
        return began(...)
      end
      assert(lora.training_loop.run(session, rows(20), { batch_size = 4, epochs = 2, checkpoint_every = 4, callbacks = {
        on_step_end = function(step)
          losses[#losses + 1] = step.loss
          under_way = under_way - 1
        end,
      } }))
      return losses, most
    end
    local one, alone = run(1)
    local two, together = run(3)
    assert.equal(1, alone)
    assert.equal(3, together)
    for step, value in ipairs(one) do assert.is_true(math.abs(value - two[step]) < 1e-6) end
  end)

  it_serves("hosted", "ends a run where a callback says so, with what was begun", function(server)
    local session <close> = assert(remote.session(server, { seed = 2, runs = temp.folder() }))
    local results = assert(lora.training_loop.run(session, rows(20), { batch_size = 2, callbacks = {
      on_step_end = function(step) return step.step == 3 and "stop" or nil end,
    } }))
    assert.equal("stopped", results.status)
    assert.equal(4, results.total_steps)
    assert.equal(4, #server:applied(session.lane.model_id) > 0 and results.checkpoints[#results.checkpoints].step)
  end)

  it_serves("hosted", "leaves no step behind that a failing callback did not see", function(server)
    local folder = temp.folder()
    local session <close> = assert(remote.session(server, { seed = 2, runs = folder }))
    local losses = {}
    local function options(on_step_end)
      return { batch_size = 2, shuffle = false, run_dir = folder .. "/r", callbacks = { on_step_end = on_step_end } }
    end
    local failing = options(function(step)
      losses[step.step] = step.loss
      if step.step == 3 then error "no more" end
    end)
    expect.raises("on_step_end failed at step 3, checkpoint step_000003 kept", lora.training_loop.run, session,
      rows(20), failing)
    local other <close> = assert(remote.session(server, { seed = 2, runs = folder }))
    local given = options(function(step) losses[step.step] = step.loss end)
    given.resume = true
    assert.equal(10, assert(lora.training_loop.run(other, rows(20), given)).total_steps)
    local whole <close> = assert(remote.session(server, { seed = 2, runs = folder }))
    given = options(function(step) assert.is_true(math.abs(losses[step.step] - step.loss) < 1e-5) end)
    given.run_dir = folder .. "/whole"
    assert(lora.training_loop.run(whole, rows(20), given))
  end)

  -- ---- the lora here -------------------------------------------------------------------------------

  it_serves("skyrl", "downloads the lora for the local engine, and compares it with a folder", function(server)
    local config = { target_modules = ALL, max_grad_norm = 0 }
    local session <close> = assert(remote.session(server, { config = config, seed = 5, runs = temp.folder() }))
    local loss = { "cross_entropy", { reduction = "sequence_mean" } }
    for _ = 1, 2 do
      assert(session:forward_backward(batch, loss))
      assert(session:optim_step())
    end
    local folder = assert(session:export(temp.folder() .. "/peft"))
    assert.same({ "adapter_config.json", "adapter_model.safetensors" }, fs.list(folder))
    local twin <close> = remote.twin { config = config, seed = 9, runs = temp.folder() }
    assert(twin:load_checkpoint(folder, { weights_only = true }))
    local ours, theirs = assert(twin:forward(batch)).logprobs, assert(session:forward(batch)).logprobs
    assert.is_true(math.abs(ours[1][10] - theirs[1][10]) < 1e-5)
    assert.equal(0, assert(session:compare(folder)).largest)
    local other <close> = remote.twin { config = config, seed = 5, runs = temp.folder() }
    assert.is_true(assert(session:compare(assert(other:export(temp.folder() .. "/other")))).largest > 0)
    assert.truthy(#assert(session:remote_states()) > 0)
  end)

  it_serves("hatchery", "says where a server gives no archive", function(server)
    local session <close> = assert(remote.session(server, { config = { lora_alpha = 8 } }))
    expect.fails("unsupported", "gives no archive of a lora", session:export(temp.folder() .. "/peft"))
  end)

  it_serves("hosted", "refuses checkpoints that the other engine saved", function(server)
    local folder = temp.folder()
    local session <close> = assert(remote.session(server, { runs = folder }))
    local twin <close> = remote.twin { runs = folder }
    local theirs, ours = assert(session:save_checkpoint "a"), assert(twin:save_checkpoint "b")
    assert.truthy(theirs.remote:find "^tinker://")
    expect.fails("unsupported", "was saved by the local engine", session:load_checkpoint(ours.path))
    expect.fails("unsupported", "was saved by the tinker engine", twin:load_checkpoint(theirs.path))
  end)

  -- ---- the key -----------------------------------------------------------------------------------

  it_serves("tuft", "that is wrong or missing is refused in one line", function(server)
    local wrong = { url = server.url, base_model = "tiny", key = "tml-wrong" }
    local result, message, code = remote.session(wrong, { config = { lora_alpha = 8 } })
    expect.fails("unsupported", "403", result, message, code)
    assert.is_nil(message:find("tml-wrong", 1, true))
    expect.fails("unsupported", "401", remote.session({ url = server.url, base_model = "tiny" },
      { config = { lora_alpha = 8 } }))
    expect.raises("api_key holds spaces or control characters", remote.session,
      { url = server.url, base_model = "tiny", key = "two\nlines" })
  end)
end)
