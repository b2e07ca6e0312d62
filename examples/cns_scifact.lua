-- Claims, relations and citations out of SciFact's abstracts: the complete use of the training interface. Losses of the
-- argument graph, of dialectical balance and of citations beside cross-entropy; gradients looked at in every step;
-- the best checkpoint evaluated and held against quality targets.
--
--     lua5.4 examples/cns_scifact.lua [--steps N] [--epochs N] [--batch-size N] [--limit-dev N] …
--
-- You will see the run's progress, what gradient hooks find, and the table of metrics on the dev split. Ctrl-C
-- finishes the step, saves, and says how to go on (--resume). --help lists the options.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"
local lora = crucible.lora

local options = schema.new("cns_scifact", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "steps", check = schema.integer { min = 1 }, doc = "optimiser steps at most" },
  { name = "epochs", check = schema.integer { min = 1 },
    doc = "times through the 505 rows; default: 5, or what steps takes" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "learning_rate", default = 1e-4, check = schema.number { above = 0 }, doc = "peak rate" },
  { name = "rank", default = 16, check = schema.integer { min = 1 }, doc = "rank of the lora" },
  { name = "warmup", default = 20, check = schema.integer { min = 0 }, doc = "steps over which the rate rises" },
  { name = "distractors", default = 0, check = schema.integer { min = 0 },
    doc = "abstracts in each prompt that are no evidence" },
  { name = "max_length", check = schema.integer { min = 32 }, doc = "longest row in tokens" },
  { name = "checkpoint_every", default = 100, check = schema.integer { min = 0 }, doc = "steps between checkpoints" },
  { name = "limit", check = schema.integer { min = 1 }, doc = "training rows at most" },
  { name = "limit_dev", check = schema.integer { min = 1 }, doc = "dev rows at most; default: all 188" },
  { name = "max_tokens", default = 256, check = schema.integer { min = 1 }, doc = "of a generated answer" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "experiment", check = schema.nonempty_string, doc = "name of the run folder; default: a new id" },
  { name = "resume", default = false, check = schema.boolean, doc = "go on with --experiment where it was" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "cns_scifact: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

local config = lora.config.new {
  base_model = given.model, lora_rank = given.rank, learning_rate = given.learning_rate, warmup_steps = given.warmup,
  threads = given.threads, max_length = given.max_length,
}
local session <close> = assert(lora.create_session {
  config = config, adapter = "local", seed = given.seed, runs = given.runs, experiment_id = given.experiment,
})

lora.loss_functions.register_topological_loss()
lora.loss_functions.register_chirality_loss()
lora.loss_functions.register_citation_loss()
local cns_loss = lora.loss_functions.composite(
  { "cross_entropy", "topological", "chirality", "citation_validity" }, { 0.55, 0.1, 0.15, 0.2 })

local losses = {}
local results = assert(lora.training_loop.run(session, "scifact_cns", {
  config = config, epochs = given.epochs or not given.steps and 5 or nil, max_steps = given.steps,
  batch_size = given.batch_size, checkpoint_every = given.checkpoint_every, loss_fn = cns_loss, limit = given.limit,
  distractors = given.distractors, enable_gradient_hooks = true, gradient_hooks = { "norm", "flow", "health" },
  resume = given.resume and "auto" or nil, signals = true, keep_last = 2, tensorboard = true,
  callbacks = { console.new { every = 1 }, {
    on_step_end = function(step)
      losses[#losses + 1] = step.loss
      for _, issue in ipairs(step.gradient_issues) do
        io.stderr:write(("\nstep %d: the gradient of %s is %s\n"):format(step.step, issue.layer, issue.status))
      end
    end,
  } },
}))
if results.status == "interrupted" then
  print(("interrupted after step %d; go on with --experiment %s --resume and the same options"):format(
    results.total_steps, session.experiment_id))
  session:close()
  os.exit(results.exit_code)
end

io.write("\nLoss by step\n", terminal.chart(losses, { first = "step 1", last = tostring(#losses), height = 6 }), "\n")

local evaluation = assert(lora.evaluation.evaluate(session, "scifact_cns", {
  checkpoint = results.best_checkpoint, limit = given.limit_dev, max_tokens = given.max_tokens,
  distractors = given.distractors, metrics = { "accuracy", "f1", "precision", "recall", "schema_compliance",
    "citation_accuracy", "mean_entailment", "overall_pass_rate" },
}))
local rows = {}
for i, name in ipairs { "accuracy", "f1", "precision", "recall", "schema_compliance", "citation_accuracy",
  "mean_entailment", "overall_pass_rate" } do
  rows[i] = { name, evaluation.metrics[name] or "not measured" }
end
print(("%s of scifact_cns, %d rows"):format(evaluation.split, evaluation.samples))
io.write(terminal.table({ "metric", "value" }, rows))
print(lora.validate_quality(evaluation.metrics, config).summary)
print("run folder: " .. results.run_dir)
