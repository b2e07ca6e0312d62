-- What scripts/demo runs: SmolLM2-135M before and after fine-tuning on SciFact.
--
--     lua5.4 examples/demo.lua [--steps N] [--epochs N] [--seed N] [--threads N] [--limit-dev N] …
--
-- Verdicts are asked for in two ways, before and after: greedy generation, and which of the two
-- labels the model finds likelier. You will see the training, its loss curve and a table of both, and the path
-- of a report with all of it, gradients and answers before and after, for a browser.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local run_records = require "crucible.lora.run_records"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"
local lora = crucible.lora

local options = schema.new("demo", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "steps", default = 36, check = schema.integer { min = 1 }, doc = "optimiser steps at most" },
  { name = "epochs", check = schema.integer { min = 1 },
    doc = "times through the 505 rows; default: what steps takes" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "limit_dev", check = schema.integer { min = 1 }, doc = "dev rows at most; default: all 188" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local function fail(message)
  io.stderr:write("demo: ", message, "\n")
  os.exit(1)
end

-- The value, or the end of the program with the reason.
local function must(value, message)
  if value == nil then fail(message) end
  return value
end

local function parse()
  local given, problem = arguments.parse(options, arg)
  if not given then fail(problem) end
  if given.help then
    io.write("Fine-tunes SmolLM2-135M on SciFact's claims and shows what it learnt.\n\n", arguments.help(options))
    os.exit(0)
  end
  return given
end

local function title(text) print("\n" .. text .. "\n" .. ("─"):rep(terminal.width(text))) end

-- A line of progress on a terminal; nothing elsewhere.
local function progress(what)
  if not crucible.core.fs.is_terminal "stderr" then return nil end
  return function(done, total)
    io.stderr:write(("\r%s %d/%d "):format(what, done, total), done == total and "\r\27[K" or "")
  end
end

-- Both kinds of verdict from one run of the prompts.
local function evaluate(session, given, base)
  local what = base and "base model" or "tuned model"
  local clock, started = crucible.core.fs.clock, crucible.core.fs.clock()
  local result = must(lora.evaluation.evaluate(session, "scifact", {
    mode = "both", base = base, limit = given.limit_dev, progress = progress(what), metrics = { "accuracy", "f1" },
  }))
  print(("%s: %d of %d verdicts right as written, %d by likelihood (%s)"):format(what, result.correct, result.samples,
    result.likelihood.correct, terminal.duration(clock() - started)))
  return result
end

-- Base beside tuned beside the majority class, with intervals of 95%, and what is left of the gain once
-- chance is asked.
local function show_table(before, after, given)
  local majority = must(lora.evaluation.majority("scifact", {
    limit = given.limit_dev, metrics = { "accuracy", "f1" },
  }))
  io.write(lora.evaluation.table {
    { name = "always " .. majority.label, result = majority },
    { name = "base model, as written", result = before },
    { name = "tuned model, as written", result = after },
    { name = "base model, by likelihood", result = before.likelihood },
    { name = "tuned model, by likelihood", result = after.likelihood },
  })
  print "\ntuned (b) against base (a) by likelihood, paired by row"
  io.write(lora.evaluation.difference_table(lora.evaluation.compare(before.likelihood, after.likelihood)))
end

local function train(session, given)
  local losses = {}
  local results, problem = lora.training_loop.run(session, "scifact", {
    max_steps = given.steps, epochs = given.epochs, batch_size = given.batch_size, tensorboard = true,
    enable_gradient_hooks = true, gradient_hooks = { "norm", "distribution", "flow", "health", "updates" },
    callbacks = { console.new { sample = true }, { on_step_end = function(step) losses[step.step] = step.loss end } },
  })
  return must(results, problem), losses
end

-- The report of the run with both evaluations in it.
local function write_report(results, before, after)
  must(run_records.add_evaluation(results.run_dir, before, { step = 0, moment = "before" }))
  must(run_records.add_evaluation(results.run_dir, after, { step = results.total_steps, moment = "last" }))
  return must(crucible.report.write(results.run_dir))
end

local given = parse()
local started = crucible.core.fs.clock()
local config = lora.config.new {
  base_model = given.model, lora_rank = 16, lora_alpha = 32, lora_dropout = 0.05, learning_rate = 2e-4,
  warmup_steps = 20, target_modules = { "q_proj", "k_proj", "v_proj", "o_proj" }, threads = given.threads,
}
local session <close> = must(lora.create_session { config = config, seed = given.seed, runs = given.runs })
print(session.model)
print(("%s kernels, %d threads"):format(session.kernels, session.threads))

title "Before"
local before = evaluate(session, given, true)

title "Training"
local results, losses = train(session, given)

title "After"
local after = evaluate(session, given, false)

title "Loss by step"
io.write(terminal.chart(losses, { first = "step 1", last = tostring(#losses) }))

title "SciFact dev"
show_table(before, after, given)

print(("\nrun folder: %s\nbest checkpoint: %s\nreport: %s\n%s in all"):format(results.run_dir,
  results.best_checkpoint, write_report(results, before, after),
  terminal.duration(crucible.core.fs.clock() - started)))
