-- A session of the local engine: one base model, one lora, its optimiser state and its random
-- numbers, over crucible.core.
local checkpoints = require "crucible.lora.checkpoints"
local errors = require "crucible.errors"
local export = require "crucible.lora.export"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local generation = require "crucible.adapters.local.generation"
local gradient_check = require "crucible.adapters.local.gradient_check"
local gradients = require "crucible.adapters.local.gradients"
local config = require "crucible.lora.config"
local losses = require "crucible.adapters.local.losses"
local loss_functions = require "crucible.lora.loss_functions"
local paths = require "crucible.paths"
local patterns = require "crucible.lora.patterns"
local peft = require "crucible.lora.peft"
local predictions = require "crucible.lora.predictions"
local prompt_lists = require "crucible.lora.prompts"
local schema = require "crucible.schema"

---@class crucible.Session
---@field experiment_id string
---@field config crucible.lora.Config
---@field adapter_name string  name of the lora
---@field engine string        "local"
---@field training_client crucible.core.Session
---@field sampling_client crucible.core.Session
---@field started_at string    UTC
---@field seed integer
---@field tokenizer crucible.Tokenizer
---@field context integer      longest row in tokens
---@field run_dir string
---@field model crucible.Model
local Session = { __name = "crucible.session" }
Session.__index = Session

for name, method in pairs(gradients.methods) do Session[name] = method end

local session = {}

--- The sessions of this Lua state that are open: what a signal may cancel.
--- `session.on_open`, where it is set, hears of each as it opens.
---@type table<crucible.Session, true>
session.open = setmetatable({}, { __mode = "k" })

local function handle(self)
  if self.closed then errors.raise("%s is closed", tostring(self)) end
  return self.core
end

local function core_config(given)
  local c = given.config
  return {
    rank = c.lora_rank, alpha = c.lora_alpha, dropout = c.lora_dropout, targets = c.target_modules, rslora = c.rslora,
    seed = given.seed, threads = c.threads, micro_batch_tokens = c.micro_batch_tokens,
    recompute = c.recompute == "layer", dora = c.dora, rank_pattern = patterns.list(c.rank_pattern),
    alpha_pattern = patterns.list(c.alpha_pattern),
  }
end

-- Patterns can be judged only when the modules are known.
local function refuse_ambiguous(core, given)
  for _, name in ipairs { "rank_pattern", "alpha_pattern" } do
    local message = patterns.ambiguity(given.config[name], core:modules())
    if message then
      core:close()
      errors.raise("lora.create_session: %s: %s", name, message)
    end
  end
end

--- A session on an open model. `given` is what lora.create_session has checked.
---@param model crucible.Model
---@param given table
---@return crucible.Session? session, string? message, string? code
function session.new(model, given)
  local core, message, code = model:handle():session(core_config(given))
  if not core then return nil, message, code end
  refuse_ambiguous(core, given)
  local id = given.experiment_id or experiment.generate_id()
  local made = setmetatable({
    experiment_id = id, config = given.config, adapter_name = given.adapter_name, engine = "local", core = core,
    training_client = core, sampling_client = core, started_at = experiment.now(), seed = given.seed, model = model,
    tokenizer = model.tokenizer, context = model.info.context, run_dir = paths.join(given.runs, id), runs = given.runs,
    loss_functions = given.loss_functions, gradient_age = 0, closed = false, cancel_wanted = false, terms_seen = {},
    micro_batch_tokens = given.config.micro_batch_tokens,
  }, Session)
  session.open[made] = true
  local opened = session.on_open
  if opened then opened(made) end
  return made
end

-- ---- training ------------------------------------------------------------------------------

local forward_options = schema.new("session:forward", {
  { name = "outputs", check = schema.list(schema.one_of(predictions.outputs), { nonempty = true }),
    doc = "what to return, as tensors; default: log-probabilities of the targets, as lists" },
  { name = "request", check = schema.callable,
    doc = "(datum) → { candidates, spans } for the outputs candidates and hidden" },
  { name = "comparisons", check = schema.table,
    doc = "{ { kind, temperature, teacher }, … } for the output comparisons" },
  { name = "positions", check = schema.one_of { "supervised", "all" },
    doc = 'with outputs: "all" = log-probabilities and entropy where the weight is 0 as well' },
  { name = "base", default = false, check = schema.boolean, doc = "without outputs: leave the lora out" },
})

