-- The server that stands in for real ones in the specs of the remote engine: what those rely on.
local core = require "crucible.core"
local crucible = require "crucible"
local faults = require "spec.support.tinker_faults"
local json = require "crucible.json"
local proto = require "spec.support.tinker_proto"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora

-- One request; status, the answer as a table where it is JSON, its bytes.
local function post(url, path, body, headers)
  local http <close> = assert(core.open_http())
  local lines = { "Content-Type: application/json", "X-API-Key: k" }
  for _, line in ipairs(headers or {}) do lines[#lines + 1] = line end
  if headers and headers[1]:find "^Content%-Type" then table.remove(lines, 1) end
  local bytes = type(body) == "string" and body or json.encode(body)
  local transfer <close> = assert(http:start({ url = url .. "/api/v1/" .. path, headers = lines, once = true }, bytes))
  while not transfer:done() do assert(http:wait(1)) end
  local text = transfer:body()
  return transfer:state().status, text:find "^[%[{]" and json.decode(text) or text, transfer:state()
end

-- The result of a future, however long it takes.
local function result_of(url, id)
  for _ = 1, 50 do
    local status, value = post(url, "retrieve_future", { request_id = id })
    if status ~= 408 and not (type(value) == "table" and value.type == "try_again") then return value, status end
  end
end

local function new_model(url, seed)
  local _, session = post(url, "create_session", { tags = json.array {}, sdk_version = "x" })
  local _, created = post(url, "create_model", { session_id = session.session_id, model_seq_id = 0, base_model = "tiny",
    lora_config = { rank = 4, seed = seed or 0 } })
  return result_of(url, created.request_id).model_id
end

local DATUM = { tokens = { 10, 11, 12, 13 }, targets = { 11, 12, 13, 14 }, weights = { 0, 1, 1, 0.5 } }

local function tensor(values, dtype) return { data = values, dtype = dtype, shape = { #values } } end

local function pass(model_id, seq_id)
  return { model_id = model_id, seq_id = seq_id, forward_backward_input = { loss_fn = "cross_entropy", data = { {
    model_input = { chunks = { { type = "encoded_text", tokens = DATUM.tokens } } },
    loss_fn_inputs = { target_tokens = tensor(DATUM.targets, "int64"),
      weights = tensor(DATUM.weights, "float32") } } } } }
end

local function step(model_id, seq_id)
  return { model_id = model_id, seq_id = seq_id, adam_params = { learning_rate = 0.01, beta1 = 0.9, beta2 = 0.95,
    eps = 1e-12, weight_decay = 0, grad_clip_norm = 0 } }
end

describe("the stand-in server", function()
  local server

  local function serve(options)
    server = standin.start(options)
    return server
  end

  after_each(function()
    if server then server:stop() end
    server = nil
    temp.clean()
  end)

  -- Losses of three steps of the local engine, the gradient divided by `divisor`.
  local function local_losses(divisor)
    local session <close> = assert(lora.create_session { adapter = "local", seed = 3, config = {
      base_model = tiny_model.path, lora_rank = 4, lora_alpha = 32, lora_dropout = 0,
      target_modules = lora.config.targets, threads = 1 } })
    local losses = {}
    for i = 1, 3 do
      losses[i] = assert(session:forward_backward({ DATUM }, "cross_entropy", { counts = { cross_entropy = 1 } })).sum
      session:scale_gradients(1 / divisor)
      session:optim_step { lr = 0.01, beta1 = 0.9, beta2 = 0.95, eps = 1e-12, weight_decay = 0, max_grad_norm = 0 }
    end
    return losses
  end

  local function remote_losses(url)
    local model, losses = new_model(url, 3), {}
    for i = 1, 3 do
      local _, submitted = post(url, "forward_backward", pass(model, 2 * i - 1))
      local _, stepped = post(url, "optim_step", step(model, 2 * i))
      local logprobs = result_of(url, submitted.request_id).loss_fn_outputs[1].logprobs.data
      result_of(url, stepped.request_id)
      losses[i] = 0
      for t, weight in ipairs(DATUM.weights) do losses[i] = losses[i] - weight * logprobs[t] end
    end
    return losses
  end

  for kind, divisor in pairs { hosted = 1, skyrl = 2.5, hatchery = 2.5 } do
    it("trains as the local engine does: " .. kind, function()
      if not serve { kind = kind, alpha = 32 } then return pending("LuaSocket is not installed") end
      local expected, found = local_losses(divisor), remote_losses(server.url)
      for i, loss in ipairs(expected) do
        assert.is_true(math.abs(loss - found[i]) < 1e-5 * loss, ("%g %g"):format(loss, found[i]))
      end
      assert.equal(6, #server:applied())
    end)
  end

  it("speaks protobuf alone as tuft, asks for a key, and keeps strict order", function()
    if not serve { kind = "tuft", key = "k" } then return pending("LuaSocket is not installed") end
    assert.equal(401, (select(2, server:ask("/api/v1/create_session", "{}"))))
    local model = new_model(server.url)
    assert.equal(415, (post(server.url, "forward_backward", pass(model, 1))))
    local bytes = assert(core.tinker_encode("forward_backward", { model_id = model, seq_id = 1,
      loss_fn = "cross_entropy", data = { { tokens = DATUM.tokens, inputs = {
        target_tokens = { dtype = "int64", values = DATUM.targets },
        weights = { dtype = "float32", values = DATUM.weights } } } } }))
    local protobuf = { "Content-Type: application/x-protobuf", "X-API-Key: k" }
    local status, submitted = post(server.url, "forward_backward", bytes, protobuf)
    assert.equal(202, status)
    local accept = { "Accept: application/x-protobuf, application/json" }
    local _, answer = post(server.url, "retrieve_future", { request_id = submitted.request_id }, accept)
    assert.equal(4, #assert(core.tinker_decode("forward_backward_output", answer)).outputs[1].logprobs)
    local _, gap = post(server.url, "optim_step", step(model, 5))
    local found, code = result_of(server.url, gap.request_id)
    assert.same({ 409, "Sequence conflict: expected 2, got 5." }, { code, found.detail })
    assert.equal(422, (post(server.url, "optim_step", { model_id = model, seq_id = 2, other = 1 })))
    assert.has_error(function() proto.read_request(bytes:sub(1, 30)) end)
  end)

  it("does a repeated submit twice, once, or refuses it, by its kind", function()
    if not serve { kind = "skyrl" } then return pending("LuaSocket is not installed") end
    local function repeated(changed)
      local model = new_model(server.url)
      post(server.url, "forward_backward", pass(model, 1))
      local other = pass(model, 1)
      if changed then other.forward_backward_input.loss_fn = "importance_sampling" end
      local status, submitted = post(server.url, "forward_backward", other)
      if submitted.request_id then result_of(server.url, submitted.request_id) end
      return status, #server:applied(model)
    end
    assert.same({ 200, 2 }, { repeated() })
    server:control { options = { dedupe = "silent" } }
    assert.same({ 200, 1 }, { repeated(true) })
    server:control { options = { dedupe = "body" } }
    assert.same({ 200, 1 }, { repeated() })
    assert.equal(409, (repeated(true)))
  end)

  it("waits for what is missing before it goes on, where it orders by seq_id", function()
    if not serve { poll_seconds = 0.05 } then return pending("LuaSocket is not installed") end
    local model = new_model(server.url)
    local _, later = post(server.url, "optim_step", step(model, 2))
    local _, waiting = post(server.url, "retrieve_future", { request_id = later.request_id })
    assert.equal("try_again", waiting.type)
    post(server.url, "forward_backward", pass(model, 1))
    assert.is_nil(result_of(server.url, later.request_id).detail)
    assert.truthy(server:applied()[1]:find "^forward_backward ")
    assert.equal("optim_step 0.01", server:applied()[2])
  end)

  it("takes back what followed a state that is loaded, also after it was away", function()
    if not serve {} then return pending("LuaSocket is not installed") end
    local model = new_model(server.url)
    post(server.url, "optim_step", step(model, 1))
    local _, saving = post(server.url, "save_weights", { model_id = model, path = "a", seq_id = 2 })
    local path = result_of(server.url, saving.request_id).path
    post(server.url, "optim_step", step(model, 3))
    local _, loading = post(server.url, "load_weights", { model_id = model, path = path, seq_id = 4, optimizer = true })
    result_of(server.url, loading.request_id)
    assert.same({ "optim_step 0.01" }, server:applied(model))
    local folder, port = server.folder, server.port
    server:kill()
    serve { folder = folder, port = port }
    local another = new_model(server.url)
    _, loading = post(server.url, "load_weights", { model_id = another, path = path, seq_id = 1, optimizer = true })
    result_of(server.url, loading.request_id)
    assert.same({ "optim_step 0.01" }, server:applied(another))
    assert.equal(2, #server:everything())
  end)

  it("loses answers and requests behind the fault proxy as told", function()
    if not serve {} then return pending("LuaSocket is not installed") end
    local plan = { "reset", "reset_after", "half", "status:503", "after:502", "stall", "stall_after", "duplicate",
      "html", "ok" }
    local proxy = faults.start { target = server, stall = 0.05, plan = { ["POST /api/v1/telemetry"] = plan } }
    local found = {}
    for i, kind in ipairs(plan) do
      local before = #server:requests()
      local status, _, state = post(proxy.url, "telemetry", {})
      found[i] = ("%s %d %s %d"):format(kind, status, state.code or "-", #server:requests() - before)
    end
    assert.same({ "reset 0 io 0", "reset_after 0 io 1", "half 200 io 1", "status:503 503 - 0", "after:502 502 - 1",
      "stall 0 io 0", "stall_after 0 io 1", "duplicate 200 - 1", "html 200 - 0", "ok 200 - 1" }, found)
    assert.equal(9, #proxy:done())
    proxy:stop()
  end)
end)
