-- Fine-tunes on SciFact's claims on a server of the Tinker training API: train_scifact.lua with another engine.
--
--     TINKER_BASE_URL=https://… TINKER_API_KEY=… lua5.4 examples/remote.lua [BASE_MODEL] [--epochs N] [--steps N] …
--
-- BASE_MODEL is a model that is known here (its tokenizer is used) and that the server has; scripts/tinker_server
-- starts one to try this with. You will see what the server does otherwise than the config says, the run's
-- progress, the path of its folder, and the verdicts' accuracy on the dev split. --help lists the options.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local schema = require "crucible.schema"
local lora = crucible.lora

local options = schema.new("remote", {
  { name = "base_model", positional = true, default = "smollm2-135m-instruct", check = schema.string,
    doc = "name or path of the base model" },
  { name = "remote_model", check = schema.nonempty_string, doc = "its name on the server, where that is another" },
  { name = "epochs", default = 3, check = schema.integer { min = 1 }, doc = "times through the 505 rows" },
  { name = "steps", check = schema.integer { min = 1 }, doc = "optimiser steps at most" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "learning_rate", default = 2e-4, check = schema.number { above = 0 }, doc = "peak rate" },
  { name = "rank", default = 16, check = schema.integer { min = 1 }, doc = "rank of the lora" },
  { name = "reduction", default = "mean", check = schema.one_of { "mean", "sequence_mean" },
    doc = "of the loss; sequence_mean is what some servers can do" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "limit", check = schema.integer { min = 1 }, doc = "rows at most" },
  { name = "limit_dev", check = schema.integer { min = 1 }, doc = "dev rows at most" },
  { name = "max_length", check = schema.integer { min = 2 }, doc = "longest row in tokens" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "resume", check = schema.nonempty_string, doc = "folder of an earlier run to go on with" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "remote: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

local config = lora.config.new {
  base_model = given.base_model, lora_rank = given.rank, learning_rate = given.learning_rate, warmup_steps = 20,
  max_length = given.max_length, quality_targets = { accuracy = 0.60, f1 = 0.50 },
}
local session <close> = assert(lora.create_session {
  config = config, adapter = "tinker", differences = "note", remote_model = given.remote_model, seed = given.seed,
  runs = given.runs,
})
for _, difference in ipairs(assert(session:describe()).remote.differences) do print(difference) end

local results, message, _, reached = lora.training_loop.run(session, "scifact", {
  config = config, epochs = given.epochs, max_steps = given.steps, batch_size = given.batch_size, checkpoint_every = 50,
  loss_fn = { "cross_entropy", { reduction = given.reduction } }, limit = given.limit, signals = true,
  run_dir = given.resume, resume = given.resume and "auto" or nil, callbacks = { console.new { sample = true } },
})
if not results then
  io.stderr:write("remote: ", message, "\n")
  os.exit(reached and reached.exit_code or 1)
end
if results.status == "interrupted" then os.exit(results.exit_code) end

local evaluation = assert(lora.evaluation.evaluate(session, "scifact", {
  checkpoint = results.best_checkpoint, mode = "likelihood", limit = given.limit_dev,
  metrics = { "accuracy", "f1", "precision", "recall" },
}))
print(("%s of scifact, %d rows: accuracy %.3f, macro-F1 %.3f"):format(evaluation.split, evaluation.samples,
  evaluation.metrics.accuracy, evaluation.metrics.f1))
print(lora.validate_quality(evaluation.metrics, config).summary)
print("run folder: " .. results.run_dir)
