-- One run of the training loop, between its steps: what it has done, what it knows, where it is written.
-- training_loop makes runs; this file moves them forward.
--
--     advance → a step → counted → recorded → told → evaluated → saved → pruned
--
-- Whatever may differ between two runs that should end in the same bytes is in `state`, and `state` goes into
-- every checkpoint.
local checkpoints = require "crucible.lora.checkpoints"
local config = require "crucible.lora.config"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local flights = require "crucible.lora.flights"
local fs = require "crucible.fs"
local gradient_points = require "crucible.lora.gradient_points"
local history = require "crucible.lora.history"
local json = require "crucible.json"
local loss_functions = require "crucible.lora.loss_functions"
local paths = require "crucible.paths"
local run_records = require "crucible.lora.run_records"
local schedule = require "crucible.lora.schedule"
local schema = require "crucible.schema"
local selection = require "crucible.lora.selection"
local telemetry = require "crucible.telemetry"
local views = require "crucible.callbacks.views"

---@class crucible.lora.Run
---@field session crucible.Session
---@field plan crucible.lora.Plan
---@field folder crucible.lora.RunFolder
---@field state table    step, epoch, index (steps done in the epoch), best, stopping, sums; of checkpoints
---@field results table?  once the run has ended
local Run = { __name = "crucible.run" }
Run.__index = Run

local run = {}

--- Skipped steps in a row that end a run.
run.patience_nonfinite = 3

local function is_finite(value) return value == value and value ~= math.huge and value ~= -math.huge end

local function mean_or_nil(sum, count)
  if count > 0 then return sum / count end
end

local function step_name(step) return ("step_%06d"):format(step) end

-- ---- making --------------------------------------------------------------------------------