--- What the model predicts: no gradient, dropout off. Without `outputs`, log-probabilities of the
--- targets: a list for each datum, NaN where the weight is 0. With `outputs`, what a loss that names these
--- would see (lora/predictions.lua), as constants that stay: result.hidden[i] and so on.
---@param batch crucible.core.Datum[]
---@param options { outputs: string[]?, request: function?, positions: string?, base: boolean? }?
---@return table? result, string? message, string? code
function Session:forward(batch, options)
  local given = forward_options:resolve(options)
  local core = handle(self)
  if given.outputs then return losses.forward(self, batch, given) end
  local logprobs, message, code = core:forward(batch, { base = given.base })
  if not logprobs then return nil, message, code end
  return { logprobs = logprobs }
end

local backward_options = schema.new("session:forward_backward", {
  { name = "counts", check = schema.table,
    doc = "units of each loss over the whole optimiser step; default: this call's" },
  { name = "logprobs", default = false, check = schema.boolean, doc = "also return the targets' log-probabilities" },
  { name = "term_gradients", default = false, check = schema.boolean,
    doc = "also return each term's gradient norm and its cosine to the first term; one more backward a term" },
})

---@class crucible.lora.LossResult
---@field loss number        Σ over terms of weight · sum / count
---@field sum number?        of the only term, over the units of this batch: for cross_entropy Σ weight · −log p
---@field components table<string, number>  by term, unweighted: sum / count; and "term.field" for what it reports
---@field weighted table<string, number>    by term: weight · component
---@field sums table<string, number>        by term
---@field tallies table<string, { sum: number, count: number }>  fields of "term.field" with counts of their own
---@field counts table<string, number>      units of this batch, by term
---@field supervised integer  targets of weight other than 0
---@field tokens integer      input positions
---@field logprobs number[][]?
---@field gradients table<string, { norm: number, cosine: number }>?  by term, of the step so far: norm of its
--- gradient on the lora, weighted and divided as it is added, and cosine to the first term's

---@class crucible.lora.StepResult
---@field grad_norm number    before clipping
---@field update_norm number
---@field skipped boolean     a gradient was not finite
---@field step integer        updates made so far

--- A loss and its gradients, which add up until optim_step. The loss is the sum over this batch
--- divided by `counts[name]`: the mean over a whole optimiser step when all its batches are given
--- that step's count.
---@param batch crucible.core.Datum[]
---@param loss_fn string|crucible.lora.Loss|nil  "cross_entropy" if nil
---@param options { counts: table<string, number>?, logprobs: boolean?, term_gradients: boolean? }?
---@return crucible.lora.LossResult? result, string? message, string? code
function Session:forward_backward(batch, loss_fn, options)
  local given = backward_options:resolve(options)
  local loss = (self.loss_functions or loss_functions).resolve(loss_fn or "cross_entropy")
  given.term_gradients = given.term_gradients or loss.term_gradients or false
  if not loss.fused or given.term_gradients then return self:custom_backward(batch, loss, given) end
  local counts = loss_functions.counts(loss, batch)
  local scale = 1 / losses.divisor(loss.name, given.counts or counts)
  local found, message, code = handle(self):forward_backward(batch, { scale = scale, logprobs = given.logprobs })
  gradients.changed(self)
  if not found then
    gradients.gone(self) -- the engine drops what was added before a failure
    return nil, message, code
  end
  return {
    loss = found.loss, sum = found.sum, components = { [loss.name] = found.loss },
    weighted = { [loss.name] = found.loss }, sums = { [loss.name] = found.sum }, tallies = {},
    counts = counts, supervised = found.supervised, tokens = found.tokens, logprobs = found.logprobs,
  }
end

function Session:custom_backward(batch, loss, given)
  handle(self)
  if given.logprobs then
    errors.raise("session:forward_backward: logprobs come with cross_entropy alone; others return them as a component")
  end
  gradients.changed(self)
  local ok, found, message, code = pcall(losses.forward_backward, self, batch, loss, given)
  if not ok or not found then gradients.gone(self) end
  if not ok then error(found, 0) end
  return found, message, code
end

--- Whether the gradient of a loss agrees with finite differences on a batch: adapters/local/gradient_check.lua.
---@param loss_fn string|crucible.lora.Loss
---@param batch crucible.core.Datum[]
---@param options table?
---@return table report
function Session:check_gradient(loss_fn, batch, options)
  handle(self)
  return gradient_check.run(self, (self.loss_functions or loss_functions).resolve(loss_fn), batch, options)
end

