-- A server of the Tinker training API on loopback, for specs and benchmarks; a process of its own:
--
--     lua5.4 spec/support/tinker_server.lua OPTIONS.json      prints its port, then serves
--
-- It trains (spec/support/tinker_engine.lua) and behaves as one of four real kinds do, in what they read and
-- write, what they do with a seq_id seen before or out of turn, how they divide a loss, and how they
-- fail. spec/support/tinker_standin.lua starts it and lists the options.
local engine_of = require "spec.support.tinker_engine"
local fs = require "crucible.fs"
local http = require "spec.support.http_server"
local json = require "crucible.json"
local loop = require "spec.support.socket_loop"
local proto = require "spec.support.tinker_proto"

local kinds = {
  hosted = {
    json = true, protobuf = true, reduction = "sum", order = "wait", dedupe = "body", save_kind = "weights",
    clips = true, fresh_optimizer = true, id = "%d", archive = true, unload = "future",
  },
  skyrl = {
    json = true, reduction = "sequence_mean", order = "arrival", dedupe = "none", save_kind = "weights", clips = false,
    id = "%d", archive = true, unload = "future", elementwise = true, silent_poll = 408, tells_lora = true,
    bad_protobuf = 500, named_once = true, bare_sampler = true, most_rank = 8,
    targets = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" },
  },
  hatchery = {
    json = true, reduction = "token_mean", order = "arrival", dedupe = "silent", save_kind = "checkpoints",
    clips = true, id = "fut_%08x", unload = "query", failed_in_200 = true, bad_protobuf = 500, loss_names = true,
    type = "cross_entropy", fresh_optimizer = true, alpha_by_rank = 2, most_rank = 256,
  },
  tuft = {
    protobuf = true, reduction = "sum", order = "strict", dedupe = "none", save_kind = "weights", clips = true,
    fresh_optimizer = true, id = "%08x-0000-4000-8000-000000000000", created = 201, accepted = 202, fields = true,
    unload = "future", archive = true, alpha_by_rank = 2, most_rank = 16,
  },
}

local function read_options()
  local handle = assert(io.open(arg[1], "rb"))
  local given = assert(json.decode(handle:read "a"))
  handle:close()
  local options = { latency = 0, poll_seconds = 2, step_seconds = 0, idle_seconds = 120, port = 0, base_model = "tiny" }
  for name, value in pairs(assert(kinds[given.kind or "hosted"], "unknown kind")) do options[name] = value end
  for name, value in pairs(given) do options[name] = value end
  return options
end

local options = read_options()
local engine = engine_of.new(options)
local state = {
  futures = {}, models = {}, sessions = {}, samplers = {}, count = 0, requests = {}, polls = 0, last = loop.now(),
  busy = 0, ops = 0,
}

local run_number = math.random(0xffff) -- models of two starts on one folder are not the same

local function next_id()
  state.count = state.count + 1
  return state.count
end

-- ---- answers ------------------------------------------------------------------------------------------

local function answer(status, value)
  return status, { ["Content-Type"] = "application/json" }, json.encode(value)
end

local function detail(status, format, ...) return answer(status, { detail = format:format(...) }) end

local function protobuf(bytes) return 200, { ["Content-Type"] = "application/x-protobuf" }, bytes end

-- ---- the engine's queue ------------------------------------------------------------------------------------
-- One operation at a time, in the order they were let in.

local queue, waiting = { first = 1, last = 0 }, loop.event()

local function enqueue(operation)
  queue.last = queue.last + 1
  queue[queue.last] = operation
  waiting.signal()
end

local function finish(future, fields)
  for name, value in pairs(fields) do future[name] = value end
  future.done = true
  future.event.signal()
end

local function run_operation(operation)
  local started = loop.now()
  state.first = state.first or started
  local ok, result = pcall(operation.run)
  local left = (operation.seconds or 0) - (loop.now() - started)
  if left > 0 then loop.sleep(left) end
  state.busy = state.busy + loop.now() - started
  state.ops, state.finished = state.ops + 1, loop.now()
  if not ok and type(result) ~= "table" then result = { message = tostring(result), status = 400 } end
  finish(operation.future, ok and { result = result } or { failure = result.message, status = result.status })
