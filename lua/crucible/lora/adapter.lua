-- The contract between the training rooms and an engine, as data. An adapter is a table of the
-- functions below; its create_session gives sessions with the fields and methods below. Nothing
-- outside adapters/ may rely on more.
local errors = require "crucible.errors"
local suggest = require "crucible.suggest"

local adapter = {}

--- Adapters that come with the library.
adapter.names = { "local", "tinker" }

-- An adapter may have `session_options` too: entries of a schema, which lora.create_session takes besides its own.

---@class crucible.lora.adapter.Member
---@field name string
---@field doc string

---@type crucible.lora.adapter.Member[]
adapter.functions = {
  { name = "generate_id", doc = "() → 16 lower-case hexadecimal characters" },
  { name = "create_experiment", doc = "(options) → record, or nil, message, code" },
  { name = "create_session", doc = "(options) → session, or nil, message, code; options.config is a checked config" },
  { name = "batch_dataset", doc = "(list, n) → pieces of n, the last one short" },
  { name = "format_training_data", doc = "(batch, options) → { input, output, weight } each" },
  { name = "calculate_metrics", doc = "(steps) → mean_loss, loss_reduction, … , total_steps" },
  { name = "validate_quality", doc = "(metrics, config) → passed, assessments, summary" },
  { name = "sampling_params", doc = "(options) → temperature, top_p, max_tokens, stop_sequences, …" },
  { name = "checkpoint_name", doc = "(id, step) → a name that is not used twice" },
}

---@type crucible.lora.adapter.Member[]
adapter.session_fields = {
  { name = "experiment_id", doc = "16 hexadecimal characters" },
  { name = "config", doc = "the checked config it was made with" },
  { name = "adapter_name", doc = "name of its lora" },
  { name = "engine", doc = "name of the adapter" },
  { name = "training_client", doc = "the engine's own handle, for training" },
  { name = "sampling_client", doc = "the engine's own handle, for sampling" },
  { name = "started_at", doc = "UTC, ISO 8601" },
  { name = "seed", doc = "integer" },
  { name = "tokenizer", doc = "crucible.tokenizer of the base model" },
  { name = "context", doc = "longest row in tokens" },
  { name = "run_dir", doc = "folder of its run: runs/<experiment_id>" },
}

---@type crucible.lora.adapter.Member[]
adapter.session_methods = {
  { name = "forward", doc = "(batch, { outputs, base }) → { logprobs }: no gradient, dropout off" },
  { name = "forward_backward",
    doc = "(batch, loss_fn, { counts, logprobs }) → loss and counts; adds to the gradients" },
  { name = "optim_step",
    doc = "(adam_params) → grad_norm before clipping, update_norm, skipped, step; zeroes gradients" },
  { name = "zero_gradients", doc = "() drops the gradients added so far" },
  { name = "gradients", doc = "() → name → view (shape, norm, stats, scale, …), until the next optim_step" },
  { name = "sample", doc = "(prompts, sampling_params, on_token) → one completion for each prompt" },
  { name = "score", doc = "(prompts, choices, { base }) → log-probability of each choice after each prompt" },
  { name = "save_checkpoint", doc = "(name, { folder, loop }) → { name, path, step }" },
  { name = "load_checkpoint", doc = "(name or path, { weights_only }) → the checkpoint's state" },
  { name = "open_checkpoint", doc = "(name or path) → another session with those weights, for evaluation" },
  { name = "checkpoints", doc = "() → { name, path, step } each, oldest first" },
  { name = "export", doc = '(path, { format = "peft" }) writes the lora for other programs' },
  { name = "describe", doc = "() → what the engine is: model, digest, kernels, threads" },
  { name = "close", doc = "() releases everything; safe to call twice" },
}