--- Clips, updates with AdamW and zeroes the gradients. A gradient that is not finite leaves the
--- weights as they are: skipped.
---@param adam_params table?  of lora.config.adam_params; default: the session's config
---@return crucible.lora.StepResult? result, string? message, string? code
function Session:optim_step(adam_params)
  handle(self)
  losses.end_step(self)
  local found, message, code = handle(self):optim_step(adam_params or config.adam_params(self.config))
  if not found then return nil, message, code end
  gradients.gone(self)
  return found
end

--- Drops the gradients added so far.
function Session:zero_gradients()
  handle(self):zero_gradients()
  gradients.gone(self)
  losses.drop_step(self)
end

--- Views of the gradients added so far, by name; they end with the next optim_step.
---@return table<string, crucible.lora.Gradient>
function Session:gradients()
  handle(self)
  return gradients.views(self)
end

-- ---- sampling ------------------------------------------------------------------------------

--- A completion for each prompt (texts or lists of ids; a single text is one prompt). Parameters
--- as lora.sampling_params takes them. `on_token` hears each token as it comes and may return false to end
--- its row. Fails with
--- "context_overflow" when a prompt and max_tokens do not fit.
---@param prompts string|(string|integer[])[]
---@param params table?
---@param on_token (fun(event: crucible.lora.TokenEvent): boolean?)?
---@param choices string[]|integer[][]|string[][]?  as session:score takes them: each completion then has `scores`,
--- from the same run of its prompt
---@return crucible.lora.Completion[]? completions, string? message, string? code
function Session:sample(prompts, params, on_token, choices)
  handle(self)
  prompts = prompt_lists.list("session:sample", prompts)
  prompt_lists.check_listener("session:sample", on_token)
  local ids = prompt_lists.ids(self.tokenizer, prompts)
  local continuations = choices and prompt_lists.choices(self.tokenizer, "session:sample", prompts, choices)
  return generation.sample(self, ids, experiment.sampling_params(params), on_token, continuations)
end

local score_options = schema.new("session:score", {
  { name = "base", default = false, check = schema.boolean, doc = "leave the lora out" },
})

--- Log-probability of each choice after each prompt, summed over the choice's tokens:
--- scores[i][c]. Choices are texts or lists of ids, one list for all prompts; or, with a list of
--- lists of texts, one for each.
---@param prompts (string|integer[])[]
---@param choices string[]|integer[][]|string[][]
---@param options { base: boolean? }?
---@return number[][]? scores, string? message, string? code
function Session:score(prompts, choices, options)
  local given = score_options:resolve(options)
  local continuations = prompt_lists.choices(self.tokenizer, "session:score", prompts, choices)
  local ids = prompt_lists.ids(self.tokenizer, prompts)
  if #ids == 0 then return {} end
  return handle(self):score(ids, continuations, { base = given.base })
end

local top_options = schema.new("session:top", {
  { name = "count", default = 5, check = schema.integer { min = 1, max = 1000 }, doc = "tokens after each position" },
  { name = "base", default = false, check = schema.boolean, doc = "leave the lora out" },
})

--- The likeliest tokens after every position of a prompt (a text or ids): top[i] is a list of { token, text, logprob },
--- best first, of what may follow token i.
---@param prompt string|integer[]
---@param options { count: integer?, base: boolean? }?
---@return { token: integer, text: string, logprob: number }[][]? top, string? message, string? code
function Session:top(prompt, options)
  local given = top_options:resolve(options)
  local ids = self.tokenizer:prompt_ids(prompt)
  local best, logprobs, code = handle(self):top(ids, given.count, { base = given.base })
  if not best then return nil, logprobs, code end
  for i, list in ipairs(best) do
    for j, id in ipairs(list) do
      list[j] = { token = id, text = self.tokenizer:decode { id }, logprob = logprobs[i][j] }
    end
  end
  return best
end

--- A text, or a row { input, output } or { messages }, as the model sees it: its tokens, what is trained of them, what
--- the model expected instead, and the loss of each. Print it, or read its fields: peek.lua.
---@param what string|table
---@param options table?  of crucible.peek
---@return crucible.Peek? peek, string? message, string? code
function Session:peek(what, options)
  handle(self)
  return require("crucible.peek").look(self, what, options)
end

-- ---- files ---------------------------------------------------------------------------------

local function checkpoint_folder(self) return paths.join(self.run_dir, "checkpoints") end

--- Writes adapter_model.safetensors and adapter_config.json into a folder that is there.
---@param folder string
---@return true? ok, string? message, string? code
function Session:save_adapter(folder)
  handle(self)
  local ok, message, code = self.core:save_lora(paths.join(folder, peft.weights_file))
  if not ok then return nil, message, code end
  return fs.write_file(paths.join(folder, peft.config_file), peft.config_bytes(self.config, self.model:hub_name()))