end

loop.spawn(function()
  while true do
    while queue.first <= queue.last do
      local operation = queue[queue.first]
      queue[queue.first] = nil
      queue.first = queue.first + 1
      run_operation(operation)
    end
    waiting:wait()
  end
end)

-- ---- futures and the order of a model's operations --------------------------------------------------------

local function new_future(kind)
  local future = { id = options.id:format(next_id()), kind = kind, event = loop.event() }
  state.futures[future.id] = future
  return future
end

local function future_answer(future, extra)
  local value = { request_id = future.id }
  for name, given in pairs(extra or {}) do value[name] = given end
  if options.kind == "skyrl" then value.future_id, value.status = future.id, "pending" end
  return answer(options.accepted or 200, value)
end

-- The future of an operation of a model's own sequence; nil when it was answered otherwise.
local function seen_before(model, seq, digest)
  local known = model.seen[seq]
  if not known or options.dedupe == "none" then return nil end
  if options.dedupe == "body" and known.digest ~= digest then
    return nil, { detail(409, "seq_id %d was used with another request", seq) }
  end
  return known.future
end

-- The next number alone is done, or the one behind an operation that failed.
local function in_strict_order(model, seq, operation)
  local run = operation.run
  function operation.run()
    local expected = model.expected
    if seq ~= expected and not (seq == expected + 1 and model.failed == expected) then
      error({ status = 409, message = ("Sequence conflict: expected %d, got %d."):format(expected, seq) })
    end
    model.expected, model.failed = seq, seq
    local result = run()
    model.expected, model.failed = seq + 1, nil
    return result
  end
  return operation
end

local function let_in(model, seq, operation)
  if options.order == "arrival" then return enqueue(operation) end
  if options.order == "strict" then return enqueue(in_strict_order(model, seq, operation)) end
  model.early[seq] = operation
  while model.early[model.expected] do
    enqueue(model.early[model.expected])
    model.early[model.expected] = nil
    model.expected = model.expected + 1
  end
end

local function submit(request, body, kind, run, extra)
  local model = state.models[body.model_id]
  if not model or model.killed then return detail(404, "Model %s not found", tostring(body.model_id)) end
  local seq = math.tointeger(body.seq_id or 0)
  if not seq or seq < 1 then return detail(422, "seq_id must be at least 1") end
  local digest = fs.sha256(request.path .. request.body)
  local future, refusal = seen_before(model, seq, digest)
  if refusal then return table.unpack(refusal) end
  if not future then
    future = new_future(kind)
    model.seen[seq] = { future = future, digest = digest }
    local seconds = kind == "forward_backward" and options.step_seconds or 0
    let_in(model, seq, { future = future, run = run, seconds = seconds })
  end
  return future_answer(future, extra)
end

-- ---- endpoints ----------------------------------------------------------------------------------------------

local posts, fields = {}, {}

-- Documented fields of each, for the kind that refuses others.
fields.create_session = "tags user_metadata sdk_version project_id type"
fields.session_heartbeat = "session_id type"
fields.create_model = "session_id model_seq_id base_model lora_config user_metadata type"
fields.get_info = "model_id type"
fields.optim_step = "model_id seq_id type adam_params"
fields.save_weights = "model_id path seq_id overwrite ttl_seconds type"
fields.load_weights = "model_id seq_id path optimizer type"
fields.save_weights_for_sampler = "model_id path seq_id sampling_session_seq_id ttl_seconds type"
fields.create_sampling_session = "session_id sampling_session_seq_id model_path base_model type"
fields.asample = "sampling_session_id seq_id num_samples prompt sampling_params prompt_logprobs topk_prompt_logprobs "
  .. "base_model model_path type"
fields.retrieve_future = "request_id allow_metadata_only"
fields.unload_model = "model_id type"

