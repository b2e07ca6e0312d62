-- Trains SmolLM2 as a judge of entailment on SciFact and says how good a judge it is.
--
--     lua5.4 examples/train_judge.lua [--model NAME] [--epochs N] [--steps N] [--seed N] …
--
-- What a judge sees: a claim and the evidence that supports or contradicts it (505 rows to train, 188 held
-- out); a sentence and the abstract that it stands in, which supports it; a claim and the evidence of
-- another, which says nothing. You will see the run, and the judge's accuracy on held-out rows of each
-- kind beside the untrained model's. Its run folder is what `judge = …` of evaluation.evaluate takes:
--
--     lora.evaluation.evaluate(session, "scifact_cns", { judge = "runs/0123456789abcdef" })
--
-- FEVER is no help here: its claims come without the text of their evidence.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local paths = require "crucible.paths"
local random = require "crucible.random"
local schema = require "crucible.schema"
local scorers = require "crucible.metrics.scorers"
local lora = crucible.lora

local options = schema.new("train_judge", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "epochs", default = 3, check = schema.integer { min = 1 }, doc = "times through the rows" },
  { name = "steps", check = schema.integer { min = 1 }, doc = "optimiser steps at most" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "learning_rate", default = 2e-4, check = schema.number { above = 0 }, doc = "peak rate" },
  { name = "rank", default = 16, check = schema.integer { min = 1 }, doc = "rank of the lora" },
  { name = "max_length", default = 512, check = schema.integer { min = 32 }, doc = "longest row in tokens" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "limit", check = schema.integer { min = 2 }, doc = "claims of SciFact at most, of each split" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder for run folders" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local LABELS = { "SUPPORT", "CONTRADICT", "NOT_ENOUGH_INFO" } -- the first means "entailed"

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "train_judge: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

-- ---- rows ----------------------------------------------------------------------------------

local function evidence_of(raw)
  local texts = {}
  for i, piece in ipairs(raw.evidence) do texts[i] = piece.text end
  return table.concat(texts, " ")
end

local function row(kind, premise, hypothesis, label)
  return { input = scorers.judge_prompt(premise, hypothesis), output = label, metadata = { kind = kind } }
end

local function same_document(a, b)
  for _, id in ipairs(a.evidence_ids) do
    for _, other in ipairs(b.evidence_ids) do
      if id == other then return true end
    end
  end
  return false
end

-- A claim whose evidence is of other documents.
local function stranger(all, raw, draw)
  for _ = 1, 100 do
    local other = all[draw(#all)]
    if not same_document(raw, other) then return other end
  end
end

-- Each claim with its own evidence; for every second one also a sentence in its abstract, for the others
-- also somebody else's evidence.
local function judged_rows(all, seed)
  local rows, draw = {}, random.generator(seed, 0)
  for i, raw in ipairs(all) do
    rows[#rows + 1] = row("claim and its evidence", evidence_of(raw), raw.claim, raw.label)
    local other = stranger(all, raw, draw)
    if i % 2 == 0 then
      local document = raw.documents[1]
      rows[#rows + 1] = row("sentence and its abstract", document.abstract, raw.evidence[1].text, LABELS[1])
    elseif other then
      rows[#rows + 1] = row("claim and other evidence", evidence_of(other), raw.claim, LABELS[3])
    end
  end
  return rows
end

-- The raw rows of a split: the data set's own formatter would make prompts of another task of them.
local function raw_rows(split)
  local found = assert(lora.dataset_integration.prepare_dataset("scifact_cns", {
    split = split, limit = given.limit,
    transform = function(raw) return { input = "-", output = "-", metadata = raw } end,
  }))
  for i, prepared in ipairs(found) do found[i] = prepared.metadata end
  return found
end

-- ---- the judge's own accuracy --------------------------------------------------------------

local function judge_held_out(session, rows, base)
  return assert(lora.evaluation.evaluate(session, rows, { mode = "likelihood", labels = LABELS, base = base }))
end

local function accuracy_by_kind(result)
  local kinds = {}
  for _, prediction in ipairs(result.predictions) do
    local kind = prediction.metadata.kind
    kinds[kind] = kinds[kind] or { rows = 0, correct = 0 }
    kinds[kind].rows = kinds[kind].rows + 1
    kinds[kind].correct = kinds[kind].correct + (prediction.correct and 1 or 0)
  end
  for _, kind in pairs(kinds) do kind.accuracy = kind.correct / kind.rows end
  return kinds
end

local function print_kinds(kinds)
  local names = {}
  for name in pairs(kinds) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    print(("  %-28s %d of %d right"):format(name, kinds[name].correct, kinds[name].rows))
  end
end

-- ---- the run -------------------------------------------------------------------------------

local config = lora.config.new {
  base_model = given.model, lora_rank = given.rank, learning_rate = given.learning_rate, warmup_steps = 20,
  max_length = given.max_length, threads = given.threads,
}
local session <close> = assert(lora.create_session {
  config = config, seed = given.seed, runs = given.runs, adapter_name = "judge",
})
local train, held_out = judged_rows(raw_rows "train", given.seed), judged_rows(raw_rows "dev", given.seed)
print(("%d rows to train, %d held out"):format(#train, #held_out))
local before = judge_held_out(session, held_out, true)

local results = assert(lora.training_loop.run(session, train, {
  epochs = not given.steps and given.epochs or nil, max_steps = given.steps, batch_size = given.batch_size,
  callbacks = { console.new { sample = true } },
}))

local after = judge_held_out(session, held_out, false)
local kinds = accuracy_by_kind(after)
assert(lora.judge.write(results.run_dir, {
  checkpoint = "checkpoints/" .. paths.basename(results.checkpoints[#results.checkpoints].path), labels = LABELS,
  base_model = given.model, held_out = {
    accuracy = after.metrics.accuracy, interval = after.intervals.accuracy, f1 = after.metrics.f1, rows = after.samples,
    kinds = kinds,
  },
}))

print "\nheld-out rows"
io.write(lora.evaluation.table {
  { name = "always " .. LABELS[1], result = assert(lora.evaluation.majority(held_out, { labels = LABELS })) },
  { name = "untrained", result = before }, { name = "judge", result = after },
})
print "\nthe judge by kind of row"
print_kinds(kinds)
print("\njudge: " .. results.run_dir)