end

local function save_files(self, folder)
  local ok, message, code = self:save_adapter(folder)
  if not ok then return nil, message, code end
  return self.core:save_optimizer(paths.join(folder, checkpoints.optimizer_file))
end

local function frozen_or_nil(self)
  local names = self:frozen()
  return #names > 0 and names or nil
end

local function state_of(self, loop)
  local digest, message, code = self.model:digest()
  if not digest then return nil, message, code end
  return {
    engine = self.engine, experiment_id = self.experiment_id, adapter_name = self.adapter_name, seed = self.seed,
    step = self.core:step(), config = config.plain(self.config), loop = loop, frozen = frozen_or_nil(self),
    base_model = { name = self.model:hub_name(), file = paths.basename(self.model.path), sha256 = digest },
  }
end

local save_options = schema.new("session:save_checkpoint", {
  { name = "folder", check = schema.nonempty_string, doc = "where to put it; default: <run_dir>/checkpoints" },
  { name = "loop", check = schema.table, doc = "where a training loop stands, kept in trainer_state.json" },
})

--- Writes the lora, the optimiser state and what is needed to go on from here.
---@param name string  of the folder: letters, digits, '_', '-', '.'
---@param options { folder: string?, loop: table? }?
---@return crucible.lora.Checkpoint? checkpoint, string? message, string? code
function Session:save_checkpoint(name, options)
  local given = save_options:resolve(options)
  handle(self)
  checkpoints.check_name("session:save_checkpoint", name)
  local state, message, code = state_of(self, given.loop)
  if not state then return nil, message, code end
  local path
  path, message, code = checkpoints.write(given.folder or checkpoint_folder(self), name, state, function(folder)
    return save_files(self, folder)
  end)
  if not path then return nil, message, code end
  return checkpoints.summary(name, path, state)
end

local function check_origin(self, path, state)
  if state.remote then
    return errors.failure("unsupported", "%s was saved by the %s engine: its weights are on the server; session:export "
      .. "there gives a folder that this engine reads", path, tostring(state.engine))
  end
  local digest, message, code = self.model:digest()
  if not digest then return nil, message, code end
  if state.base_model.sha256 ~= digest then
    local theirs = state.base_model
    return errors.failure("format", "%s was made on another base model (%s, SHA-256 %s), this session runs on %s (%s)",
      path, theirs.file, theirs.sha256:sub(1, 12), paths.basename(self.model.path), digest:sub(1, 12))
  end
  return true
end

local function check_shape(self, path)
  local file = paths.join(path, peft.config_file)
  local bytes, message, code = fs.read_file(file)
  if not bytes then return nil, message, code end
  local difference
  difference, message, code = peft.difference(bytes, self.config, self.core:modules())
  if code then return errors.failure(code, "%s: %s", file, message) end
  if difference then return errors.failure("format", "%s does not fit this session: %s", file, difference) end
  return true
end

local function load_weights(self, path)
  local ok, message, code = check_shape(self, path)
  if not ok then return nil, message, code end
  return self.core:load_lora(paths.join(path, peft.weights_file))
end

-- Everything is checked before the first byte of the session changes.
local function load_whole(self, path)
  local state, message, code = checkpoints.read(path)
  if not state then return nil, message, code end
  local ok
  ok, message, code = checkpoints.verify(path, state)
  if ok then ok, message, code = check_origin(self, path, state) end
  if ok then ok, message, code = load_weights(self, path) end
  if ok then ok, message, code = self.core:load_optimizer(paths.join(path, checkpoints.optimizer_file)) end
  if not ok then return nil, message, code end
  self:thaw(self:frozen())
  if state.frozen then self:freeze(state.frozen) end
  return state
end

local load_options = schema.new("session:load_checkpoint", {
  { name = "weights_only", default = false, check = schema.boolean,
    doc = "take the lora alone, from any PEFT folder; the optimiser starts anew" },
})

