-- The training loop: steps over the rows of a plan, a schedule, checkpoints, telemetry,
-- callbacks. `run` goes to the end; `steps` gives one step at a time and `run` is built on it.
--
-- A run lives in a folder:
--
--     runs/<experiment_id>/manifest.json      every resolved value, digests, versions, results
--                          telemetry.jsonl    one object a step
--                          evaluations.jsonl  one object an evaluation, with some of the answers
--                          checkpoints/step_000100/…
--
-- Nothing is printed unless a reporter is among the callbacks (crucible.callbacks.console).
local checkpoints = require "crucible.lora.checkpoints"
local config = require "crucible.lora.config"
local dataset_integration = require "crucible.lora.dataset_integration"
local errors = require "crucible.errors"
local evaluation = require "crucible.lora.evaluation"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local gradient_points = require "crucible.lora.gradient_points"
local json = require "crucible.json"
local manifest = require "crucible.lora.manifest"
local paths = require "crucible.paths"
local plan = require "crucible.lora.plan"
local run_folder = require "crucible.lora.run_folder"
local run_records = require "crucible.lora.run_records"
local schedule = require "crucible.lora.schedule"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local telemetry = require "crucible.telemetry"
local views = require "crucible.callbacks.views"

local training_loop = {}

--- Skipped steps in a row that end a run.
training_loop.patience_nonfinite = 3

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
--- event of crucible.telemetry in this run.
training_loop.events = {
  "on_train_begin", "on_step_end", "on_epoch_end", "on_evaluate", "on_checkpoint", "on_train_end",
}

local known_event = { on_event = true }
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
    doc = "true: from the latest checkpoint in run_dir; or a checkpoint's name or path" },
  { name = "evaluate", check = schema.either(schema.callable, schema.table),
    doc = "(session, event) → metrics; or options of evaluation.evaluate, with dataset" },
  { name = "evaluate_every", default = "epoch",
    check = schema.either(schema.integer { min = 1 }, schema.one_of { "epoch" }),
    doc = 'steps between evaluations, or "epoch"' },
}
table.move(dataset_integration.row_options.entries, 1, #dataset_integration.row_options.entries, #loop_entries + 1,
  loop_entries)
