-- Learning from rewards: SmolLM2 is tuned briefly on SciFact's claims and relations, then samples answers and is rewarded
-- for texts that are well formed and cite the documents they should (GRPO).
--
--     lua5.4 examples/rollouts_scifact.lua [--steps N] [--start-steps N] [--group-size N] [--prompts N] …
--
-- You will see the mean reward of each step, its chart, and the rewards of greedy and sampled answers to dev prompts
-- before and after. Passages are cut to the sentences that hold the evidence, so that a step is short (--whole
-- keeps the abstracts).
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local rewards = require "crucible.lora.rewards"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"
local lora = crucible.lora

local options = schema.new("rollouts_scifact", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "start_steps", default = 30, check = schema.integer { min = 0 }, doc = "steps of the brief tuning before" },
  { name = "steps", default = 30, check = schema.integer { min = 1 }, doc = "steps by rewards" },
  { name = "prompts", default = 2, check = schema.integer { min = 1 }, doc = "prompts a step" },
  { name = "group_size", default = 4, check = schema.integer { min = 2 }, doc = "answers to each" },
  { name = "max_tokens", default = 96, check = schema.integer { min = 8 }, doc = "of an answer" },
  { name = "learning_rate", default = 1e-4, check = schema.number { above = 0 }, doc = "of the steps by rewards" },
  { name = "held_out", default = 16, check = schema.integer { min = 1 },
    doc = "dev prompts that are asked before and after" },
  { name = "limit", check = schema.integer { min = 1 }, doc = "training rows at most" },
  { name = "whole", default = false, check = schema.boolean, doc = "keep whole abstracts" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "rollouts_scifact: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

local format = lora.dataset_integration.formatter "scifact_cns"

-- The row with each abstract cut to what its evidence quotes.
local function evidence_only(example)
  local by_document = {}
  for _, piece in ipairs(example.evidence) do
    local so_far = by_document[piece.document]
    by_document[piece.document] = so_far and so_far .. " " .. piece.text or piece.text
  end
  local documents = {}
  for i, document in ipairs(example.documents) do
    documents[i] = { id = document.id, title = document.title,
      abstract = by_document[document.id] or document.abstract }
  end
  local cut = {}
  for key, value in pairs(example) do cut[key] = value end
  cut.documents = documents
  return format(cut)
end

local transform = given.whole and format or evidence_only
local reward = { { "schema_compliance", name = "schema" }, { "citation_accuracy", name = "citations" } }

-- Mean reward of sampled answers to dev prompts; and its standard error over prompts.
local function held_out_reward(session, temperature)
  local rows = assert(lora.dataset_integration.prepare_dataset("scifact_cns", {
    split = "dev", transform = transform, limit = given.held_out,
  }))
  local prompts, terms = {}, rewards.terms(reward)
  for i, row in ipairs(rows) do
    local ids, room = session.tokenizer:prompt(row.input), session.context - given.max_tokens
    prompts[i] = #ids > room and lora.datums.cut_left(session.tokenizer, ids, room) or ids
  end
  local completions = assert(session:sample(prompts, {
    temperature = temperature, top_p = 1, max_tokens = given.max_tokens, seed = 1,
  }))
  local sum, squares = 0, 0
  for i, completion in ipairs(completions) do
    local value = rewards.of(terms, { prompt = rows[i].input, text = completion.text:match "^%s*(.-)%s*$", group = i,
      expected = rows[i].output, metadata = rows[i].metadata })
    sum, squares = sum + value, squares + value * value
  end
  local mean = sum / #rows
  return mean, math.sqrt(math.max(0, squares / #rows - mean * mean) / #rows)
end

local function show_held_out(session, moment)
  for _, temperature in ipairs { 0, 1 } do
    local mean, deviation = held_out_reward(session, temperature)
    print(("%s, %d dev prompts at temperature %d: reward %.3f ± %.3f of 2"):format(moment, given.held_out, temperature,
      mean, deviation))
  end
end

local session <close> = assert(lora.create_session {
  config = { base_model = given.model, warmup_steps = 5, learning_rate = 3e-4, threads = given.threads,
    lora_dropout = 0 },
  seed = given.seed, runs = given.runs,
})

if given.start_steps > 0 then
  assert(lora.training_loop.run(session, "scifact_cns", {
    max_steps = given.start_steps, batch_size = 4, transform = transform, limit = given.limit, checkpoint_every = 0,
    callbacks = console.new { every = 5 },
  }))
end
show_held_out(session, "before")

local means = {}
local results = assert(lora.training_loop.rollouts(session, "scifact_cns", {
  config = { learning_rate = given.learning_rate, warmup_steps = 0 }, reward = reward, group_size = given.group_size,
  batch_size = given.prompts, max_steps = given.steps, max_tokens = given.max_tokens, transform = transform,
  limit = given.limit, checkpoint_every = 10, keep_last = 1, signals = true, callbacks = {
    console.new { mode = "quiet" }, { on_step_end = function(event)
      local c = event.components
      means[#means + 1] = c.reward
      print(("step %2d  reward %.3f (schema %.2f, citations %.2f)  %.0f tokens  norm %.3f"):format(event.step, c.reward,
        c["reward.schema"], c["reward.citations"], c["reward.length"], event.grad_norm))
    end },
  },
}))

io.write("\nMean reward by step\n", terminal.chart(means, { first = "step 1", last = tostring(#means), height = 6 }))
if results.status ~= "interrupted" then show_held_out(session, "after") end
print("run folder: " .. results.run_dir)
session:close()
os.exit(results.exit_code)
