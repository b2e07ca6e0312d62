-- Watches the gradients of a fine-tuning run: a table at the end, and a picture for the browser.
--
--     lua5.4 examples/gradient_research.lua [--model NAME] [--steps N] [--picture FILE] …
--
-- SmolLM2 learns SciFact's verdicts for a few steps while hooks measure every matrix at every step. One of them
-- is written here: it freezes the layers whose gradients are the smallest, halfway through, and what it did
-- stands in the report. You will see the run's progress, norms and update ratios by layer and projection,
-- the gradient noise scale, what was found, and the path of the SVG.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local fs = require "crucible.fs"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local lora = crucible.lora

local options = schema.new("gradient_research", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "steps", default = 20, check = schema.integer { min = 2 }, doc = "optimiser steps" },
  { name = "freeze", default = 2, check = schema.integer { min = 0 }, doc = "layers to freeze halfway; 0 = none" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "picture", check = schema.nonempty_string, doc = "where to write it; default: in the run's folder" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "gradient_research: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

-- A hook of one's own: it reads what the hook "flow" found in the same step, and acts once.
local function freeze_the_weakest(info)
  if info.step ~= given.steps // 2 or given.freeze == 0 then return nil end
  local layers = table.move(info.gradient_layers, 1, #info.gradient_layers, 1, {})
  table.sort(layers, function(a, b) return a.magnitude < b.magnitude end)
  local names = {}
  for i = 1, math.min(given.freeze, #layers) do names[i] = ("layers.%d"):format(layers[i].depth - 1) end
  return { action = { freeze = names } }
end

local hooks = lora.gradient_hooks.new {
  hooks = {
    "norm", "distribution", "flow", "health", "cosine", "noise", { "spectrum", { every = given.steps } },
    { "freeze the weakest", freeze_the_weakest },
  },
}
local config = lora.config.new {
  base_model = given.model, learning_rate = 2e-4, warmup_steps = 5, threads = given.threads, grad_accumulation = 4,
}
local session <close> = assert(lora.create_session { config = config, seed = given.seed, runs = given.runs })
local results = assert(lora.training_loop.run(session, "scifact", {
  batch_size = 2, max_steps = given.steps, enable_gradient_hooks = true, gradient_hooks = hooks,
  callbacks = { console.new { every = 5 } },
}))

print "\n"
io.write(hooks:report())

local last = hooks:buffer()[#hooks:buffer()]
local sum, count = 0, 0
for _, spectrum in pairs(last.lora_spectra) do sum, count = sum + spectrum.effective_rank, count + 1 end
print(("\neffective rank of the branches: %.1f of %d, on average"):format(sum / count, config.lora_rank))

local path = given.picture or paths.join(results.run_dir, "gradients.svg")
assert(fs.write_file(path, hooks:picture { title = ("Gradients of %s on SciFact"):format(given.model) }))
print("picture: " .. path)
