-- A session on a server of the Tinker API: one model there, with its lora, gradients and moments, behind
-- lora.adapter's contract.
local checkpoints = require "crucible.lora.checkpoints"
local config = require "crucible.lora.config"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local export = require "crucible.adapters.tinker.export"
local fs = require "crucible.fs"
local future = require "crucible.adapters.tinker.future"
local json = require "crucible.json"
local losses = require "crucible.adapters.local.losses"
local loss_functions = require "crucible.lora.loss_functions"
local passes = require "crucible.adapters.tinker.passes"
local paths = require "crucible.paths"
local peft = require "crucible.lora.peft"
local predictions = require "crucible.lora.predictions"
local prompt_lists = require "crucible.lora.prompts"
local reduction = require "crucible.adapters.tinker.reduction"
local rows = require "crucible.adapters.tinker.rows"
local sampling = require "crucible.adapters.tinker.sampling"
local schema = require "crucible.schema"
local wire = require "crucible.adapters.tinker.wire"

---@class crucible.RemoteSession
---@field experiment_id string
---@field config crucible.lora.Config
---@field adapter_name string
---@field engine string        "tinker"
---@field training_client crucible.tinker.Client
---@field sampling_client crucible.tinker.Client
---@field started_at string    UTC
---@field seed integer
---@field tokenizer crucible.Tokenizer
---@field context integer
---@field run_dir string
---@field remote_model string  the base model's name on the server
---@field profile crucible.tinker.Profile
---@field incidents string[]   what went wrong on the way and was mended
local Session = { __name = "crucible.session" }
Session.__index = Session

local session = {}

--- A session over a model that was created on the server.
---@param fields table  of adapters/tinker.lua
---@return crucible.RemoteSession
function session.new(fields)
  local self = setmetatable(fields, Session)
  self.engine, self.started_at, self.closed, self.cancel_wanted = "tinker", experiment.now(), false, false
  self.training_client, self.sampling_client = self.client, self.client
  self.run_dir = paths.join(self.runs, self.experiment_id)
  self.steps, self.version, self.terms_seen = 0, 0, {}
  self.step_state, self.step_operations, self.known_rows = {}, {}, setmetatable({}, { __mode = "k" })
  self.micro_batch_tokens = math.maxinteger -- a pass is cut by the server, and by chunks
  self.core = passes.facade(self)
  self.client.stopping = function() return self:stop_asked() end
  return self
end

local function check_open(self)
  if self.closed then errors.raise("%s is closed", tostring(self)) end
end

-- A signal watcher that is to cancel this session's calls, or a call of cancel(), which ends one wait.
function Session:stop_asked()
  local asked = self.wait_cancelled
  self.wait_cancelled = false
  return asked or self.watcher ~= nil and self.watcher:pending() ~= nil
end

--- Signals cancel what this session waits for while a watcher is set: crucible.signals calls it.
---@param watcher table?
function Session:heed_signals(watcher) self.watcher = watcher end

--- Before the first gradients: saves the state of the beginning, which a recovery goes back to.
function Session:prepare_base()
  if self.based or self.lane.base then return end
  self.based = true
  self.lane:add_own_save()
end

-- ---- training ------------------------------------------------------------------------------

local forward_options = schema.new("session:forward", {
  { name = "outputs", check = schema.list(schema.one_of(predictions.outputs), { nonempty = true }),
    doc = "what to return, as tensors; servers give logprobs alone" },
  { name = "request", check = schema.callable, doc = "of other outputs" },
  { name = "comparisons", check = schema.table, doc = "of other outputs" },
  { name = "positions", check = schema.one_of { "supervised", "all" },
    doc = 'with outputs: "all" = log-probabilities where the weight is 0 as well' },
  { name = "base", default = false, check = schema.boolean, doc = "leave the lora out" },
  { name = "async", default = false, check = schema.boolean, doc = "return a future" },
})

-- Log-probabilities by datum, under the lora or, by a sampler of the base, without it.
local function logprobs_of(self, ids, batch, base)
  if base then return sampling.base_logprobs(self, ids) end
  return passes.forward(self, rows.plain(ids, batch))
