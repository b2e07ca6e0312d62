-- The full recipe over several seeds: mean loss of each epoch and dev macro-F1, seed by seed.
--
--     lua5.4 examples/learning_curve.lua [--seeds N] [--epochs N] [--threads N] …
--
-- Rank 16, alpha 32, dropout 0.05, learning rate 2e-4, batches of 8, warm-up of 20 steps, on q, k,
-- v and o. You will see each run's progress and a table at the end.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"
local lora = crucible.lora

local options = schema.new("learning_curve", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "seeds", default = 3, check = schema.integer { min = 1 }, doc = "runs, with seeds 0, 1, …" },
  { name = "epochs", default = 3, check = schema.integer { min = 1 }, doc = "times through the rows" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "limit", check = schema.integer { min = 1 }, doc = "training rows at most" },
  { name = "limit_dev", check = schema.integer { min = 1 }, doc = "dev rows at most" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "learning_curve: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

local config = lora.config.new {
  base_model = given.model, lora_rank = 16, lora_alpha = 32, lora_dropout = 0.05, learning_rate = 2e-4,
  warmup_steps = 20, target_modules = { "q_proj", "k_proj", "v_proj", "o_proj" }, threads = given.threads,
}

local function dev(session, mode)
  return assert(lora.evaluation.evaluate(session, "scifact", {
    mode = mode, limit = given.limit_dev, metrics = { "accuracy", "f1" },
  })).metrics
end

-- One line of the table: epoch losses, then accuracy and macro-F1 both ways.
local function one_seed(model, seed)
  io.stderr:write(("seed %d\n"):format(seed))
  local session <close> = assert(lora.create_session { model = model, config = config, seed = seed, runs = given.runs })
  local results = assert(lora.training_loop.run(session, "scifact", {
    epochs = given.epochs, batch_size = 8, limit = given.limit, callbacks = { console.new() },
  }))
  local row = {}
  for i, epoch in ipairs(results.epochs) do row[i] = epoch.mean_loss end
  for _, mode in ipairs { "generate", "likelihood" } do
    local metrics = dev(session, mode)
    row[#row + 1], row[#row + 2] = metrics.accuracy, metrics.f1
  end
  return row
end

local function mean_of(rows)
  local mean = {}
  for c in ipairs(rows[1]) do
    mean[c] = 0
    for _, row in ipairs(rows) do mean[c] = mean[c] + row[c] / #rows end
  end
  return mean
end

local model <close> = assert(crucible.model(given.model))
local rows = {}
for seed = 0, given.seeds - 1 do rows[#rows + 1] = one_seed(model, seed) end
local mean = mean_of(rows)

local header = { "seed" }
for epoch = 1, given.epochs do header[#header + 1] = "epoch " .. epoch end
for _, name in ipairs { "acc. written", "F1 written", "acc. likely", "F1 likely" } do header[#header + 1] = name end
for i, row in ipairs(rows) do table.insert(row, 1, tostring(i - 1)) end
table.insert(mean, 1, "mean")
rows[#rows + 1] = mean
io.write(terminal.table(header, rows))