-- A list of callback tables out of one table with both kinds of keys.
local function flatten(callbacks, list)
  list[#list + 1] = callbacks
  for _, inner in ipairs(callbacks) do flatten(inner, list) end
  return list
end

-- The callbacks that are told of every event.
local function reporters_in(callbacks)
  local list = {}
  for _, callback in ipairs(callbacks) do
    if callback.on_event then list[#list + 1] = callback end
  end
  return list
end

--- A run before its first step.
---@param fields table  session, plan, options, folder, rules, evaluator?, points?, signals?
---@return crucible.lora.Run
function run.new(fields)
  local self = setmetatable(fields, Run)
  self.callbacks = flatten(views.reporters(self.options), flatten(self.options.callbacks, {}))
  self.channel = telemetry.channel({
    experiment_id = self.session.experiment_id, run_dir = self.folder.path, adapter_name = self.session.adapter_name,
  }, reporters_in(self.callbacks))
  self.history, self.remember = history.new()
  self.evaluations, self.epochs_done = json.array {}, json.array {}
  self.started, self.finished, self.flights = fs.clock(), false, {}
  self.state = {
    step = 0, epoch = 1, index = 0, epoch_sum = 0, epoch_count = 0, skipped = 0, skipped_in_row = 0,
    window_sum = 0, window_count = 0, reward_sum = 0, reward_count = 0, stopping = { waited = 0 },
  }
  return self
end

-- ---- state ---------------------------------------------------------------------------------

function Run:metrics() return require("crucible.lora").calculate_metrics(self.history) end

-- What of a checkpoint's measurements is known at this step.
function Run:measured_now()
  local s, metrics = self.state, {}
  local latest = self.evaluations[#self.evaluations]
  if latest and latest.step == s.step then
    for name, value in pairs(latest.metrics) do
      if type(value) == "number" then metrics[name] = value end
    end
  end
  metrics.mean_loss = mean_or_nil(s.window_sum, s.window_count)
  if self.plan.training_metric then
    metrics[self.plan.training_metric] = mean_or_nil(s.reward_sum, s.reward_count)
  end
  return metrics
end

-- What callbacks keep across an interruption: those that have state() say it, restore(it) hears of it.
local function callback_states(list)
  local states = {}
  for i, callback in ipairs(list) do
    if callback.state then states[tostring(i)] = callback.state() end
  end
  return next(states) and states or nil
end

local function numbers_of(evaluations)
  local list = json.array {}
  for i, event in ipairs(evaluations) do
    local metrics = {}
    for name, value in pairs(event.metrics) do
      if type(value) == "number" then metrics[name] = value end
    end
    list[i] = { step = event.step, epoch = event.epoch, metrics = metrics }
  end
  return list
end

-- Where the run stands, for trainer_state.json.
function Run:loop_state(metrics)
  local s = self.state
  return {
    step = s.step, epoch = s.epoch, index = s.index, epoch_sum = s.epoch_sum, epoch_count = s.epoch_count,
    mean_loss = metrics.mean_loss, metrics = metrics, skipped = s.skipped, skipped_in_row = s.skipped_in_row,
    best = s.best, stopping = s.stopping, epochs_done = self.epochs_done, evaluations = numbers_of(self.evaluations),
    plan = self.plan:identity(), hooks = self.points and self.points.hooks:state() or nil,
    callbacks = callback_states(self.callbacks), rng = { seed = self.session.seed, order_seed = self.plan.seed },
    schedule = { total_steps = self.plan.total_steps }, pending_evaluation = self.pending,
  }
end

local resumed_fields = { "step", "epoch", "index", "epoch_sum", "epoch_count", "skipped", "skipped_in_row", "best",
  "stopping" }

local function restore_callbacks(list, states)
  for i, callback in ipairs(list) do
    local state = states[tostring(i)]
    if callback.restore and state ~= nil then callback.restore(state) end
  end
end

--- Takes the run's place from a checkpoint's loop state.
---@param path string  of the checkpoint, for messages
---@param loop table?
---@return true? ok, string? message, string? code
function Run:restore(path, loop)
  if not loop or not loop.plan then
    return errors.failure("format", "%s was not saved by a training loop: there is nothing to resume", path)
  end
  local difference = self.plan:difference(loop.plan)
  if difference then return errors.failure("data", "cannot resume from %s: %s", path, difference) end
  local rows, message, code = self.folder:rewind(loop.step)
  if not rows then return nil, message, code end
  for _, row in ipairs(rows) do self.remember(row) end
  for _, field in ipairs(resumed_fields) do
    if loop[field] ~= nil then self.state[field] = loop[field] end
  end
  self.saved_step, self.epochs_done = loop.step, json.array(loop.epochs_done)
  self.evaluations = json.array(loop.evaluations or {})
  self.best_saved, self.pending, self.missed = self.state.best, loop.pending_evaluation, loop.pending_evaluation
  local rule = self.rules.stopping
  if rule and self.state.stopping.waited >= rule.patience then self:stop "early stopping, before it was resumed" end
  if self.points and loop.hooks then self.points.hooks:restore(loop.hooks) end
  restore_callbacks(self.callbacks, loop.callbacks or {})
  return true
end

-- ---- callbacks and events ------------------------------------------------------------------

-- The checkpoint of the last save, if it is still there, for messages.
function Run:kept()
  local name = self.saved_step and step_name(self.saved_step)
  if name and paths.is_folder(paths.join(self.folder.checkpoints, name)) then return name end
end

-- Something of the user's raised: the last whole step is saved, so that the run can go on from there once
-- the fault is mended, and the run ends. `step` is the one it raised in, default the last whole one.
function Run:fail_in(what, trace, step)
  self.failing = true
  local place = ""
  if not self.finished then
    self:save() -- best effort: the fault is what is told
    local kept = self:kept()
    place = kept and (", checkpoint %s kept"):format(kept) or ""
    self:tell("training.exception", {}, { step = step or self.state.step, what = what, message = trace })
    self:end_with("failed", what .. " failed")
  end
  error(("training_loop: %s failed at step %d%s: %s"):format(what, step or self.state.step, place, trace), 0)
end

--- Tells reporters and what is attached to crucible.telemetry. A reporter that raises ends the run, unless
--- it is ending for such a reason already.
---@param name string
---@param measurements table<string, number>
---@param metadata table
function Run:tell(name, measurements, metadata)
  if not self.channel:listened(name) then return end
  local ok, trace = xpcall(self.channel.emit, errors.traceback, self.channel, name, measurements, metadata)
  if not ok and not self.failing then self:fail_in("on_event (" .. name .. ")", trace) end
end

function Run:emit(event, payload)
  if self.failing then return end
  for _, callbacks in ipairs(self.callbacks) do
    local callback = callbacks[event]
    if callback then
      local ok, answer = xpcall(callback, errors.traceback, payload)
      if not ok then self:fail_in(event, answer) end
      if answer == "stop" then self:stop "by a callback" end
      if answer == "checkpoint" then self.checkpoint_wanted = true end
    end
  end
end

-- Asks for the run's end after this step; the first reason counts.
function Run:stop(reason, status)
  if self.stop_wanted then return end
  self.stop_wanted, self.stop_reason, self.stop_status = true, reason, status or "stopped"
end

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

-- ---- saving --------------------------------------------------------------------------------

function Run:tell_saved(saved, metrics, started)
  local s = self.state
  self:tell("checkpoint.saved", { seconds = fs.clock() - started }, {
    name = saved.name, path = saved.path, step = s.step, epoch = self.event_epoch, metrics = metrics,
    best = s.best ~= nil and s.best.name == saved.name,
  })
  self:emit("on_checkpoint", {
    name = saved.name, path = saved.path, step = s.step, epoch = self.event_epoch, metrics = metrics,
  })
end

-- A checkpoint could not be written: the best is again the one that exists.
function Run:save_failed(name, started, message, code)
  self.state.best = self.best_saved
  self:tell("checkpoint.failed", { seconds = fs.clock() - started }, {
    name = name, step = self.state.step, epoch = self.event_epoch, message = message, code = code,
  })
  return nil, message, code
end

-- Makes a value the best so far if it is; the checkpoint of this step will carry it.
function Run:judge(metrics)
  local rule, s = self.rules.best, self.state
  local value = metrics[rule.metric]
  if not value or not selection.better(value, s.best and s.best.value, rule.direction) then return false end
  s.best = { name = step_name(s.step), step = s.step, metric = rule.metric, value = value }
  return true
end

function Run:prune()
  local options, rule = self.options, self.rules.best
  if not options.keep_last and not options.keep_best then return true end
  local removed, message, code = checkpoints.prune(self.folder.checkpoints, {
    keep_last = options.keep_last, keep_best = options.keep_best, metric = rule.metric, direction = rule.direction,
    keep = { self.state.best and self.state.best.name },
  })
  if not removed then return nil, message, code end
  for _, checkpoint in ipairs(removed) do
    self:tell("checkpoint.pruned", {}, { name = checkpoint.name, path = checkpoint.path, step = checkpoint.step })
  end
  return true
end

-- The folder may have been moved or removed meanwhile. That is told, and a run that is to go on makes it anew
-- for the checkpoints to come.
function Run:check_folder()
  if paths.is_folder(self.folder.path) then return true end
  if self.options.on_save_error == "continue" then fs.make_folder(self.folder.checkpoints) end
  return errors.failure("not_found", "%s: the folder of the run is gone", self.folder.path)
end

-- Saves a checkpoint of this step unless there is one.
function Run:save()
  local s = self.state
  if self.saved_step == s.step or s.step == 0 then return true end
  local name, started, metrics = step_name(s.step), fs.clock(), self:measured_now()
  flights.drop(self) -- some only where the run ends in a fault
  local there, missing, why = self:check_folder()
  if not there then return self:save_failed(name, started, missing, why) end
  -- Known before the state that records it is written.
  if self:is_trained(self.rules.best.metric) then self:judge(metrics) end
  local ok, saved, message, code = xpcall(function()
    return self.session:save_checkpoint(name, { folder = self.folder.checkpoints, loop = self:loop_state(metrics) })
  end, errors.traceback)
  if not ok and self.failing then return nil, saved, "argument" end
  if not ok then return self:fail_in("state", saved) end -- of a callback or hook
  if not saved then return self:save_failed(name, started, message, code) end
  self.saved_step, self.best_saved = s.step, s.best
  s.window_sum, s.window_count, s.reward_sum, s.reward_count = 0, 0, 0, 0
  self:tell_saved(saved, metrics, started)
  return self:prune()
end

-- A failure to write, as on_save_error has it: passed up, or told and borne.
function Run:bear(ok, message, code)
  if ok or self.options.on_save_error == "continue" then return true end
  return nil, message, code
end

-- ---- one step ------------------------------------------------------------------------------

local function add_numbers(into, from)
  for name, value in pairs(from) do into[name] = (into[name] or 0) + value end
end

local function add_tallies(into, from)
  for name, tally in pairs(from) do
    local sum = into[name] or { sum = 0, count = 0 }
    into[name] = { sum = sum.sum + tally.sum, count = sum.count + tally.count }
  end
end

-- What the batches of a step have found, as one; the loss is the mean over the whole step.
local function total_of(results, more)
  local total = { loss = 0, components = {}, tokens = 0, supervised = 0, rollouts = more and more.rollouts }
  local tallies, shares = {}, {}
  for _, found in ipairs(results) do
    total.loss = total.loss + found.loss
    total.tokens, total.supervised = total.tokens + found.tokens, total.supervised + found.supervised
    add_numbers(total.components, found.components)
    add_tallies(tallies, found.tallies or {})
    shares = found.gradients or shares -- of all batches so far
  end
  for name, tally in pairs(tallies) do
    total.components[name] = tally.count > 0 and tally.sum / tally.count or nil
  end
  for name, share in pairs(shares) do
    total.components[name .. ".gradient_norm"], total.components[name .. ".gradient_cosine"] = share.norm, share.cosine
  end
  add_numbers(total.components, more and more.components or {})
  return total
end

-- Gradients of all batches of a step.
function Run:accumulate(epoch, index, step)
  local batches, counts, more = self.plan:step(epoch, index, step)
  if not batches then return nil, counts, more end
  local results = {}
  for i, batch in ipairs(batches) do
    local found, message, code = self.session:forward_backward(batch, self.plan.loss, { counts = counts })
    if not found then return nil, message, code end
    results[i] = found
  end
  return total_of(results, more)
end

-- Calls a method in which functions of the user's run. One that raises ends the run, with the step named.
function Run:guarded(step, method, ...)
  local ok, found, message, code = xpcall(method, errors.traceback, self, ...)
  if ok then return found, message, code end
  self.session:zero_gradients()
  return self:fail_in(self.plan.what or ('loss "%s"'):format(self.plan.loss.name), found, step)
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
  if stopped_by then self:stop(('by gradient hook "%s"'):format(stopped_by)) end
  self.hook_failure = hooked.failure
  if event.skipped then self:raise_hook_failure(event.step) end
end

function Run:raise_hook_failure(step)
  local failure = self.hook_failure
  if not failure then return end
  self:fail_in(('gradient hook "%s" (%s)'):format(failure.hook, failure.point), failure.message, step)
end

-- What is told of a step.
local function event_of(self, place, total, update, lr, seconds)
  return {
    step = place.step, epoch = place.epoch, loss = total.loss, components = total.components, lr = lr,
    grad_norm = update.grad_norm, update_norm = update.update_norm, skipped = update.skipped, tokens = total.tokens,
    supervised = total.supervised, seconds = seconds, tokens_per_s = total.tokens / seconds,
    timestamp = experiment.now(), total_steps = self.plan.total_steps, rollouts = total.rollouts,
  }
end

-- A step of those under way.
function Run:land_step()
  local landed, message, code = flights.land(self)
  if not landed then return nil, message, code end
  local flight = landed.flight
  local total = total_of(landed.results, flight.more)
  local event = event_of(self, flight.place, total, landed.update, flight.lr, landed.seconds)
  self:finish_hooks(nil, event)
  return event
end

function Run:train_step()
  if flights.possible(self) then return self:land_step() end
  local s, started = self.state, fs.clock()
  local epoch, step = s.epoch, s.step + 1
  if s.index == 0 then self:tell("epoch.start", {}, { epoch = epoch }) end
  self:tell("step.start", {}, { step = step, epoch = epoch })
  local total, message, code = self:guarded(step, self.accumulate, epoch, s.index + 1, step)
  if not total then return nil, message, code end
  local lr = schedule.learning_rate(self.plan.config, step, self.plan.total_steps)
  local update
  local hooked = self:hook_info(step, total, lr)
  update, message, code = self:guarded(step, self.update, total, lr, hooked)
  if not update then return nil, message, code end
  local event = event_of(self, { step = step, epoch = epoch }, total, update, lr, fs.clock() - started)
  self:finish_hooks(hooked, event)
  return event
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
    local reward = self.plan.training_metric and event.components[self.plan.training_metric]
    if reward then s.reward_sum, s.reward_count = s.reward_sum + reward, s.reward_count + 1 end
  end
  self.remember(event)
  if s.index < self.plan:steps_in(s.epoch) then return nil end
  local ended = { epoch = event.epoch, step = event.step, mean_loss = mean_or_nil(s.epoch_sum, s.epoch_count) }
  self.epochs_done[#self.epochs_done + 1] = { epoch = ended.epoch, mean_loss = ended.mean_loss }
  s.epoch, s.index, s.epoch_sum, s.epoch_count = s.epoch + 1, 0, 0, 0
  return ended
end

local telemetry_fields = {
  "step", "epoch", "loss", "components", "lr", "grad_norm", "update_norm", "skipped", "tokens", "supervised", "seconds",
  "tokens_per_s", "timestamp",
}

function Run:record(event)
  local row = {}
  for _, field in ipairs(telemetry_fields) do row[field] = event[field] end
  if self.points then row.hooks = self.points:telemetry(event) end
  self.row = row
  local ok, message, code = self.folder:append(row)
  if not ok then self:tell("telemetry.failed", {}, { step = event.step, message = message, code = code }) end
  return self:bear(ok, message, code)
end

-- ---- evaluation ----------------------------------------------------------------------------

local function evaluation_due(options, step, epoch_ended)
  if not options.evaluate then return false end
  if options.evaluate_every == "epoch" then return epoch_ended end
  return step % options.evaluate_every == 0
end

-- Whether the steps themselves measure a metric.
function Run:is_trained(metric)
  return metric == selection.training_loss or metric == self.plan.training_metric
end

-- Patience: ends the run when a metric has not improved for long enough.
function Run:watch_progress(metric_values, step)
  local rule, seen = self.rules.stopping, self.state.stopping
  local value = rule and metric_values[rule.metric]
  if type(value) ~= "number" then return end
  if not selection.note(rule, seen, value, step) then return end
  self:stop(("early stopping: %s has not improved %d times running%s"):format(rule.metric, seen.waited,
    seen.value and (", best %.6g at step %d"):format(seen.value, seen.step) or ""))
end

function Run:check_measured(metrics)
  for what, rule in pairs { best = self.rules.best, early_stopping = self.rules.stopping } do
    if not self:is_trained(rule.metric) and type(metrics[rule.metric]) ~= "number" then
      local names = {}
      for name in pairs(metrics) do names[#names + 1] = tostring(name) end
      table.sort(names)
      return errors.failure("argument", '%s: the evaluation did not measure "%s"; it measured: %s', what, rule.metric,
        table.concat(names, ", "))
    end
  end
  return true
end

-- Runs the evaluator where a signal may cut it short.
function Run:call_evaluator(event)
  local watched = self.signals
  if watched then watched:cancels(self.session) end
  local ok, found, message, code = xpcall(self.evaluator, errors.traceback, self.session, event,
    self.plan.evaluation_loss or self.plan.loss)
  if watched then watched:cancels(nil) end
  if not ok then self:fail_in("evaluate", found) end
  if found == nil then return nil, message or "the evaluation returned nothing", code or "argument" end
  return found
end

function Run:evaluate(step_event)
  local event, started = { step = step_event.step, epoch = step_event.epoch }, fs.clock()
  self.pending = { step = event.step, epoch = event.epoch }
  self:tell("evaluation.start", {}, { step = event.step, epoch = event.epoch })
  local found, message, code = self:call_evaluator(event)
  if not found then
    if code == "cancelled" and self:interrupted() then return true end
    return nil, message, code
  end
  event.metrics = found.metrics or found
  local ok
  ok, message, code = self:check_measured(event.metrics)
  if not ok then return nil, message, code end
  self.evaluations[#self.evaluations + 1], self.pending = event, nil
  if not self:is_trained(self.rules.best.metric) and self:judge(event.metrics) then
    self.checkpoint_wanted = true
  end
  self:watch_progress(event.metrics, event.step)
  return self:tell_evaluation(event, found, fs.clock() - started)
end

function Run:tell_evaluation(event, found, seconds)
  local measurements = { seconds = seconds }
  for name, value in pairs(event.metrics) do
    if type(value) == "number" then measurements[name] = value end
  end
  self:tell("evaluation.stop", measurements, {
    step = event.step, epoch = event.epoch, metrics = event.metrics, result = found,
  })
  local ok, message, code = run_records.add_evaluation(self.folder.path, found, {
    step = event.step, epoch = event.epoch,
  })
  ok, message, code = self:bear(ok, message, code)
  if not ok then return nil, message, code end
  self:emit("on_evaluate", event)
  return true
end

-- ---- samples -------------------------------------------------------------------------------

-- Texts for the run's prompts by a session, told and kept.
function Run:sample(moment, session)
  local samples, watched = self.samples, self.signals
  if not samples then return true end
  local step = moment == "best" and self.state.best.step or self.state.step
  if watched then watched:cancels(session or self.session) end
  local entry, seconds, code = samples:take(session or self.session, self.folder.path, {
    step = step, epoch = self.event_epoch or self.state.epoch, moment = moment,
  })
  if watched then watched:cancels(nil) end
  if not entry and code == "cancelled" and self:interrupted() then return true end
  if not entry then return self:bear(nil, seconds, code) end
  self:tell("samples.stop", { seconds = seconds }, entry)
  return true
end

-- Those of the end: of the last state and, if it is another, the best.
function Run:sample_last()
  local ok, message, code = self:sample "last"
  local best = self.state.best
  if not ok or not self.samples or not best or best.step == self.state.step or self.stop_status == "interrupted" then
    return ok, message, code
  end
  local session
  session, message, code = self.session:open_checkpoint(paths.join(self.folder.checkpoints, best.name))
  if not session then return self:bear(nil, message, code) end
  local guard <close> = session
  return self:sample("best", guard)
end

-- ---- the run -------------------------------------------------------------------------------

function Run:end_epoch(ended)
  ended.metrics = self:metrics()
  if self.rules.stopping and self.rules.stopping.metric == selection.training_loss then
    self:watch_progress({ mean_loss = ended.mean_loss }, ended.step)
  end
  self:tell("epoch.stop", { mean_loss = ended.mean_loss }, {
    epoch = ended.epoch, step = ended.step, metrics = ended.metrics,
  })
  self:emit("on_epoch_end", ended)
end

-- What follows a step, in order, until something fails.
function Run:after(event)
  local ended = self:count(event)
  local ok, message, code = self:record(event)
  if not ok then return nil, message, code end
  self:raise_hook_failure(event.step)
  self:tell_step(event)
  self:emit("on_step_end", event)
  if ended then self:end_epoch(ended) end
  if evaluation_due(self.options, event.step, ended ~= nil) then
    ok, message, code = self:evaluate(event)
    if ok and event.step < self.plan.total_steps then ok, message, code = self:sample "training" end
    if not ok then return nil, message, code end
  end
  local every = self.options.checkpoint_every
  if #self.flights > 0 then return true end -- a checkpoint that is wanted waits for what is under way
  if self.checkpoint_wanted or (every > 0 and event.step % every == 0) then
    self.checkpoint_wanted = false
    return self:bear(self:save())
  end
  return true
end

-- Whether a signal came; the run then ends after this step.
function Run:interrupted()
  local signal = self.signals and self.signals:pending()
  if signal then self:stop(signal, "interrupted") end
  return signal ~= nil
end

-- Whether the run is to end before another step.
function Run:is_over()
  self:interrupted()
  if #self.flights > 0 then return false end -- what was begun is finished
  local limit = self.options.max_time
  if limit and fs.clock() - self.started >= limit then self:stop(("max_time of %g s"):format(limit)) end
  return self.stop_wanted or self.state.step >= self.plan.total_steps
end

-- An evaluation that an earlier run was ended in is made before the next step, as if it had never been.
function Run:catch_up()
  local missed = self.missed
  self.missed = nil
  if not missed or not self.evaluator then return true end
  local ok, message, code = self:evaluate(missed)
  if not ok then return nil, message, code end
  if not self.checkpoint_wanted then return true end
  self.checkpoint_wanted, self.saved_step = false, nil
  return self:bear(self:save())
end

-- What keeps a step from being made: the end of the run, or, cancelled while it may pause, nothing but a wait: the step
-- is made again, to the same bytes.
function Run:hold_up(message, code)
  if code ~= "cancelled" or not self.may_pause then return self:give_up(message, code) end
  self.session:zero_gradients()
  self.missed = self.pending or self.missed
  return nil, message, code
end

--- One step: its event; nil at the end; nil, message, code when the run failed.
---@return table? event, string? message, string? code
function Run:advance()
  if self.finished then return nil end
  local ok, message, code = self:catch_up()
  if not ok then return self:hold_up(message, code) end
  if self:is_over() then
    ok, message, code = self:finish()
    if not ok then return nil, message, code end
    return nil
  end
  if self.session.cancelled and self.session:cancelled() then
    return self:hold_up("the session was cancelled", "cancelled")
  end
  local event
  event, message, code = self:train_step()
  if not event then return self:hold_up(message, code) end
  ok, message, code = self:after(event)
  if not ok then return self:hold_up(message, code) end
  if self.state.skipped_in_row >= run.patience_nonfinite then
    return self:give_up(("%d steps in a row had a loss or gradient that is not finite (the last was step %d)"):format(
      self.state.skipped_in_row, event.step), "nonfinite")
  end
  return event
end

--- Some steps, for the prompt: the event of the last one; nil at the run's end. Cancelled (Ctrl-C at the prompt) it
--- returns nil, message, "cancelled" between two steps, and `go` goes on from there.
---@param steps integer?  1
---@return table? event, string? message, string? code
function Run:go(steps)
  if steps ~= nil and (math.type(steps) ~= "integer" or steps < 1) then
    errors.raise("run:go: expected a number of steps of at least 1, got %s", schema.show(steps))
  end
  self.may_pause = true
  local last
  for _ = 1, steps or 1 do
    local event, message, code = self:advance()
    if message then
      self.may_pause = false
      return nil, message, code
    end
    if not event then break end
    last = event
  end
  self.may_pause = false
  return last
end

-- Fields of the config that the model, the data and their order do not depend on.
local fixed = { seed = true, grad_accumulation = true, max_length = true, truncation = true, quality_targets = true }

local function change_entries()
  local list = {
    { name = "loss_fn", check = schema.either(schema.nonempty_string, schema.table), doc = "another loss" },
  }
  for _, entry in ipairs(config.options.entries) do
    if entry.scope ~= "model" and not fixed[entry.name] then
      list[#list + 1] = { name = entry.name, check = entry.check, doc = entry.doc }
    end
  end
  return list
end

local change_options = schema.new("run:change", change_entries())

-- The loss of a changed run, if its rows have what it reads.
local function other_loss(self, loss_fn)
  local registry = self.session.loss_functions or loss_functions
  local loss = registry.resolve(loss_fn)
  loss_functions.check_dataset(loss, self.plan.dataset and self.plan.dataset.name)
  local ok, message, code = loss_functions.check(loss, self.plan.datums)
  if not ok then return nil, message, code end
  if self.session.check_loss then self.session:check_loss(loss, self.plan.datums) end
  return loss
end

--- Changes the learning rate, its schedule, the optimiser's settings or the loss from the next step on. The manifest
--- keeps a note of each change; what is resumed must be given the loss that it had at its checkpoint.
---@param changes table  loss_fn, and fields of the config that the model does not depend on
---@return crucible.lora.Run? run, string? message, string? code
function Run:change(changes)
  local given = change_options:resolve(changes)
  local settings, note = config.plain(self.plan.config), { step = self.state.step }
  if given.loss_fn ~= nil then
    local loss, message, code = other_loss(self, given.loss_fn)
    if not loss then return nil, message, code end
    self.plan.loss, note.loss = loss, loss.name
  end
  for name, value in pairs(given) do
    if name ~= "loss_fn" then settings[name], note[name] = value, value end
  end
  flights.drop(self) -- what is under way was begun as things were
  self.plan.config = config.new(settings)
  self.manifest.changes = json.array(self.manifest.changes or {})
  table.insert(self.manifest.changes, note)
  local ok, message, code = self:bear(self.folder:write_manifest(self.manifest))
  if not ok then return nil, message, code end
  return self
end

local status_of_code = { nonfinite = "stopped", cancelled = "interrupted" }

-- The run cannot go on: what it learnt is saved if that is still possible, and the reason passed up.
function Run:give_up(message, code)
  self.session:zero_gradients()
  self:save() -- best effort: what stopped the run may stop this too
  self:end_with(status_of_code[code] or "failed", message)
  local kept = self:kept()
  if not kept then return nil, message, code end
  return errors.failure(code, "%s; checkpoint %s kept in %s", message, kept, self.folder.path)
end

local function best_path(self)
  local best = self.state.best and paths.join(self.folder.checkpoints, self.state.best.name)
  if best and paths.is_folder(best) then return best end
  local last = self.results.checkpoints[#self.results.checkpoints]
  return last and last.path
end

-- What results print as.
local Results = { __name = "crucible.results" }

function Results.__tostring(results)
  local lines = {
    ("%s after %d %s%s"):format(results.status, results.total_steps, results.total_steps == 1 and "step" or "steps",
      results.reason and " (" .. tostring(results.reason) .. ")" or ""),
    "run folder       " .. results.run_dir,
  }
  local metrics = results.metrics
  if metrics.mean_loss then
    lines[#lines + 1] = ("mean loss        %.4f, last %.4f"):format(metrics.mean_loss, metrics.final_loss)
  end
  if results.best_checkpoint then lines[#lines + 1] = "best checkpoint  " .. results.best_checkpoint end
  return table.concat(lines, "\n")
end

function Run:results_of(status, reason)
  local incidents = self.session.incidents
  return setmetatable({
    incidents = incidents and #incidents > 0 and json.array(incidents) or nil,
    status = status, reason = reason, total_steps = self.state.step, skipped_steps = self.state.skipped,
    metrics = self:metrics(), epochs = self.epochs_done, evaluations = self.evaluations, run_dir = self.folder.path,
    gate = self.plan.gate, checkpoints = checkpoints.list(self.folder.checkpoints) or {}, best = self.state.best,
    seconds = fs.clock() - self.started, exit_code = status == "interrupted" and 130 or status == "failed" and 1 or 0,
  }, Results)
end

-- Closes the books: results and manifest.
function Run:end_with(status, reason)
  self.finished = true
  if self.points then self.points:close() end
  self.results = self:results_of(status, reason)
  self.results.best_checkpoint = best_path(self)
  if self.owns_signals then self.signals:close() end
  self.manifest.status, self.manifest.finished_at, self.manifest.results = status, experiment.now(), self.results
  local ok, message, code = self.folder:write_manifest(self.manifest)
  self:tell("training.stop", {
    total_steps = self.results.total_steps, skipped_steps = self.results.skipped_steps, seconds = self.results.seconds,
  }, { status = status, reason = reason, results = self.results })
  return self:bear(ok, message, code)
end

--- Ends the run now: saves the final checkpoint, writes the manifest. `run` and `steps` do this.
---@return table? results, string? message, string? code
function Run:finish()
  if self.finished then return self.results end
  local ok, message, code = self:save()
  if ok and self.stop_status ~= "interrupted" then ok, message, code = self:sample_last() end
  if not ok then return self:give_up(message, code) end
  ok, message, code = self:end_with(self.stop_status or "finished", self.stop_reason)
  if not ok then return nil, message, code end
  self:emit("on_train_end", self.results)
  return self.results
end

Run.__close = function(self) self:finish() end

function Run:__tostring()
  return ("crucible.run(%s, step %d of %d)"):format(self.folder.path, self.state.step, self.plan.total_steps)
end

return run
