-- Fine-tunes SmolLM2 on SciFact's claims and evaluates the best checkpoint.
--
--     lua5.4 examples/train_scifact.lua [--model NAME] [--epochs N] [--steps N] [--seed N] …
--
-- You will see the run's progress, the path of its folder, and the verdicts' accuracy on the dev
-- split. --help lists the options.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local schema = require "crucible.schema"
local lora = crucible.lora

local options = schema.new("train_scifact", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "epochs", default = 3, check = schema.integer { min = 1 }, doc = "times through the 505 rows" },
  { name = "steps", check = schema.integer { min = 1 }, doc = "optimiser steps at most" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "learning_rate", default = 2e-4, check = schema.number { above = 0 }, doc = "peak rate" },
  { name = "rank", default = 16, check = schema.integer { min = 1 }, doc = "rank of the lora" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "limit_dev", check = schema.integer { min = 1 }, doc = "dev rows at most" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "train_scifact: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

local config = lora.config.new {
  base_model = given.model, lora_rank = given.rank, learning_rate = given.learning_rate, warmup_steps = 20,
  threads = given.threads, quality_targets = { accuracy = 0.60, f1 = 0.50 },
}
local session <close> = assert(lora.create_session {
  config = config, adapter = "local", seed = given.seed, runs = given.runs,
})

local results = assert(lora.training_loop.run(session, "scifact", {
  config = config, epochs = given.epochs, max_steps = given.steps, batch_size = given.batch_size, checkpoint_every = 50,
  callbacks = { console.new { sample = true } },
}))

local evaluation = assert(lora.evaluation.evaluate(session, "scifact", {
  checkpoint = results.best_checkpoint, mode = "likelihood", limit = given.limit_dev,
  metrics = { "accuracy", "f1", "precision", "recall" },
}))
print(("%s of scifact, %d rows: accuracy %.3f, macro-F1 %.3f"):format(evaluation.split, evaluation.samples,
  evaluation.metrics.accuracy, evaluation.metrics.f1))
print(lora.validate_quality(evaluation.metrics, config).summary)
print("run folder: " .. results.run_dir)