local function forbidden(name, body)
  if not options.fields or not fields[name] then return nil end
  local known = {}
  for field in fields[name]:gmatch "%S+" do known[field] = true end
  for field, value in pairs(body) do
    if not known[field] then
      return { { type = "extra_forbidden", loc = { "body", field }, msg = "Extra inputs are not permitted",
        input = value } }
    end
  end
end

posts["client/config"] = function() return answer(200, { pjwt_auth_enabled = false }) end
function posts.telemetry() return answer(200, { status = "accepted" }) end

function posts.create_session()
  local id = ("session_%08x"):format(next_id())
  state.sessions[id] = true
  return answer(options.created or 200, { type = "create_session", session_id = id, info_message = json.null,
    warning_message = json.null, error_message = json.null })
end

function posts.session_heartbeat(_, body)
  if not state.sessions[body.session_id] then return detail(404, "Session not found") end
  if options.kind == "hatchery" then return answer(200, { session_id = body.session_id, alive = true }) end
  return answer(200, { type = "session_heartbeat" })
end

function posts.create_model(_, body)
  if not state.sessions[body.session_id] then return detail(404, "Session not found") end
  local id = ("model_%04x%04x"):format(run_number, next_id())
  local asked = body.lora_config or {}
  state.models[id] = { id = id, seen = {}, early = {}, expected = 1 }
  local future = new_future "create_model"
  enqueue { future = future, run = function()
    local info = engine:create_model(id, asked)
    local result = { type = "create_model", model_id = id }
    if options.tells_lora then
      result.base_model = body.base_model
      result.lora_config = { rank = info.rank, alpha = info.alpha, seed = info.seed, train_attn = true,
        train_mlp = true, train_unembed = false }
    end
    return result
  end }
  return future_answer(future, { model_id = id })
end

function posts.get_info(_, body)
  local model = state.models[body.model_id]
  if not model or model.killed then return detail(404, "Model %s not found", tostring(body.model_id)) end
  return answer(200, { type = "get_info", model_id = model.id, is_lora = true, model_name = options.base_model,
    model_data = { model_name = options.base_model, arch = "llama", tokenizer_id = options.base_model } })
end

