-- The training loop: steps over the rows of a plan, a schedule, evaluation, checkpoints, telemetry,
-- callbacks. `run` goes to the end; `steps` gives one step at a time and `run` is built on it.
--
-- A run lives in a folder:
--
--     runs/<experiment_id>/manifest.json      every resolved value, digests, versions, results
--                          telemetry.jsonl    one object a step
--                          evaluations.jsonl  one object an evaluation, with some of the answers
--                          checkpoints/step_000100/…
--
-- Nothing is printed unless a reporter is among the callbacks (crucible.callbacks.console), and no signal
-- handler is installed unless asked for (signals = true).
local checkpoints = require "crucible.lora.checkpoints"
local dataset_integration = require "crucible.lora.dataset_integration"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local gradient_points = require "crucible.lora.gradient_points"
local json = require "crucible.json"
local manifest = require "crucible.lora.manifest"
local paths = require "crucible.paths"
local packing = require "crucible.lora.packing"
local plan = require "crucible.lora.plan"
local rollouts = require "crucible.lora.rollouts"
local run = require "crucible.lora.run"
local run_folder = require "crucible.lora.run_folder"
local run_samples = require "crucible.lora.run_samples"
local schema = require "crucible.schema"
local selection = require "crucible.lora.selection"
local suggest = require "crucible.suggest"
local validation = require "crucible.lora.validation"
local views = require "crucible.callbacks.views"

local training_loop = {}

--- Skipped steps in a row that end a run.
training_loop.patience_nonfinite = run.patience_nonfinite

--- What callbacks may listen to. Each receives one table:
---   on_train_begin  run_dir, total_steps, epochs, steps_per_epoch, gate, dataset, config, step
---   on_step_end     step, epoch (from 1), loss, components, lr, grad_norm, update_norm, skipped, tokens,
---                   supervised, seconds, tokens_per_s, timestamp (UTC), total_steps, gradient_issues (a
---                   list); with gradient hooks also gradients (figures by name), actions, hook_errors and
---                   what the hooks found
---   on_epoch_end    epoch, step, mean_loss, metrics
---   on_evaluate     step, epoch, metrics
---   on_checkpoint   name, path, step, epoch, metrics
---   on_train_end    the results
--- One that returns "stop" ends the run after this step; "checkpoint" saves one now.
--- A table of callbacks may also have on_event(name, measurements, metadata): a reporter, told of every
--- event of crucible.telemetry in this run. And, so that a run that is resumed goes on as if it had not been
--- interrupted: state() → plain data, kept in every checkpoint, and restore(data).
training_loop.events = {
  "on_train_begin", "on_step_end", "on_epoch_end", "on_evaluate", "on_checkpoint", "on_train_end",
}

local known_event = { on_event = true, state = true, restore = true }
for _, name in ipairs(training_loop.events) do known_event[name] = true end

local function check_callbacks(value)
  if type(value) ~= "table" then return false end
  for key, callback in pairs(value) do
    if math.type(key) == "integer" then
      local ok, reason = check_callbacks(callback)
      if not ok then return false, reason end
    elseif not known_event[key] then
      return false, ("unknown event %s%s"):format(schema.show(key), suggest.phrase(tostring(key), training_loop.events))
    elseif not schema.callable.read(callback) then
      return false, ("%s must be a function, got %s"):format(key, schema.show(callback))
    end
  end
  return true
end

