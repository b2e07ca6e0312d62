-- A run with everything in its folder, for scripts/check_tensorboard and scripts/check_report.
--
--     lua5.4 scripts/views/make_run.lua FOLDER [--model NAME] [--steps N] [--name NAME] [--seed N] …
--
-- Gradient hooks, an evaluation before, within and after training, TensorBoard files, CSV and the report; with
-- --stop-at N it stops there and goes on from its checkpoint. Prints the run's folder.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local run_records = require "crucible.lora.run_records"
local schema = require "crucible.schema"
local lora = crucible.lora

local options = schema.new("make_run", {
  { name = "folder", positional = true, required = true, check = schema.nonempty_string, doc = "for run folders" },
  { name = "model", default = "spec/fixtures/tiny/tiny.gguf", check = schema.string, doc = "name or path" },
  { name = "steps", default = 12, check = schema.integer { min = 1 }, doc = "optimiser steps" },
  { name = "stop_at", check = schema.integer { min = 1 }, doc = "stop after this step and go on" },
  { name = "evaluate_every", default = 4, check = schema.integer { min = 1 }, doc = "steps between evaluations" },
  { name = "limit_dev", default = 8, check = schema.integer { min = 1 }, doc = "rows of an evaluation" },
  { name = "name", default = "everything", check = schema.nonempty_string, doc = "of the run" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 2, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "learning_rate", default = 2e-4, check = schema.number { above = 0 }, doc = "peak rate" },
})
local given, problem = arguments.parse(options, arg)
if not given then
  io.stderr:write("make_run: ", problem, "\n")
  os.exit(2)
end

local config = lora.config.new {
  base_model = given.model, lora_rank = 16, learning_rate = given.learning_rate, warmup_steps = given.steps // 4,
  schedule = "cosine", threads = given.threads, quality_targets = { accuracy = 0.60, f1 = 0.50 },
}
local dev = { mode = "both", limit = given.limit_dev, metrics = { "accuracy", "f1", "precision", "recall" } }

local function train(session, more)
  local run_options = {
    max_steps = given.steps, checkpoint_every = math.max(1, given.steps // 3), enable_gradient_hooks = true,
    gradient_hooks = { "norm", "distribution", "flow", "health", "updates", "cosine" }, samples = 2,
    evaluate = { mode = dev.mode, limit = dev.limit, metrics = dev.metrics },
    evaluate_every = given.evaluate_every, tensorboard = true, csv = true, report = true,
  }
  for key, value in pairs(more) do run_options[key] = value end
  return assert(lora.training_loop.run(session, "scifact", run_options))
end

local function with_base(fields)
  for key, value in pairs(dev) do fields[key] = value end
  return fields
end

local session <close> = assert(lora.create_session {
  config = config, seed = given.seed, runs = given.folder, experiment_id = given.name,
})
local before = assert(lora.evaluation.evaluate(session, "scifact", with_base { base = true }))
local results = train(session, { callbacks = { on_step_end = function(event)
  if event.step == given.stop_at then return "stop" end
end } })
if given.stop_at then results = train(session, { resume = true }) end
local after = assert(lora.evaluation.evaluate(session, "scifact", with_base { checkpoint = results.best_checkpoint }))
assert(run_records.add_evaluation(results.run_dir, before, { step = 0, moment = "before" }))
assert(run_records.add_evaluation(results.run_dir, after, { step = results.total_steps, moment = "best" }))
print(results.run_dir)