local function tensor(list) return { data = json.array(list), dtype = "float32", shape = { #list } } end

-- A loss's result for either dialect: its tables are made when it is known who asks.
local function pass_result(logprobs, metrics)
  return { logprobs = logprobs, metrics = metrics or {} }
end

local function pass_answer(result)
  local outputs = {}
  for i, list in ipairs(result.logprobs) do
    outputs[i] = { logprobs = tensor(list) }
    if options.elementwise then
      local losses = {}
      for t, value in ipairs(list) do losses[t] = -value end
      outputs[i].elementwise_loss = tensor(losses)
    end
  end
  return { loss_fn_output_type = options.type or "scalar", metrics = options.kind == "skyrl" and {} or result.metrics,
    loss_fn_outputs = json.array(outputs) }
end

local function check_pass(input)
  if type(input) ~= "table" or type(input.data) ~= "table" then return detail(422, "the input is missing") end
  if input.loss_fn ~= "cross_entropy" and input.loss_fn ~= "importance_sampling" then
    return detail(422, "unknown loss_fn %s", tostring(input.loss_fn))
  end
  if #input.data == 0 then return detail(400, "data is empty") end
end

local function submit_pass(request, body, input, backward)
  local status, headers, text = check_pass(input)
  if status then return status, headers, text end
  return submit(request, body, backward and "forward_backward" or "forward", function()
    if not backward then return pass_result(engine:forward(body.model_id, input)) end
    return pass_result(engine:forward_backward(body.model_id, input))
  end)
end

function posts.forward_backward(request, body)
  if not request.protobuf then return submit_pass(request, body, body.forward_backward_input, true) end
  return submit_pass(request, body, body.forward_backward_input, not request.forward_only)
end

function posts.forward(request, body)
  if options.kind == "tuft" then return detail(404, "Not Found") end
  return submit_pass(request, body, body.forward_input, false)
end

function posts.optim_step(request, body)
  return submit(request, body, "optim_step", function()
    local found = engine:optim_step(body.model_id, body.adam_params or {})
    return { type = "optim_step", metrics = { ["grad_norm"] = found.grad_norm, step = found.step } }
  end)
end

local function tinker_path(id, kind, name)
  if options.bare_sampler and kind == "sampler_weights" then return ("tinker://%s/%s"):format(id, name) end
  return ("tinker://%s/%s/%s"):format(id, kind, name)
end

local function bad_name(name)
  if type(name) == "string" and name:find "^[%w_%-]+$" and #name <= 255 then return nil end
  if not options.named_once and type(name) == "string" and name:find "^[%w_%-%.]+$" then return nil end
  return true
end

function posts.save_weights(request, body)
  if bad_name(body.path) then return detail(422, "path must match ^[a-zA-Z0-9_-]+$") end
  if options.named_once and engine:exists(body.model_id, options.save_kind, body.path) then
    return detail(409, "Checkpoint %s exists", body.path)
  end
  return submit(request, body, "save_weights", function()
    engine:save(body.model_id, options.save_kind, body.path)
    return { type = "save_weights", path = tinker_path(body.model_id, options.save_kind, body.path) }
  end)
end

function posts.save_weights_for_sampler(request, body)
  if body.path and bad_name(body.path) then return detail(422, "path must match ^[a-zA-Z0-9_-]+$") end
  local name = body.path or ("step_" .. next_id())
  return submit(request, body, "save_weights_for_sampler", function()
    engine:save(body.model_id, "sampler_weights", name)
    local path = tinker_path(body.model_id, "sampler_weights", name)
    if body.path then return { type = "save_weights_for_sampler", path = path, sampling_session_id = json.null } end
    local id = ("sampling_%08x"):format(next_id())
    state.samplers[id] = { path = path }
    return { type = "save_weights_for_sampler", path = json.null, sampling_session_id = id }
  end)
end

function posts.load_weights(request, body)
  if options.load_first_only and body.seq_id ~= 1 then
    return detail(400, "LoadWeights is not permitted with seq_id %d", body.seq_id)
  end
  return submit(request, body, "load_weights", function()
    engine:load(body.model_id, body.path, body.optimizer)
    return { type = "load_weights" }
  end)
end

function posts.weights_info(_, body)
  local ok, _, record = pcall(engine.find, engine, body.tinker_path)
  if not ok then return detail(404, "Checkpoint not found") end
  return answer(200, { base_model = options.base_model, is_lora = true, lora_rank = record.info.rank })
end

function posts.create_sampling_session(_, body)
  if (body.model_path == nil) == (body.base_model == nil) then return detail(400, "exactly one source is needed") end
  local id = ("sampling_%08x"):format(next_id())
  state.samplers[id] = { path = body.model_path }
  return answer(options.created or 200, { type = "create_sampling_session", sampling_session_id = id })
end

function posts.asample(_, body)
  local sampler = body.sampling_session_id and state.samplers[body.sampling_session_id]
  if body.sampling_session_id and not sampler then return detail(404, "Sampling session not found") end
  local path = sampler and sampler.path or body.model_path
  local future = new_future "sample"
  enqueue { future = future, seconds = options.sample_seconds, run = function() return engine:sample(path, body) end }
  return future_answer(future)
end

function posts.unload_model(request, body)
  local id = body.model_id or request.query:match "model_id=([^&]*)"
  if options.unload == "query" and not request.query:find "model_id=" then return detail(422, "model_id is missing") end
  if not state.models[id] then return detail(404, "Model %s not found", tostring(id)) end
  local function unload()
    engine:unload_model(id)
    state.models[id] = nil
    return { type = "unload_model", model_id = id, status = "unloaded" }
  end
  if options.unload == "query" then return answer(200, unload()) end
  local future = new_future "unload_model"
  enqueue { future = future, run = unload }
  return future_answer(future, { model_id = id })
end

local function wants_protobuf(request)
  return options.protobuf and (request.headers.accept or ""):find("x-protobuf", 1, true)
end

local function done_answer(request, future)
  if future.failure then
    if options.failed_in_200 then
      return answer(200, { type = "request_failed", error = future.failure, category = "user_error" })
    end
    return detail(future.status or 400, "%s", future.failure)
  end
  local result = future.result
  if result.logprobs then
    if wants_protobuf(request) then return protobuf(proto.write_output("ToyLoss", result.logprobs, result.metrics)) end
    return answer(200, pass_answer(result))
  end
  if future.kind == "sample" and wants_protobuf(request) then return protobuf(proto.write_samples(result)) end
  return answer(200, result)
end

function posts.retrieve_future(request, body)
  state.polls = state.polls + 1
  local future = state.futures[body.request_id]
  if not future then return detail(404, "Future not found") end
  if future.expired then return detail(410, "Promise expired") end
  if not future.done then future.event:wait(options.poll_seconds) end
  if future.done then return done_answer(request, future) end
  if options.silent_poll then return detail(options.silent_poll, "Timeout waiting for result") end
  return answer(200, { type = "try_again", request_id = future.id, queue_state = "active" })
end

-- ---- what is asked by GET -------------------------------------------------------------------------------------

local function checkpoint_list(id)
  local list = {}
  for i, one in ipairs(engine:checkpoints(id)) do
    list[i] = { checkpoint_id = options.kind == "skyrl" and one.name or one.kind .. "/" .. one.name,
      checkpoint_type = one.kind == "sampler_weights" and "sampler" or "training", time = "2026-01-01T00:00:00Z",
      tinker_path = tinker_path(id, one.kind, one.name) }
  end
  return json.array(list)
end

local function run_list()
  local list = {}
  for i, id in ipairs(engine:saved_models()) do list[i] = { training_run_id = id, base_model = options.base_model } end
  return answer(200, { training_runs = json.array(list), cursor = { limit = 20, offset = 0, total_count = #list } })
end

local function checkpoint_file(request, id, name, last)
  if last == "archive" then
    return 302, { Location = request.path:gsub("archive$", "download") }, ""
  end
  local ok, bytes = pcall(engine.archive, engine, ("tinker://%s/%s"):format(id, name))
  if not ok then return detail(404, "Checkpoint not found") end
  return 200, { ["Content-Type"] = "application/gzip" }, bytes
end

local function get_runs(request, rest)
  if options.kind == "hatchery" then return detail(404, "Not Found") end
  if rest == "" then return run_list() end
  local id, name, last = rest:match "^/([^/]+)/checkpoints/(.+)/(%a+)$"
  if id and options.archive then return checkpoint_file(request, id, name, last) end
  id = rest:match "^/([^/]+)/checkpoints$"
  if id then return answer(200, { checkpoints = checkpoint_list(id) }) end
  id = rest:match "^/([^/]+)$"
  return answer(200, { training_run_id = id, base_model = options.base_model })
end

local function capabilities()
  local model = options.kind == "hatchery" and { model_id = "another-model", tokenizer_id = "another-model" }
    or { model_name = options.base_model }
  if options.kind == "tuft" then
    model.max_context_length, model.capabilities = 512, { "training", "sampling" }
  end
  local value = { supported_models = { model } }
  if options.loss_names then
    value.supported_loss_fns, value.max_rank = { "cross_entropy", "importance_sampling" }, 256
  end
  return answer(200, value)
end

local function get(request, path)
  if path == "healthz" then return answer(200, { status = "ok" }) end
  if path == "get_server_capabilities" then return capabilities() end
  local rest = path:match "^training_runs(.*)$"
  if rest then return get_runs(request, rest) end
  return detail(404, "Not Found")
end

-- ---- what specs ask ------------------------------------------------------------------------------------------

local inner = {}

function inner.log() return 200, {}, table.concat(state.requests, "\n") end

function inner.history(request)
  local model = state.models[request.query]
  local ok, history = pcall(engine.history, engine, model and model.id or "")
  return answer(ok and 200 or 404, json.array(ok and history or {}))
end

function inner.stats()
  local models = {}
  for id in pairs(state.models) do models[#models + 1] = id end
  return answer(200, { busy = state.busy, span = state.first and state.finished - state.first or 0, ops = state.ops,
    polls = state.polls, requests = #state.requests, models = json.array(models), applied = engine.applied })
end

function inner.reset()
  state.busy, state.ops, state.first, state.polls, state.requests = 0, 0, nil, 0, {}
  return answer(200, {})
end

function inner.control(request)
  local order = json.decode(request.body)
  if order.kill_model then state.models[order.kill_model].killed = true end
  if order.expire then state.futures[order.expire].expired = true end
  if order.options then
    for name, value in pairs(order.options) do options[name] = value end
  end
  return answer(200, {})
end

-- ---- serving --------------------------------------------------------------------------------------------------

local function refuse_key(request)
  local key = request.headers["x-api-key"]
    or (options.kind == "hatchery" and (request.headers.authorization or ""):match "^Bearer (.*)$")
  if not options.key or key == options.key then return nil end
  if options.kind == "hatchery" then
    return { detail(401, key and "Invalid or expired token" or "Missing auth credentials") }
  end
  return { detail(key and 403 or 401, key and "Invalid API key" or "Missing API key") }
end

-- The body as a table; or nil and an answer.
local function read_body(request, path)
  local content = request.headers["content-type"] or ""
  if path == "forward_backward" then
    request.protobuf = content:find("application/x-protobuf", 1, true) ~= nil
    if request.protobuf and not options.protobuf then
      return nil, { options.bad_protobuf or 500, {}, "Internal Server Error" }
    end
    if not request.protobuf and not options.json then
      return nil, { detail(415, "Content-Type must be application/x-protobuf") }
    end
  end
  if request.protobuf then
    local ok, body, forward_only = pcall(proto.read_request, request.body)
    if not ok then return nil, { detail(422, "%s", tostring(body)) } end
    request.forward_only = forward_only
    return body
  end
  local body = request.body == "" and {} or json.decode(request.body)
  if type(body) ~= "table" then return nil, { detail(422, "the body is no JSON object") } end
  return body
end

local function post(request, path)
  local serve = posts[path]
  if not serve then return detail(404, "Not Found") end
  local body, refusal = read_body(request, path)
  if not body then return table.unpack(refusal) end
  local problem = not request.protobuf and forbidden(path, body)
  if problem then return answer(422, { detail = problem }) end
  return serve(request, body)
end

local function serve(request, path)
  local open = path == "healthz" or path == "get_server_capabilities"
  local refusal = not open and refuse_key(request)
  if refusal then return table.unpack(refusal) end
  if request.method == "GET" then return get(request, path) end
  if request.method == "DELETE" then return answer(200, {}) end
  return post(request, path)
end

local function handle(request)
  state.last = loop.now()
  local ours = request.path:match "^/(%a+)$"
  if ours == "quit" then
    loop.stop()
    return 200, {}, ""
  end
  if inner[ours] then return inner[ours](request) end
  local path = request.path:match "^/api/v1/(.*)$"
  if not path then return detail(404, "Not Found") end
  state.requests[#state.requests + 1] = request.method .. " " .. path
  if options.latency > 0 then loop.sleep(options.latency / 2) end
  local status, headers, body = serve(request, path)
  if options.latency > 0 then loop.sleep(options.latency / 2) end
  return status, headers, body
end

local function guarded(request)
  local ok, status, headers, body = xpcall(handle, debug.traceback, request)
  if ok then return status, headers, body end
  io.stderr:write("tinker_server: ", status, "\n")
  return 500, { ["Content-Type"] = "text/plain" }, "Internal Server Error"
end

io.stdout:write(http.serve(options.port, guarded), "\n")
io.stdout:flush()
if options.idle_seconds > 0 then -- whoever started it is gone
  loop.spawn(function()
    while loop.now() - state.last < options.idle_seconds do loop.sleep(1) end
    loop.stop()
  end)
end
loop.run()