end

-- The result now, or its future.
local function now_or_later(pending, async)
  if async then return pending end
  return pending:wait()
end

--- What the model predicts, as the local session's forward: log-probabilities of the targets, a list for each datum,
--- NaN where the weight is 0. With async a future of that.
---@param batch crucible.core.Datum[]
---@param options { outputs: string[]?, positions: string?, base: boolean?, async: boolean? }?
---@return table? result, string? message, string? code
function Session:forward(batch, options)
  local given = forward_options:resolve(options)
  check_open(self)
  if given.outputs then return passes.outputs(self, batch, given) end
  local ids, message, code = rows.read("session:forward", self, batch)
  if not ids then return nil, message, code end
  local pending = future.all({ logprobs_of(self, ids, batch, given.base) }, function(values)
    return { logprobs = passes.masked(batch, values[1]) }
  end)
  return now_or_later(pending, given.async)
end

local backward_options = schema.new("session:forward_backward", {
  { name = "counts", check = schema.table,
    doc = "units of each loss over the whole optimiser step; default: this call's" },
  { name = "logprobs", default = false, check = schema.boolean, doc = "also return the targets' log-probabilities" },
  { name = "term_gradients", default = false, check = schema.boolean, doc = "servers do not give them" },
  { name = "async", default = false, check = schema.boolean, doc = "return a future" },
})

-- The future of a pass with gradients.
local function begin_pass(self, batch, loss_fn, given)
  local loss = (self.loss_functions or loss_functions).resolve(loss_fn or "cross_entropy")
  if given.term_gradients then
    errors.raise('session:forward_backward: servers give no term_gradients; take them with adapter = "local"')
  end
  return passes.forward_backward(self, batch, loss, given)
end

--- A loss and its gradients, which add up on the server until optim_step: as the local session's. With async a future.
---@param batch crucible.core.Datum[]
---@param loss_fn string|crucible.lora.Loss|nil  "cross_entropy" if nil
---@param options { counts: table<string, number>?, logprobs: boolean?, async: boolean? }?
---@return crucible.lora.LossResult|crucible.tinker.Future|nil result, string? message, string? code
function Session:forward_backward(batch, loss_fn, options)
  local given = backward_options:resolve(options)
  check_open(self)
  local pending, message, code = begin_pass(self, batch, loss_fn, given)
  if not pending then return nil, message, code end
  if given.async then return pending end
  local result
  result, message, code = pending:wait()
  if code == "cancelled" then self:zero_gradients() end -- as after a failure of the engine
  return result, message, code
end

local LEAST_RATE = 1e-30 -- some servers refuse 0

local function optim_body(params)
  return {
    learning_rate = math.max(params.lr, LEAST_RATE), beta1 = params.beta1, beta2 = params.beta2, eps = params.eps,
    weight_decay = params.weight_decay or 0, grad_clip_norm = params.max_grad_norm or 0,
  }
end

-- The norm of the gradient under whatever name the server has for it; NaN where it tells none.
local function norm_in(metrics)
  for name, value in pairs(metrics) do
    if name:gsub("^.*/", ""):gsub(":%w+$", "") == "grad_norm" then return value end
  end
  return 0 / 0
end

local function read_update(value) return { metrics = wire.metrics_of(value.metrics) } end