--- What a session may offer besides; `incidents` too, a list of texts: what went wrong on the way and was mended.
---@type crucible.lora.adapter.Member[]
adapter.optional_methods = {
  { name = "check_loss", doc = "(loss, datums) raises before step 1 for a loss that the engine cannot train with" },
  { name = "begin_step",
    doc = "(batches, loss, { counts, params }) → future of { results, update }: a whole step, not waited for" },
  { name = "drop_steps", doc = "(futures) undoes steps that were begun, the last ones" },
  { name = "steps_at_once", doc = "() → how many steps training_loop may have under way; needs begin_step" },
  { name = "cancel", doc = "() ends what the session is doing" },
  { name = "cancelled", doc = "() → whether cancel was called since this was last asked" },
  { name = "heed_signals", doc = "(watcher) signals that it notes cancel what the session waits for; nil: no longer" },
}

--- What a session offers besides if its engine gives gradients; gradient hooks need it.
---@type crucible.lora.adapter.Member[]
adapter.gradient_methods = {
  { name = "matrices", doc = "() → { name, layer, target, matrix, rows, columns } each, first layer first" },
  { name = "measure_gradients", doc = "(distribution) measures all gradients at once; views answer from it" },
  { name = "measured_gradients", doc = "() → name → figures found so far, which outlive the step" },
  { name = "clip_gradients", doc = "(max_grad_norm) → norm before, factor; what optim_step would do, made visible" },
  { name = "scale_gradients", doc = "(factor) multiplies all gradients" },
  { name = "freeze", doc = "(names) → whole names; they keep value and moments, their gradients read 0" },
  { name = "thaw", doc = "(names) → whole names; they are trained again" },
  { name = "frozen", doc = "() → names" },
  { name = "watch", doc = '({ "updates", "pieces", "turns" }) what to keep an eye on; {} = nothing' },
  { name = "updates", doc = "() → name → { change, before, ratio } of the last update" },
  { name = "pieces", doc = "() → { norm, rows, supervised } of each micro-batch since the last update" },
  { name = "turns", doc = "() → name → cosine with the gradient of the call before, and that of all" },
  { name = "weight_norm", doc = "(name) → norm of a matrix's weights" },
  { name = "spectrum", doc = "(name) → singular_values, effective_rank, stable_rank of a branch" },
}

local function missing(object, members, kind)
  local names = {}
  for _, member in ipairs(members) do
    local value = object[member.name]
    if value == nil or (kind and type(value) ~= kind) then names[#names + 1] = member.name end
  end
  return names
end

--- True when the table has every function of the contract; else nil, a message that names what
--- is missing, and the list of names.
---@param candidate table
---@return true? ok, string? message, string[]? names
function adapter.check(candidate)
  if type(candidate) ~= "table" then return nil, "an adapter is a table of functions, got a " .. type(candidate), {} end
  local names = missing(candidate, adapter.functions, "function")
  if #names == 0 then return true end
  return nil, "the adapter lacks: " .. table.concat(names, ", "), names
end

--- The same for a session.
---@param session table
---@return true? ok, string? message, string[]? names
function adapter.check_session(session)
  local names = missing(session, adapter.session_fields)
  table.move(missing(session, adapter.session_methods, "function"), 1, #adapter.session_methods, #names + 1, names)
  if #names == 0 then return true end
  return nil, "the session lacks: " .. table.concat(names, ", "), names
end

--- Whether a session gives gradients: true; else nil and a message that names the engine.
---@param session table
---@return true? ok, string? message
function adapter.check_gradients(session)
  if #missing(session, adapter.gradient_methods, "function") == 0 then return true end
  return nil, ('gradient hooks need an engine that gives gradients; the %s engine does not, adapter = "local" does')
    :format(session.engine)
end

--- The adapter of a name, or the table itself, checked. Raises on an unknown name and on a table
--- that does not keep the contract.
---@param name_or_table string|table
---@return table
function adapter.find(name_or_table)
  local found = name_or_table
  if type(name_or_table) == "string" then
    for _, name in ipairs(adapter.names) do
      if name == name_or_table then return require("crucible.adapters." .. name) end
    end
    errors.raise('unknown adapter "%s"%s', name_or_table, suggest.phrase(name_or_table, adapter.names))
  end
  local ok, message = adapter.check(found)
  if not ok then errors.raise("%s", message) end
  return found
end

return adapter
