-- Word problems: exact match of the numbers on GSM8K's test split, before and after fine-tuning.
--
--     lua5.4 examples/gsm8k.lua [--problems 200] [--steps 200] [--seed N] …
--
-- The data set is fetched once, or taken from $CRUCIBLE_DATA/gsm8k. You will see the run, a table of base
-- beside tuned with intervals of 95%, and whether they differ beyond chance. A model of this size solves
-- few problems; what training teaches first is the form of the answer ("#### 72").
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"
local lora = crucible.lora

local options = schema.new("gsm8k", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "problems", default = 200, check = schema.integer { min = 1 }, doc = "of the test split" },
  { name = "steps", default = 200, check = schema.integer { min = 1 }, doc = "optimiser steps" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "learning_rate", default = 2e-4, check = schema.number { above = 0 }, doc = "peak rate" },
  { name = "max_tokens", default = 256, check = schema.integer { min = 1 }, doc = "of a solution" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "data", check = schema.nonempty_string, doc = "folder with train.jsonl and test.jsonl; default: searched" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "gsm8k: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

local function evaluate(session, base)
  local started = crucible.core.fs.clock()
  local result = assert(lora.evaluation.evaluate(session, "gsm8k", {
    path = given.data, split = "test", limit = given.problems, base = base, max_tokens = given.max_tokens,
    metrics = { "gsm8k", "gsm8k_strict" }, stop_sequences = { "\nProblem:" },
  }))
  print(("%s: %d problems in %s"):format(base and "base" or "tuned", result.samples,
    terminal.duration(crucible.core.fs.clock() - started)))
  return result
end

local config = lora.config.new {
  base_model = given.model, learning_rate = given.learning_rate, warmup_steps = 20, truncation = "drop",
  threads = given.threads,
}
local session <close> = assert(lora.create_session { config = config, seed = given.seed, runs = given.runs })
local before = evaluate(session, true)
local results = assert(lora.training_loop.run(session, "gsm8k", {
  path = given.data, max_steps = given.steps, batch_size = given.batch_size, callbacks = { console.new {} },
}))
local after = evaluate(session, false)

print()
io.write(lora.evaluation.table { { name = "base", result = before }, { name = "tuned", result = after } })
print "\ntuned (b) against base (a), paired by problem"
io.write(lora.evaluation.difference_table(lora.evaluation.compare(before, after)))
print("\nproblem 1, tuned: " .. after.predictions[1].text)
print("run folder: " .. results.run_dir)