--- Takes over a checkpoint, by name (of this session's run) or path; returns its state. An
--- incomplete or damaged one, one of another base model or of another shape is refused and the
--- session stays as it was. Gradients added so far are dropped.
---@param name_or_path string
---@param options { weights_only: boolean? }?
---@return table? state, string? message, string? code
function Session:load_checkpoint(name_or_path, options)
  local given = load_options:resolve(options)
  handle(self)
  local path = checkpoints.locate(checkpoint_folder(self), name_or_path)
  local state, message, code
  if given.weights_only then
    local ok
    ok, message, code = load_weights(self, path)
    state = ok and {} or nil
  else
    state, message, code = load_whole(self, path)
  end
  if not state then return nil, message, code end
  self:zero_gradients()
  return state
end

--- Another session on the same model with a checkpoint's weights, for evaluation beside this
--- one. To be closed by the caller.
---@param name_or_path string
---@return crucible.Session? session, string? message, string? code
function Session:open_checkpoint(name_or_path)
  handle(self)
  local path = checkpoints.locate(checkpoint_folder(self), name_or_path)
  local other, message, code = session.new(self.model, {
    config = self.config, seed = self.seed, experiment_id = self.experiment_id, adapter_name = self.adapter_name,
    runs = self.runs,
  })
  if not other then return nil, message, code end
  other.run_dir, other.kernels, other.threads = self.run_dir, self.kernels, self.threads
  local state
  state, message, code = load_whole(other, path)
  if state then return other end
  other:close()
  return nil, message, code
end

--- The complete checkpoints of this session's run, by step.
---@return crucible.lora.Checkpoint[]? list, string? message, string? code
function Session:checkpoints() return checkpoints.list(checkpoint_folder(self)) end

--- Takes over the lora of a PEFT folder or of a GGUF adapter of the same targets, ranks and scales; the optimiser
--- is not touched. A missing, unexpected or differently shaped tensor is refused, and so are tensors that do not give
--- the digest their file records; the session then stays as it was. Gradients added so far are dropped. Returns the
--- digest of what is held now (core:digest).
---@param path string
---@return string? sha256, string? message, string? code
function Session:load_adapter(path)
  handle(self)
  local ok, message, code
  if paths.is_folder(path) then
    ok, message, code = load_weights(self, path)
  else
    ok, message, code = self.core:load_gguf_adapter(path)
  end
  if not ok then return nil, message, code end
  self:zero_gradients()
  return self.core:digest()
end

--- Writes the lora, alone or merged into the base, for other programs: lora/export.lua has the options. A merged
--- model's report tells the largest difference of its logits to the session's.
---@param path string  a folder (peft, merged-safetensors) or a file
---@param options { format: "peft"|"gguf"|"merged-safetensors"|"merged-gguf"|nil, type: string?, shard_bytes: integer?,
---  overwrite: boolean?, probe: string[]? }?
---@return string? path, crucible.lora.ExportReport|string report_or_message, string? code
function Session:export(path, options)
  handle(self)
  return export.write(self, path, options)
end

--- The projections that carry a branch: name (as in a Hugging Face model), layer, target, rank, alpha, scale.
---@return crucible.core.Module[]
function Session:modules() return handle(self):modules() end

--- What runs this session: engine, model (name, file, sha256, shape), kernels, threads,
--- parameters trained.
---@return table? description, string? message, string? code
function Session:describe()
  local digest, message, code = self.model:digest()
  if not digest then return nil, message, code end
  local trained = 0
  for _, parameter in ipairs(handle(self):parameters()) do trained = trained + parameter.rows * parameter.columns end
  local about = {}
  for key, value in pairs(self.model.info) do about[key] = value end
  about.chat_template = nil
  about.sha256, about.file, about.hub = digest, paths.basename(self.model.path), self.model:hub_name()
  return {
    engine = self.engine, model = about, trained_parameters = trained, kernels = self.kernels, threads = self.threads,
  }
end

--- Ends what this session is computing, which then returns nil, message, "cancelled": for signal handlers,
--- debug hooks and callbacks. Between calls it ends what would come next of a sampling or a training run.
function Session:cancel()
  self.cancel_wanted = true
  handle(self):cancel()
end

--- Whether cancel() was called since this was last asked. Loops over several calls ask before each.
---@return boolean
function Session:cancelled()
  local wanted = self.cancel_wanted
  self.cancel_wanted = false
  return wanted
end

--- Releases the session, and the model if the session opened it. Safe to call twice.
function Session:close()
  if self.closed then return end
  self.closed = true
  session.open[self] = nil
  self.core:close()
  if self.owns_model then self.model:close() end
end

Session.__gc = Session.close
Session.__close = Session.close

function Session:__tostring()
  return ("crucible.session(%s on %s, rank %d, %s%s)"):format(self.adapter_name, self.model.name,
    self.config.lora_rank, self.experiment_id, self.closed and ", closed" or "")
end

return session