table.move(views.entries, 1, #views.entries, #loop_entries + 1, loop_entries)
local run_options = schema.new("training_loop.run", loop_entries)

---@class crucible.lora.Run
local Run = { __name = "crucible.run" }
Run.__index = Run

local function is_finite(value) return value == value and value ~= math.huge and value ~= -math.huge end

-- A list of callback tables out of one table with both kinds of keys.
local function flatten(callbacks, list)
  list[#list + 1] = callbacks
  for _, inner in ipairs(callbacks) do flatten(inner, list) end
  return list
end

-- ---- saving --------------------------------------------------------------------------------

local function mean_or_nil(sum, count)
  if count > 0 then return sum / count end
end

function Run:metrics() return require("crucible.lora").calculate_metrics(self.history) end

-- Where the run stands, for trainer_state.json.
function Run:loop_state()
  local s = self.state
  return {
    step = s.step, epoch = s.epoch, index = s.index, epoch_sum = s.epoch_sum, epoch_count = s.epoch_count,
    mean_loss = mean_or_nil(s.window_sum, s.window_count), skipped = s.skipped, skipped_in_row = s.skipped_in_row,
    best = s.best, epochs_done = self.epochs_done, plan = self.plan:identity(),
  }
end

-- The checkpoint's own mean loss decides whether it is the best so far, so it is known before the
-- state that records it is written.
local function judge(state, name, mean_loss)
  if not mean_loss then return end
  if not state.best or mean_loss < state.best.mean_loss then state.best = { name = name, mean_loss = mean_loss } end
end

-- Saves a checkpoint of this step unless there is one.
function Run:save()
  local s = self.state
  if self.saved_step == s.step or s.step == 0 then return true end
  local name, started = ("step_%06d"):format(s.step), fs.clock()
  local mean_loss, best_before = mean_or_nil(s.window_sum, s.window_count), s.best
  judge(s, name, mean_loss)
  local saved, message, code = self.session:save_checkpoint(name, {
    folder = self.folder.checkpoints, loop = self:loop_state(),
  })
  if not saved then
    s.best = best_before
    self:tell("checkpoint.failed", { seconds = fs.clock() - started }, {
      name = name, step = s.step, epoch = self.event_epoch, message = message, code = code,
    })
    return nil, message, code
  end
  self.saved_step, s.window_sum, s.window_count = s.step, 0, 0
  self:tell("checkpoint.saved", { seconds = fs.clock() - started }, {
    name = saved.name, path = saved.path, step = s.step, epoch = self.event_epoch, metrics = { mean_loss = mean_loss },
    best = s.best ~= nil and s.best.name == name,
  })
  self:emit("on_checkpoint", {
    name = saved.name, path = saved.path, step = s.step, epoch = self.event_epoch, metrics = { mean_loss = mean_loss },
  })
  return true
end

-- ---- callbacks -----------------------------------------------------------------------------

-- A callback or hook that raises ends the run: the last whole step is saved first, so that the run can
-- go on from there once the fault is mended. `step` is the one it raised in, default the last whole one.
function Run:fail_in(what, trace, step)
  self.failing = true
  local place = ""
  if not self.finished then
    local saved = self:save()
    place = saved and self.saved_step and (", checkpoint step_%06d kept"):format(self.saved_step) or ""
    self:end_with("failed")
  end
  telemetry.emit("training.exception", {}, {
    step = step or self.state.step, what = what, message = trace, run = self.channel.run,
  })
  error(("training_loop: %s failed at step %d%s: %s"):format(what, step or self.state.step, place, trace), 0)
end

--- Tells reporters and what is attached to crucible.telemetry.
function Run:tell(name, measurements, metadata)
  if self.failing or not self.channel:listened(name) then return end
  local ok, trace = xpcall(self.channel.emit, debug.traceback, self.channel, name, measurements, metadata)
  if not ok then self:fail_in("on_event (" .. name .. ")", trace) end
end

function Run:emit(event, payload)
  if self.failing then return end
  for _, callbacks in ipairs(self.callbacks) do
    local callback = callbacks[event]
    if callback then
      local ok, answer = xpcall(callback, debug.traceback, payload)
      if not ok then self:fail_in(event, answer) end
      if answer == "stop" then self.stop_wanted = true end
      if answer == "checkpoint" then self.checkpoint_wanted = true end
    end
  end
end

-- ---- one step ------------------------------------------------------------------------------

-- Gradients of all batches of a step; the loss is the mean over the whole step.
function Run:accumulate(batches, counts)
  local total = { loss = 0, components = {}, tokens = 0, supervised = 0 }
  for _, batch in ipairs(batches) do
    local found, message, code = self.session:forward_backward(batch, self.plan.loss, { counts = counts })
    if not found then return nil, message, code end
    total.loss = total.loss + found.loss
    for name, value in pairs(found.components) do total.components[name] = (total.components[name] or 0) + value end
    total.tokens, total.supervised = total.tokens + found.tokens, total.supervised + found.supervised
  end
  return total
end

-- The update, or none when the loss or a gradient is not finite. `hooked` is what gradient hooks see.
function Run:update(total, lr, hooked)
  local params = config.adam_params(self.plan.config)
  params.lr = lr
  if hooked then return self.points:update(hooked, params, is_finite(total.loss)) end
  if not is_finite(total.loss) then
    self.session:zero_gradients()
    return { grad_norm = 0 / 0, update_norm = 0, skipped = true }
  end
  return self.session:optim_step(params)
end

-- What gradient hooks are told of a step; nil without hooks.
function Run:hook_info(step, total, lr)
  if not self.points then return nil end
  return {
    step = step, epoch = self.state.epoch, loss = total.loss, components = total.components, lr = lr,
    supervised = total.supervised, tokens = total.tokens, total_steps = self.plan.total_steps,
  }
end

local NO_ISSUES = {} -- of steps without hooks; nothing is allocated for them

-- Adds what hooks found to a step's event. A hook that raised before the update ends the run here, one
-- that raised after it once the step is counted.
function Run:finish_hooks(hooked, event)
  event.gradient_issues = NO_ISSUES
  if not hooked then return end
  self.points:finish(hooked, event)
  event.skipped_by = gradient_points.by(event, "skip")
  local stopped_by = gradient_points.by(event, "stop")
  if stopped_by then self.stop_wanted, self.stop_reason = true, ('by gradient hook "%s"'):format(stopped_by) end
  self.hook_failure = hooked.failure
  if event.skipped then self:raise_hook_failure(event.step) end
end

function Run:raise_hook_failure(step)
  local failure = self.hook_failure
  if not failure then return end
  self:fail_in(('gradient hook "%s" (%s)'):format(failure.hook, failure.point), failure.message, step)
end

function Run:train_step()
  local s, started = self.state, fs.clock()
  local epoch, step = s.epoch, s.step + 1
  if s.index == 0 then self:tell("epoch.start", {}, { epoch = epoch }) end
  self:tell("step.start", {}, { step = step, epoch = epoch })
  local batches, counts = self.plan:step(epoch, s.index + 1)
  local total, message, code = self:accumulate(batches, counts)
  if not total then return nil, message, code end
  local lr = schedule.learning_rate(self.plan.config, step, self.plan.total_steps)
  local update
  local hooked = self:hook_info(step, total, lr)
  update, message, code = self:update(total, lr, hooked)
  if not update then return nil, message, code end
  local seconds = fs.clock() - started
  local event = {
    step = step, epoch = epoch, loss = total.loss, components = total.components, lr = lr, grad_norm = update.grad_norm,
    update_norm = update.update_norm, skipped = update.skipped, tokens = total.tokens, supervised = total.supervised,
    seconds = seconds, tokens_per_s = total.tokens / seconds, timestamp = experiment.now(),
    total_steps = self.plan.total_steps,
  }
  self:finish_hooks(hooked, event)
  return event
end

-- What is kept of a step, of its event or its line of telemetry, for the run's metrics.
local function remembered(step)
  return { step = step.step, epoch = step.epoch, loss = step.loss, skipped = step.skipped }
end

-- Brings the state up to the end of a step; returns the epoch event when it ended an epoch.
function Run:count(event)
  local s = self.state
  s.step, s.index, self.event_epoch = event.step, s.index + 1, event.epoch
  if event.skipped then
    s.skipped = s.skipped + 1
    if not event.skipped_by then s.skipped_in_row = s.skipped_in_row + 1 end -- a hook's choice is no fault
  else
    local sum = event.loss * event.supervised
    s.skipped_in_row = 0
    s.epoch_sum, s.epoch_count = s.epoch_sum + sum, s.epoch_count + event.supervised
    s.window_sum, s.window_count = s.window_sum + sum, s.window_count + event.supervised
  end
  self.history[#self.history + 1] = remembered(event)
  if s.index < self.plan.steps_per_epoch then return nil end
  local ended = { epoch = event.epoch, step = event.step, mean_loss = mean_or_nil(s.epoch_sum, s.epoch_count) }
  self.epochs_done[#self.epochs_done + 1] = { epoch = ended.epoch, mean_loss = ended.mean_loss }
  s.epoch, s.index, s.epoch_sum, s.epoch_count = s.epoch + 1, 0, 0, 0
  return ended
end

local telemetry_fields = {
  "step", "epoch", "loss", "components", "lr", "grad_norm", "update_norm", "skipped", "tokens", "supervised", "seconds",
  "tokens_per_s", "timestamp",
}

local step_measurements = {
  "loss", "lr", "grad_norm", "update_norm", "tokens", "supervised", "seconds", "tokens_per_s",
}

function Run:tell_step(event)
  if not self.channel:listened "step.stop" then return end
  local measurements = { memory = fs.peak_memory() }
  for _, name in ipairs(step_measurements) do measurements[name] = event[name] end
  self:tell("step.stop", measurements, {
    step = event.step, epoch = event.epoch, total_steps = event.total_steps, skipped = event.skipped,
    components = event.components, event = event, row = self.row,
  })
end

function Run:record(event)
  local row = {}
  for _, field in ipairs(telemetry_fields) do row[field] = event[field] end
  if self.points then row.hooks = self.points:telemetry(event) end
  self.row = row
  return self.folder:append(row)
end

-- ---- evaluation ----------------------------------------------------------------------------

local function evaluation_due(options, step, epoch_ended)
  if not options.evaluate then return false end
  if options.evaluate_every == "epoch" then return epoch_ended end
  return step % options.evaluate_every == 0
end

local function by_options(given, default_dataset)
  local evaluation_options, dataset = {}, given.dataset or default_dataset
  for key, value in pairs(given) do
    if key ~= "dataset" then evaluation_options[key] = value end
  end
  evaluation.check(evaluation_options) -- now, not after an epoch
  return function(session) return evaluation.evaluate(session, dataset, evaluation_options) end
end

function Run:evaluate(step_event)
  local event = { step = step_event.step, epoch = step_event.epoch }
  self:tell("evaluation.start", {}, { step = event.step, epoch = event.epoch })
  local started = fs.clock()
  local ok, found, message, code = xpcall(self.evaluator, debug.traceback, self.session, event)
  if not ok then self:fail_in("evaluate", found) end
  if found == nil then return nil, message or "the evaluation returned nothing", code or "argument" end
  event.metrics = found.metrics or found
  self.evaluations[#self.evaluations + 1] = event
  local measurements = { seconds = fs.clock() - started }
  for name, value in pairs(event.metrics) do
    if type(value) == "number" then measurements[name] = value end
  end
  self:tell("evaluation.stop", measurements, {
    step = event.step, epoch = event.epoch, metrics = event.metrics, result = found,
  })
  ok, message, code = run_records.add_evaluation(self.folder.path, found, { step = event.step, epoch = event.epoch })
  if not ok then return nil, message, code end
  self:emit("on_evaluate", event)
  return true
end

-- ---- the run -------------------------------------------------------------------------------

-- What follows a step, in order, until something fails.
function Run:after(event)
  local ended = self:count(event)
  local ok, message, code = self:record(event)
  if not ok then return nil, message, code end
  self:raise_hook_failure(event.step)
  self:tell_step(event)
  self:emit("on_step_end", event)
  if ended then
    ended.metrics = self:metrics()
    self:tell("epoch.stop", { mean_loss = ended.mean_loss }, {
      epoch = ended.epoch, step = ended.step, metrics = ended.metrics,
    })
    self:emit("on_epoch_end", ended)
  end
  if evaluation_due(self.options, event.step, ended ~= nil) then
    ok, message, code = self:evaluate(event)
    if not ok then return nil, message, code end
  end
  local every = self.options.checkpoint_every
  if self.checkpoint_wanted or (every > 0 and event.step % every == 0) then
    self.checkpoint_wanted = false
    return self:save()
  end
  return true
end

--- One step: its event; nil at the end; nil, message, code when the run failed.
---@return table? event, string? message, string? code
function Run:advance()
  if self.finished then return nil end
  if self.stop_wanted or self.state.step >= self.plan.total_steps then
    local ok, message, code = self:finish()
    if not ok then return nil, message, code end
    return nil
  end
  local event, message, code = self:train_step()
  if not event then return self:give_up(message, code) end
  local ok
  ok, message, code = self:after(event)
  if not ok then return self:give_up(message, code) end
  if self.state.skipped_in_row >= training_loop.patience_nonfinite then
    return self:give_up(("%d steps in a row had a loss or gradient that is not finite (the last was step %d)"):format(
      self.state.skipped_in_row, event.step), "nonfinite")
  end
  return event
end

-- The run cannot go on: what it learnt is saved if that is still possible, and the reason passed up.
function Run:give_up(message, code)
  self.session:zero_gradients()
  self:save() -- best effort: what stopped the run may stop this too
  self:end_with(code == "nonfinite" and "stopped" or "failed", message)
  if not self.saved_step then return nil, message, code end
  return errors.failure(code, "%s; checkpoint step_%06d kept in %s", message, self.saved_step, self.folder.path)
end

local function best_path(self)
  local best = self.state.best and paths.join(self.folder.checkpoints, self.state.best.name)
  if best and paths.is_folder(best) then return best end
  local last = self.results.checkpoints[#self.results.checkpoints]
  return last and last.path
end

-- Closes the books: results and manifest.
function Run:end_with(status, reason)
  self.finished = true
  if self.points then self.points:close() end
  self.results = {
    status = status, reason = reason, total_steps = self.state.step, skipped_steps = self.state.skipped,
    metrics = self:metrics(), epochs = self.epochs_done, evaluations = self.evaluations, run_dir = self.folder.path,
    gate = self.plan.gate, checkpoints = checkpoints.list(self.folder.checkpoints) or {},
  }
  self.results.best_checkpoint = best_path(self)
  self.manifest.status, self.manifest.finished_at, self.manifest.results = status, experiment.now(), self.results
  local ok, message, code = self.folder:write_manifest(self.manifest)
  self:tell("training.stop", {
    total_steps = self.results.total_steps, skipped_steps = self.results.skipped_steps,
    seconds = fs.clock() - self.started,
  }, { status = status, reason = reason, results = self.results })
  return ok, message, code
end

--- Ends the run now: saves the final checkpoint, writes the manifest. `run` and `steps` do this.
---@return table? results, string? message, string? code
function Run:finish()
  if self.finished then return self.results end
  local ok, message, code = self:save()
  if not ok then return self:give_up(message, code) end
  local status, reason = "finished", nil
  if self.stop_wanted then status, reason = "stopped", self.stop_reason or "by a callback" end
  ok, message, code = self:end_with(status, reason)
  if not ok then return nil, message, code end
  self:emit("on_train_end", self.results)
  return self.results
end

Run.__close = function(self) self:finish() end

function Run:__tostring()
  return ("crucible.run(%s, step %d of %d)"):format(self.folder.path, self.state.step, self.plan.total_steps)
end

-- ---- starting ------------------------------------------------------------------------------

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
  if resume ~= true then return folder, checkpoints.locate(folder.checkpoints, resume) end
  local list
  list, message, code = checkpoints.list(folder.checkpoints)
  if not list then return nil, message, code end
  if #list == 0 then return errors.failure("not_found", "%s has no complete checkpoint to resume from", folder.path) end
  return folder, list[#list].path
end

local resumed_fields = { "step", "epoch", "index", "epoch_sum", "epoch_count", "skipped", "skipped_in_row", "best" }

-- Takes the run's place from a checkpoint's loop state.
local function restore(self, path, loop)
  if not loop or not loop.plan then
    return errors.failure("format", "%s was not saved by a training loop: there is nothing to resume", path)
  end
  local difference = self.plan:difference(loop.plan)
  if difference then return errors.failure("data", "cannot resume from %s: %s", path, difference) end
  local rows, message, code = self.folder:rewind(loop.step)
  if not rows then return nil, message, code end
  for i, row in ipairs(rows) do self.history[i] = remembered(row) end
  for _, field in ipairs(resumed_fields) do self.state[field] = loop[field] end
  self.saved_step, self.epochs_done = loop.step, json.array(loop.epochs_done)
  return true
end

local function load_place(self, path)
  local state, message, code = checkpoints.read(path)
  if not state then return nil, message, code end
  local ok
  ok, message, code = restore(self, path, state.loop)
  if ok then ok, message, code = self.session:load_checkpoint(path) end
  if not ok then return nil, message, code end
  return true
end

-- The callbacks that are told of every event.
local function reporters_in(callbacks)
  local list = {}
  for _, callback in ipairs(callbacks) do
    if callback.on_event then list[#list + 1] = callback end
  end
  return list
end

local function new_run(session, settled, options, evaluator, folder)
  local callbacks = flatten(views.reporters(options), flatten(options.callbacks, {}))
  return setmetatable({
    session = session, plan = settled, options = options, callbacks = callbacks, folder = folder, started = fs.clock(),
    channel = telemetry.channel({
      experiment_id = session.experiment_id, run_dir = folder.path, adapter_name = session.adapter_name,
    }, reporters_in(callbacks)),
    history = {}, evaluations = json.array {}, epochs_done = json.array {}, finished = false,
    state = { step = 0, epoch = 1, index = 0, epoch_sum = 0, epoch_count = 0, window_sum = 0, window_count = 0,
      skipped = 0, skipped_in_row = 0 },
    evaluator = evaluator,
  }, Run)
end

-- The places of gradient hooks in the steps of a run; false for a run without.
local function points_of(session, given)
  if not given.enable_gradient_hooks then return false end
  return gradient_points.new(session, given.gradient_hooks, given)
end

--- A run that stands before its first step (or, resumed, before the next): `run:advance()` makes
--- one step, `run:finish()` ends it, `run.results` is there afterwards.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table?
---@return crucible.lora.Run? run, string? message, string? code
function training_loop.start(session, dataset, options)
  local given = run_options:resolve(options)
  local evaluator = given.evaluate
  if type(evaluator) == "table" then evaluator = by_options(evaluator, dataset) end
  local settled, message, code = plan.make(session, dataset, given)
  if not settled then return nil, message, code end
  local points
  points, message, code = points_of(session, given)
  if points == nil then return nil, message, code end
  local folder, place
  folder, place, code = choose_folder(session, given)
  if not folder then return nil, place, code end
  local self = new_run(session, settled, given, evaluator, folder)
  self.points = points
  local ok
  if place then
    ok, message, code = load_place(self, place)
    if not ok then return nil, message, code end
  end
  session.run_dir = folder.path
  self.manifest, message, code = manifest.of(self)
  if not self.manifest then return nil, message, code end
  ok, message, code = folder:write_manifest(self.manifest)
  if not ok then return nil, message, code end
  self:tell("training.start", {
    total_steps = settled.total_steps, steps_per_epoch = settled.steps_per_epoch, epochs = settled.epochs,
    rows = #settled.datums, step = self.state.step,
  }, {
    manifest = self.manifest, config = settled.config, dataset = settled.dataset, gate = settled.gate,
    options = given, resumed = self.state.step > 0,
  })
  self:emit("on_train_begin", {
    run_dir = folder.path, total_steps = settled.total_steps, epochs = settled.epochs, gate = settled.gate,
    steps_per_epoch = settled.steps_per_epoch, dataset = settled.dataset, config = settled.config,
    step = self.state.step,
  })
  return self
end

--- Trains a session on a data set (a name, a path or a table of rows) and returns total_steps,
--- skipped_steps, metrics, epochs (mean losses), evaluations, checkpoints, best_checkpoint (a
--- path), run_dir, gate. Options: training_loop.help().
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
  local run, message, code = training_loop.start(session, dataset, options)
  if not run then return nil, message, code end
  local event
  repeat event, message, code = run:advance() until not event
  if message then return nil, message, code, run.results end
  return run.results
end

--- The same as an iterator: `for step in training_loop.steps(session, dataset, options) do … end`.
--- Leaving the loop early saves a final checkpoint and ends the run. A failure that would stop
--- `run` raises its message here; one before step 1 is returned as nil, message, code.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table?
---@return (fun(): table?)? next_step, string? message, string? code, crucible.lora.Run? closing
function training_loop.steps(session, dataset, options)
  local run, message, code = training_loop.start(session, dataset, options)
  if not run then return nil, message, code end
  local function next_step()
    local event, why = run:advance()
    if why then errors.raise("%s", why) end
    return event
  end
  return next_step, nil, nil, run
end

--- The options of run, as text.
---@return string
function training_loop.help() return run_options:help() end

return training_loop