local loop_entries = {
  { name = "config", check = schema.table, doc = "a config, or options over the session's; default: the session's" },
  { name = "epochs", check = schema.integer { min = 1 },
    doc = "times through the rows; default: 1, or what max_steps takes" },
  { name = "max_steps", check = schema.integer { min = 1 }, doc = "optimiser steps at most" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a batch" },
  { name = "batch_tokens", check = schema.integer { min = 1 },
    doc = "instead of batch_size: as many rows as hold this many tokens, at least one" },
  { name = "batching", default = "in_order", check = schema.one_of(packing.methods),
    doc = "which rows share a batch: in_order; best_fit: fullest batches of batch_tokens; bucket: of like length" },
  { name = "token_cache", check = schema.either(schema.boolean, schema.nonempty_string),
    doc = "keep tokenised data on disk; a folder; default: from 4 MiB of text on, in the user's cache" },
  { name = "checkpoint_every", default = 100, check = schema.integer { min = 0 },
    doc = "steps between checkpoints; 0 = only the last" },
  { name = "loss_fn", default = "cross_entropy", check = schema.either(schema.nonempty_string, schema.table),
    doc = "name of a loss, or what lora.loss_functions.get returns" },
  { name = "callbacks", default = {},
    check = schema.test("a table of functions by event, or a list of such", check_callbacks),
    doc = "observers: " .. table.concat(training_loop.events, ", ") },
  { name = "enable_gradient_hooks", default = false, check = schema.boolean,
    doc = "run gradient_hooks in each step" },
  { name = "gradient_hooks", default = {}, check = schema.table,
    doc = '"norm", { "health", { … } }, { name, function } …; or what lora.gradient_hooks.new returns' },
  { name = "on_hook_error", check = schema.one_of { "stop", "continue" },
    doc = 'what a hook that raises does to the run; default: "stop"' },
  { name = "seed", check = schema.integer(), doc = "of the order of rows; default: the session's" },
  { name = "shuffle", default = true, check = schema.boolean, doc = "another order each epoch" },
  { name = "gate", default = true, check = schema.boolean, doc = "check the data before step 1" },
  { name = "run_dir", check = schema.nonempty_string, doc = "folder of the run; default: the session's" },
  { name = "resume", check = schema.either(schema.boolean, schema.nonempty_string),
    doc = 'true: from the latest checkpoint in run_dir; "auto": the same, or from the start where there is none; '
      .. "or a checkpoint's name or path" },
  { name = "evaluate", check = schema.either(schema.callable, schema.table),
    doc = "(session, event) → metrics; or dataset, split, loss (default true), and with metrics the options of "
      .. "evaluation.evaluate" },
  { name = "evaluate_every", default = "epoch",
    check = schema.either(schema.integer { min = 1 }, schema.one_of { "epoch" }),
    doc = 'steps between evaluations, or "epoch"' },
  { name = "best", check = schema.either(schema.nonempty_string, schema.table),
    doc = "metric that the best checkpoint is chosen by, or { metric, direction }; default: the evaluation's loss, "
      .. "else mean_loss, of training since the checkpoint before" },
  { name = "early_stopping", check = schema.either(schema.integer { min = 1 }, schema.table),
    doc = "evaluations without a gain that end the run, or { patience, metric, direction, min_delta }; of mean_loss: "
      .. "epochs" },
  { name = "keep_last", check = schema.integer { min = 1 },
    doc = "newest checkpoints to keep; with it or keep_best, others but the best are removed" },
  { name = "keep_best", check = schema.integer { min = 1 }, doc = "best checkpoints to keep" },
  { name = "max_time", check = schema.number { above = 0 },
    doc = "seconds after which this call saves a checkpoint and stops" },
  { name = "on_save_error", default = "stop", check = schema.one_of { "stop", "continue" },
    doc = "what a checkpoint or record that cannot be written does to the run; the last checkpoint always counts" },
  { name = "experiment", check = schema.table, doc = "what lora.create_experiment returned; noted in the manifest" },
  { name = "samples", default = false, check = schema.either(schema.boolean, schema.integer { min = 1 }, schema.table),
    doc = "texts to write before, at evaluations and at the end: true, how many rows' prompts, or { prompts, count, "
      .. "and options of lora.sampling_params }" },
  { name = "signals", default = false, check = schema.either(schema.boolean, schema.table),
    doc = "true: SIGINT and SIGTERM end the run after its step, with a checkpoint; or what crucible.signals.install "
      .. "returned" },
}
table.move(dataset_integration.row_options.entries, 1, #dataset_integration.row_options.entries, #loop_entries + 1,
  loop_entries)
table.move(views.entries, 1, #views.entries, #loop_entries + 1, loop_entries)
local run_options = schema.new("training_loop.run", loop_entries)
run_options:also("training_loop.start"):also("training_loop.steps")

--- The options of run, for programs that offer them as their own.
training_loop.options = run_options

-- Options of rollouts: its own, and those of run that mean the same there.
local function rollout_entries()
  local list = table.move(rollouts.entries, 1, #rollouts.entries, 1, {})
  local taken = { batch_tokens = true, gate = true, loss_fn = true }
  for _, entry in ipairs(list) do taken[entry.name] = true end
  for _, entry in ipairs(loop_entries) do
    if not taken[entry.name] then list[#list + 1] = entry end
  end
  return list
end
local rollouts_options = schema.new("training_loop.rollouts", rollout_entries())

-- ---- starting ------------------------------------------------------------------------------

-- The checkpoint that `resume` means in a folder; nil without a message when it may start anew.
local function place_of(folder, resume)
  if resume ~= true and resume ~= "auto" then return checkpoints.locate(folder.checkpoints, resume) end
  local latest, message, code = checkpoints.latest(folder.checkpoints)
  if latest then return latest.path end
  if message then return nil, message, code end
  if resume == "auto" then return nil end
  return errors.failure("not_found", "%s has no complete checkpoint to resume from", folder.path)
end

-- Folder of the run and, for one that goes on, the checkpoint to go on from.
local function choose_folder(session, options)
  local resume = options.resume
  local path = options.run_dir or session.run_dir
  if not resume then return run_folder.create(path) end
  if type(resume) == "string" and resume:find("/", 1, true) and not options.run_dir then
    path = paths.dirname(paths.dirname(resume))
  end
  local folder, message, code = run_folder.open(path)
  if not folder then return nil, message, code end
  local ok
  ok, message, code = checkpoints.recover(folder.checkpoints)
  if not ok then return nil, message, code end
  local place
  place, message, code = place_of(folder, resume)
  if message then return nil, message, code end
  if not place then ok, message, code = folder:rewind(0) end
  if not ok then return nil, message, code end
  return folder, place
end

local function load_place(self, path)
  local state, message, code = checkpoints.read(path)
  if not state then return nil, message, code end
  local ok
  ok, message, code = self:restore(path, state.loop)
  if ok then ok, message, code = self.session:load_checkpoint(path) end
  if not ok then return nil, message, code end
  return true
end

-- The places of gradient hooks in the steps of a run; false for a run without.
local function points_of(session, given)
  if not given.enable_gradient_hooks then return false end
  return gradient_points.new(session, given.gradient_hooks, given)
end

-- The evaluator of a run and the rules by which states are compared.
local function judges(dataset, given, trained)
  local evaluator, default_metric = given.evaluate, trained
  if type(evaluator) == "table" and not schema.callable.read(evaluator) then
    if evaluator.loss ~= false then default_metric = trained or "loss" end
    evaluator = validation.new(evaluator, dataset, given)
  end
  return evaluator, selection.rules(given.best, given.early_stopping, evaluator ~= nil, default_metric, trained)
end

-- What the manifest of an interrupted run says of its beginning is kept by the one that goes on.
local function write_manifest(self)
  local before = json.decode(fs.read_file(self.folder.manifest) or "null")
  local made, message, code = manifest.of(self)
  if not made then return nil, message, code end
  self.manifest = made
  if type(before) == "table" and self.state.step > 0 then
    made.resumed_at, made.started_at = made.started_at, before.started_at or made.started_at
  end
  return self.folder:write_manifest(made)
end

local function take_signals(self, asked)
  if not asked then return true end
  self.owns_signals = asked == true
  if asked ~= true then
    self.signals = asked
    return true
  end
  local message, code
  self.signals, message, code = require("crucible.signals").install()
  return self.signals ~= nil, message, code
end

local function tell_begin(self)
  local settled, step = self.plan, self.state.step
  self:tell("training.start", {
    total_steps = settled.total_steps, steps_per_epoch = settled.steps_per_epoch, epochs = settled.epochs,
    rows = #settled.datums, step = step,
  }, {
    manifest = self.manifest, config = settled.config, dataset = settled.dataset, gate = settled.gate,
    options = self.options, resumed = step > 0,
  })
  self:emit("on_train_begin", {
    run_dir = self.folder.path, total_steps = settled.total_steps, epochs = settled.epochs, gate = settled.gate,
    steps_per_epoch = settled.steps_per_epoch, dataset = settled.dataset, config = settled.config, step = step,
  })
end

-- A run of a plan that `make_plan` settles, before its next step.
local function start(session, dataset, given, make_plan, trained)
  local evaluator, rules = judges(dataset, given, trained)
  local settled, message, code = make_plan(session, dataset, given)
  if not settled then return nil, message, code end
  local points
  points, message, code = points_of(session, given)
  if points == nil then return nil, message, code end
  local folder, place
  folder, place, code = choose_folder(session, given)
  if not folder then return nil, place, code end
  local self = run.new {
    session = session, plan = settled, options = given, folder = folder, evaluator = evaluator, rules = rules,
    points = points, samples = run_samples.new(given.samples, session, settled.datums),
  }
  local ok
  if place then
    ok, message, code = load_place(self, place)
    if not ok then return nil, message, code end
  end
  session.run_dir = folder.path
  ok, message, code = write_manifest(self)
  if not ok then return nil, message, code end
  ok, message, code = take_signals(self, given.signals)
  if not ok then return nil, message, code end
  tell_begin(self)
  ok, message, code = true, nil, nil
  if self.state.step == 0 then ok, message, code = self:sample "before" end
  if not ok then return self:give_up(message, code) end
  return self
end

local function to_the_end(self, message, code)
  if not self then return nil, message, code end
  local event
  repeat event, message, code = self:advance() until not event
  if message then return nil, message, code, self.results end
  return self.results
end

--- A run that stands before its first step (or, resumed, before the next): `run:advance()` makes
--- one step, `run:finish()` ends it, `run.results` is there afterwards.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table?
---@return crucible.lora.Run? run, string? message, string? code
function training_loop.start(session, dataset, options)
  return start(session, dataset, run_options:resolve(options), plan.make)
end

--- Trains a session on a data set (a name, a path or a table of rows) and returns total_steps,
--- skipped_steps, metrics, epochs (mean losses), evaluations, checkpoints, best_checkpoint (a
--- path), best (name, step, metric, value), run_dir, gate, seconds, status ("finished", "stopped",
--- "interrupted"), reason, exit_code (130 when interrupted), incidents (what a remote engine met and mended).
--- Options: training_loop.help().
---
--- The final state is always saved. A step with a loss or gradient that is not finite is skipped
--- and counted; three in a row end the run with code "nonfinite". When a run fails the fourth
--- value is what it had reached. A callback that raises is named, with a traceback, after its step
--- was saved.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table?
---@return table? results, string? message, string? code, table? partial_results
function training_loop.run(session, dataset, options)
  return to_the_end(training_loop.start(session, dataset, options))
end

--- The same as an iterator: `for step in training_loop.steps(session, dataset, options) do … end`.
--- Leaving the loop early saves a final checkpoint and ends the run. A failure that would stop
--- `run` raises its message here; one before step 1 is returned as nil, message, code.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table?
---@return (fun(): table?)? next_step, string? message, string? code, crucible.lora.Run? closing
function training_loop.steps(session, dataset, options)
  local self, message, code = training_loop.start(session, dataset, options)
  if not self then return nil, message, code end
  local function next_step()
    local event, why = self:advance()
    if why then errors.raise("%s", why) end
    return event
  end
  return next_step, nil, nil, self
end

--- Trains a session by rewards: each step samples group_size answers to some prompts, rewards them and makes an
--- update by a policy loss; see lora/rollouts.lua. The same telemetry, callbacks, checkpoints, evaluation and
--- resume as `run`; the components of a step hold reward (the mean), reward.NAME of each part, reward.length,
--- reward.deviation, reward.finished and reward.idle_groups (groups whose rewards are all alike), and
--- on_step_end's event has `rollouts`, the samples with their rewards. Options: training_loop.rollouts_help().
---@param session crucible.Session
---@param prompts string|string[]|table[]  a data set's name, texts, or rows { input, output?, metadata? }
---@param options table  reward, group_size (4), batch_size (4 prompts), loss ("grpo"), sampling options, …
---@return table? results, string? message, string? code, table? partial_results
function training_loop.rollouts(session, prompts, options)
  return to_the_end(start(session, prompts, rollouts_options:resolve(options), rollouts.make, "reward"))
end

--- The options of rollouts, as text.
---@return string
function training_loop.rollouts_help() return rollouts_options:help() end

--- The options of run, as text.
---@return string
function training_loop.help() return run_options:help() end

return training_loop