-- Some servers tell the norm of the gradient with the pass.
local function norm_of(update, operations)
  local norm = norm_in(update.metrics)
  local last = operations[#operations]
  if norm ~= norm and last and last.future.state == "done" then norm = norm_in(last.future.value.metrics) end
  return norm
end

-- The update, submitted: its future and the step's operations.
local function begin_update(self, params, unconfirmed)
  losses.end_step(self)
  reduction.check_step(self.profile.reduction, self.step_state)
  if (params.max_grad_norm or 0) > 0 and not self.profile.clips and self.options.differences == "refuse" then
    errors.raise("session:optim_step: %s never clips: give max_grad_norm = 0", self.client.url)
  end
  local operations, adam = self.step_operations, optim_body(params)
  local op = {
    kind = "optim_step", alters = true, read = read_update, unconfirmed = unconfirmed,
    body = function(model_id, seq_id)
      return json.encode { model_id = model_id, seq_id = seq_id, type = "optim_step", adam_params = adam }, nil,
        "optim_step"
    end,
  }
  self.step_state, self.step_operations = {}, {}
  self.steps, self.version = self.steps + 1, self.version + 1
  self.lane:add(op)
  local step = self.steps
  local pending = future.all({ op.future }, function(values)
    return { grad_norm = norm_of(values[1], operations), update_norm = 0 / 0, skipped = false, step = step }
  end)
  operations[#operations + 1] = op
  return pending, operations
end

local optim_options = schema.new("session:optim_step", {
  { name = "async", default = false, check = schema.boolean, doc = "return a future" },
})

--- Clips (where the server does) and updates. grad_norm is NaN where the server tells none; update_norm always is.
---@param adam_params table?  of lora.config.adam_params; default: the session's config
---@param options { async: boolean? }?
---@return crucible.lora.StepResult? result, string? message, string? code
function Session:optim_step(adam_params, options)
  local given = optim_options:resolve(options)
  check_open(self)
  local pending, operations = begin_update(self, adam_params or config.adam_params(self.config))
  if given.async then return pending end
  local result, message, code = pending:wait()
  if code == "cancelled" then -- whatever has become of it, it was not done
    self.steps = self.steps - 1
    self.lane:undo(operations, "an update was cancelled")
  end
  return result, message, code
end

--- Drops the gradients added so far.
function Session:zero_gradients()
  check_open(self)
  self.lane:drop_gradients()
  self.step_state, self.step_operations = {}, {}
  losses.drop_step(self)
end

-- ---- whole steps under way -----------------------------------------------------------------

local function is_finite(value) return value == value and value ~= math.huge and value ~= -math.huge end

-- A step of a loss that is not finite has spoilt the weights by the time that is known: it is undone.
local function undo_step(self, operations)
  self.steps = self.steps - 1
  self.lane:undo(operations, "a step's loss is not finite")
  return { grad_norm = 0 / 0, update_norm = 0, skipped = true, step = self.steps }
end

--- Steps that training_loop may have under way at once.
---@return integer
function Session:steps_at_once() return self.options.pipeline end

--- A whole step, submitted and not waited for: the future of { results, update }. A step whose loss is not finite is
--- undone: update.skipped.
---@param batches crucible.core.Datum[][]
---@param loss_fn string|crucible.lora.Loss
---@param options { counts: table<string, number>?, params: table }
---@return crucible.tinker.Future? future, string? message, string? code
function Session:begin_step(batches, loss_fn, options)
  check_open(self)
  local pending = {}
  for i, batch in ipairs(batches) do
    local one, message, code = begin_pass(self, batch, loss_fn, { counts = options.counts })
    if not one then
      self:zero_gradients()
      return nil, message, code
    end
    pending[i] = one
  end
  local update, operations = begin_update(self, options.params, true)
  pending[#pending + 1] = update
  local ticket = future.all(pending, function(values)
    local updated, total = table.remove(values), 0
    for _, result in ipairs(values) do total = total + result.loss end
    if is_finite(total) then
      self.lane:confirm(operations[#operations])
    else
      updated = undo_step(self, operations)
    end
    return { results = values, update = updated }
  end)
  ticket.operations = operations
  return ticket
end

--- Undoes steps that were begun, the last ones, whatever has become of them.
---@param tickets crucible.tinker.Future[]
function Session:drop_steps(tickets)
  local operations = {}
  for _, ticket in ipairs(tickets) do
    table.move(ticket.operations, 1, #ticket.operations, #operations + 1, operations)
  end
  self.steps, self.version = self.steps - #tickets, self.version + 1
  self.lane:undo(operations, "steps under way are not wanted any more")
end

--- Raises, with the reason and what to do instead, for a loss that this session's server cannot train with, or not
--- on these datums: called before step 1.
---@param loss crucible.lora.Loss
---@param datums crucible.core.Datum[]
function Session:check_loss(loss, datums)
  passes.check(self, loss, "training_loop.run")
  if self.profile.reduction ~= "sequence_mean" or loss.options and loss.options.reduction == "sequence_mean" then
    return
  end
  local count
  for _, datum in ipairs(datums) do
    local units = loss.count(datum)
    count = count or units
    if units > 0 and units ~= count then errors.raise("training_loop.run: %s", reduction.reason_uneven) end
  end
end

local function no_gradients(name)
  return function(self)
    check_open(self)
    errors.raise('session:%s: servers of the Tinker API give no gradients; take them with adapter = "local"', name)
  end
end

Session.gradients = no_gradients "gradients"

-- ---- sampling ------------------------------------------------------------------------------

-- Rows of prompt and choice, with weight on the choice alone.
local function choice_batch(ids, continuations)
  local batch = {}
  for i, prompt in ipairs(ids) do
    for _, choice in ipairs(continuations[i]) do
      local tokens, weights = table.move(prompt, 1, #prompt, 1, {}), {}
      table.move(choice, 1, #choice, #tokens + 1, tokens)
      for t = 1, #tokens - 1 do weights[t] = t >= #prompt and 1 or 0 end
      batch[#batch + 1] = { tokens = tokens, weights = weights }
    end
  end
  return batch
end

local function score_ids(self, ids, continuations, base)
  local batch = choice_batch(ids, continuations)
  if #batch == 0 then return {} end
  local found, message, code = self:forward(batch, { base = base })
  if not found then return nil, message, code end
  local scores, place = {}, 0
  for i, choices in ipairs(continuations) do
    scores[i] = {}
    for c in ipairs(choices) do
      place = place + 1
      local sum = 0
      for t, logprob in ipairs(found.logprobs[place]) do
        if batch[place].weights[t] ~= 0 then sum = sum + logprob end
      end
      scores[i][c] = sum
    end
  end
  return scores
end

--- A completion for each prompt, as the local session's sample: prompts all under way at once, in a window. on_token
--- hears a row's tokens when the whole row has come.
---@param prompts string|(string|integer[])[]
---@param params table?
---@param on_token (fun(event: crucible.lora.TokenEvent): boolean?)?
---@param choices string[]|integer[][]|string[][]?
---@return crucible.lora.Completion[]? completions, string? message, string? code
function Session:sample(prompts, params, on_token, choices)
  check_open(self)
  prompts = prompt_lists.list("session:sample", prompts)
  prompt_lists.check_listener("session:sample", on_token)
  local ids, given = prompt_lists.ids(self.tokenizer, prompts), experiment.sampling_params(params)
  local continuations = choices and prompt_lists.choices(self.tokenizer, "session:sample", prompts, choices)
  if #ids == 0 then return {} end
  local completions, message, code = sampling.sample(self, ids, given, on_token)
  if not completions or not continuations then return completions, message, code end
  local scores
  scores, message, code = score_ids(self, ids, continuations, given.base)
  if not scores then return nil, message, code end
  for i, completion in ipairs(completions) do completion.scores = scores[i] end
  return completions
end

local score_options = schema.new("session:score", {
  { name = "base", default = false, check = schema.boolean, doc = "leave the lora out" },
})

--- Log-probability of each choice after each prompt, as the local session's score.
---@param prompts (string|integer[])[]
---@param choices string[]|integer[][]|string[][]
---@param options { base: boolean? }?
---@return number[][]? scores, string? message, string? code
function Session:score(prompts, choices, options)
  local given = score_options:resolve(options)
  check_open(self)
  if #prompts == 0 then return {} end
  local continuations = prompt_lists.choices(self.tokenizer, "session:score", prompts, choices)
  return score_ids(self, prompt_lists.ids(self.tokenizer, prompts), continuations, given.base)
end

-- ---- states and files ------------------------------------------------------------------------

local function checkpoint_folder(self) return paths.join(self.run_dir, "checkpoints") end

local function state_of(self, path, loop)
  return {
    engine = self.engine, experiment_id = self.experiment_id, adapter_name = self.adapter_name, seed = self.seed,
    step = self.steps, config = config.plain(self.config), loop = loop,
    base_model = { name = self.remote_model, tokenizer = self.tokenizer:digest() },
    remote = { state = path, server = self.client.url },
  }
end

local save_options = schema.new("session:save_checkpoint", {
  { name = "folder", check = schema.nonempty_string, doc = "where to put it; default: <run_dir>/checkpoints" },
  { name = "loop", check = schema.table, doc = "where a training loop stands, kept in trainer_state.json" },
})

--- Saves weights and moments on the server, and here a folder that knows under which name.
---@param name string
---@param options { folder: string?, loop: table? }?
---@return crucible.lora.Checkpoint? checkpoint, string? message, string? code
function Session:save_checkpoint(name, options)
  local given = save_options:resolve(options)
  check_open(self)
  checkpoints.check_name("session:save_checkpoint", name)
  local path, message, code = self.lane:add(self.lane:save_operation(name)):wait()
  if not path then return nil, message, code end
  local state = state_of(self, path, given.loop)
  local place
  place, message, code = checkpoints.write(given.folder or checkpoint_folder(self), name, state, function(folder)
    return fs.write_file(paths.join(folder, peft.config_file), peft.config_bytes(self.config, self.remote_model))
  end)
  if not place then return nil, message, code end
  return checkpoints.summary(name, place, state)
end

-- The state that a checkpoint's folder names, when it fits this session.
local function remote_state(self, path)
  local state, message, code = checkpoints.read(path)
  if not state then return nil, message, code end
  local ok
  ok, message, code = checkpoints.verify(path, state)
  if not ok then return nil, message, code end
  if not (state.remote and state.remote.state) then
    return errors.failure("unsupported", "%s was saved by the %s engine; the Tinker API takes no weights from here: "
      .. 'go on with adapter = "local"', path, tostring(state.engine))
  end
  if state.base_model.name ~= self.remote_model then
    return errors.failure("format", "%s was made on another base model (%s), this session runs on %s", path,
      state.base_model.name, self.remote_model)
  end
  if state.config.lora_rank ~= self.config.lora_rank then
    return errors.failure("format", "%s does not fit this session: r is %d, expected %d", path,
      state.config.lora_rank, self.config.lora_rank)
  end
  return state
end

local load_options = schema.new("session:load_checkpoint", {
  { name = "weights_only", default = false, check = schema.boolean, doc = "the optimiser starts anew" },
})

--- Takes over a checkpoint, by name (of this session's run) or path; returns its state. The server must still have
--- what the checkpoint names.
---@param name_or_path string
---@param options { weights_only: boolean? }?
---@return table? state, string? message, string? code
function Session:load_checkpoint(name_or_path, options)
  local given = load_options:resolve(options)
  check_open(self)
  local path = checkpoints.locate(checkpoint_folder(self), name_or_path)
  local state, message, code = remote_state(self, path)
  if not state then return nil, message, code end
  local ok
  ok, message, code = self.lane:restore(state.remote.state, not given.weights_only):wait()
  if not ok then return nil, ("%s: %s"):format(path, message), code end
  self.version, self.step_state, self.step_operations = self.version + 1, {}, {}
  losses.drop_step(self)
  if not given.weights_only then self.steps = state.step end
  return given.weights_only and {} or state
end

--- Another session with a checkpoint's weights, for evaluation beside this one: a second model on the server. To be
--- closed by the caller.
---@param name_or_path string
---@return crucible.RemoteSession? session, string? message, string? code
function Session:open_checkpoint(name_or_path)
  check_open(self)
  local path = checkpoints.locate(checkpoint_folder(self), name_or_path)
  local state, message, code = remote_state(self, path)
  if not state then return nil, message, code end
  local other
  other, message, code = self.again(self)
  if not other then return nil, message, code end
  other.run_dir = self.run_dir
  state, message, code = other:load_checkpoint(path)
  if state then return other end
  other:close()
  return nil, message, code
end

--- The complete checkpoints of this session's run, by step.
---@return crucible.lora.Checkpoint[]? list, string? message, string? code
function Session:checkpoints() return checkpoints.list(checkpoint_folder(self)) end

--- What the server lists as saved of this model: { name, kind, path, time } each. Fails with "not_found" where it
--- keeps no list.
---@return table[]? states, string? message, string? code
function Session:remote_states()
  check_open(self)
  local found, message, code = self.client:get(("training_runs/%s/checkpoints"):format(self.lane.model_id)):wait()
  if not found then return nil, message, code end
  local list = {}
  for i, one in ipairs(type(found.checkpoints) == "table" and found.checkpoints or {}) do
    list[i] = { name = one.checkpoint_id, kind = one.checkpoint_type, path = one.tinker_path, time = one.time }
  end
  return list
end

local export_options = schema.new("session:export", {
  { name = "format", default = "peft", check = schema.one_of { "peft" },
    doc = "peft: a folder with adapter_model.safetensors and adapter_config.json" },
})

--- Downloads the lora into a folder, as PEFT and the local engine read it.
---@param path string
---@param options { format: "peft"? }?
---@return string? path, string? message, string? code
function Session:export(path, options)
  export_options:resolve(options)
  check_open(self)
  return export.download(self, path)
end

--- In what the lora on the server differs from that of a local PEFT folder: the largest difference of a value, that
--- relative to the largest value, and both by matrix.
---@param path string
---@return { largest: number, relative: number, matrices: table[] }? difference, string? message, string? code
function Session:compare(path)
  check_open(self)
  return export.compare(self, path)
end

-- ---- what it is ------------------------------------------------------------------------------

--- What runs this session: the base model as the server calls it, and what was assumed of the server.
---@return table? description, string? message, string? code
function Session:describe()
  local found = self.profile
  local model = { name = self.remote_model, hub = self.remote_model, context = self.context }
  for _, field in ipairs { "family", "layers", "width", "parameters" } do model[field] = self.model_info[field] end
  local differences = json.array {}
  for i, one in ipairs(self.differences) do
    differences[i] = ("%s: the config says %s, the server has %s"):format(one.field, tostring(one.config),
      tostring(one.server))
  end
  return {
    engine = self.engine, model = model,
    remote = {
      url = self.client.url, server = found.name, reduction = found.reduction, repeats = found.repeats,
      basis = found.told and "as told" or found.assumed and "assumed" or "by what the server lists and answers",
      dialect = self.client.dialect, alpha = found.alpha(self.config.lora_rank), model_id = self.lane.model_id,
      session_id = self.client.session_id, differences = differences, incidents = #self.incidents,
    },
  }
end

--- Ends what this session waits for, which then returns nil, message, "cancelled".
function Session:cancel() self.cancel_wanted, self.wait_cancelled = true, true end

--- Whether cancel() was called since this was last asked.
---@return boolean
function Session:cancelled()
  local wanted = self.cancel_wanted
  self.cancel_wanted = false
  return wanted
end

local LONGEST_FAREWELL = 10 -- seconds

--- Unloads the model on the server and ends the session. Safe to call twice.
function Session:close()
  if self.closed then return end
  self.closed = true
  self.client.stopping = nil
  if not self.client.closed and not self.client.down then
    if self.lane.left then self.unload(self.lane.left) end
    local pending = self.unload(self.lane.model_id)
    self.client:turn_until(function() return pending.state ~= "pending" end, fs.clock() + LONGEST_FAREWELL)
  end
  self.client:close()
  if self.owned_model then self.owned_model:close() end
end

-- Collection is no time for the network: what the server holds it unloads itself once the heartbeat stops.
function Session:__gc()
  if self.closed then return end
  self.closed = true
  self.client:close()
  if self.owned_model then self.owned_model:close() end
end

Session.__close = Session.close

function Session:__tostring()
  return ("crucible.session(%s on %s at %s, rank %d, %s%s)"):format(self.adapter_name, self.remote_model,
    self.client.url, self.config.lora_rank, self.experiment_id, self.closed and ", closed" or "")
end

return session
