-- crucible evaluate: the base model, a checkpoint, perhaps a second one, and the majority class beside
-- each other, with intervals and a paired test.
local evaluation = require "crucible.lora.evaluation"
local fs = require "crucible.fs"
local json = require "crucible.json"
local program = require "crucible.program"
local schema = require "crucible.schema"

local command = {
  summary = "measures a checkpoint beside the base model and the majority class",
  usage = "[options] DATASET",
  main = { "run", "checkpoint", "against", "model", "split", "mode", "metrics", "limit" },
  description = [[
DATASET is a named data set or a JSONL file of rows with input and output. The base model is that of the
checkpoint; without --run and --checkpoint it alone is measured.

  crucible evaluate scifact --run runs/0123456789abcdef --mode likelihood
  crucible evaluate scifact --checkpoint A --against B
  crucible evaluate rows.jsonl --model M --metrics exact_match,bleu
]],
}

-- ---- options -------------------------------------------------------------------------------

local own_entries = {
  { name = "dataset", positional = true, required = true, check = schema.nonempty_string,
    doc = "a data set's name, or the path of a JSONL file" },
  { name = "run", check = schema.nonempty_string, doc = "run folder whose checkpoint is measured" },
  { name = "checkpoint", check = schema.nonempty_string,
    doc = 'with --run: a name, "best" or "latest", default "best"; else the path of one' },
  { name = "against", check = schema.nonempty_string, doc = "another checkpoint, compared row by row with the first" },
  { name = "model", check = schema.nonempty_string, doc = "name or path of the base model; default: the checkpoint's" },
  { name = "base", default = true, check = schema.boolean, doc = "measure the base model too" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of sampling and of the intervals" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "json", check = schema.nonempty_string, doc = "file to write all figures to" },
}

-- What a command line cannot say.
local unsaid = { transform = true, filter = true, progress = true, aliases = true, max_batch = true }

-- Evaluate's own options that can be written as text.
local function entries()
  local list, taken = table.move(own_entries, 1, #own_entries, 1, {}), {}
  for _, entry in ipairs(own_entries) do taken[entry.name] = true end
  for _, entry in ipairs(evaluation.options.entries) do
    local texts = entry.check.kind ~= "other" or entry.name == "entailment" or entry.name == "similarity"
    if texts and not taken[entry.name] and not unsaid[entry.name] then list[#list + 1] = entry end
  end
  return list
end

command.options = schema.new("crucible evaluate", entries())

-- The options that are evaluate's.
local function evaluate_options(given)
  local options = {}
  for _, entry in ipairs(command.options.entries) do
    if evaluation.options.by_name[entry.name] then options[entry.name] = given[entry.name] end
  end
  options.base, options.checkpoint = nil, nil
  return options
end

-- ---- measuring -----------------------------------------------------------------------------

-- Rows of the table that a result makes: with mode "both", two.
local function add_rows(rows, name, result)
  rows[#rows + 1] = { name = result.likelihood and name .. ", as written" or name, result = result }
  if result.likelihood then rows[#rows + 1] = { name = name .. ", by likelihood", result = result.likelihood } end
end

-- What is measured, in the order of the table; files are written of the checkpoint, or of the base model
-- where it is alone.
local function plan(given, path)
  local list = {}
  if given.base or not path then list[1] = { name = "base model", base = true, writes = not path } end
  if path then list[#list + 1] = { name = "checkpoint", writes = true } end
  if given.against then list[#list + 1] = { name = "against", checkpoint = given.against } end
  return list
end

local function measure_one(session, given, entry, streams)
  local options = evaluate_options(given)
  if not entry.writes then options.predictions, options.issues = nil, nil end
  options.base, options.checkpoint = entry.base, entry.checkpoint
  options.progress = program.progress(streams, entry.name)
  return evaluation.evaluate(session, given.dataset, options)
end

local function measure_all(session, given, path, streams)
  local found = { results = {}, rows = {} }
  for _, entry in ipairs(plan(given, path)) do
    local result, message, code = measure_one(session, given, entry, streams)
    if not result then return nil, message, code end
    found.results[#found.results + 1] = { name = entry.name, result = result }
    add_rows(found.rows, entry.name, result)
  end
  local options = evaluate_options(given)
  options.predictions, options.issues = nil, nil
  local majority, message, code = evaluation.majority(given.dataset, options)
  if not majority then return nil, message, code end
  if next(majority.metrics) and #majority.labels > 0 then
    found.rows[#found.rows + 1] = { name = "always " .. majority.label, result = majority }
  end
  local ceiling = found.results[1].result.ceiling
  if ceiling then found.rows[#found.rows + 1] = { name = "expected texts", result = ceiling } end
  return found
end

-- ---- telling -------------------------------------------------------------------------------

local function heading(result)
  local split = result.split and (" %s"):format(result.split) or ""
  if result.split and result.split ~= result.split_asked then
    split = ("%s (%s has no labels)"):format(split, result.split_asked)
  end
  local text = ("%s%s, %d rows, mode %s"):format(result.dataset, split, result.samples, result.mode)
  if result.truncated > 0 then text = ("%s, %d prompts cut to fit"):format(text, result.truncated) end
  if result.dropped > 0 then text = ("%s, %d rows left out as too long"):format(text, result.dropped) end
  return text
end

local function claims_text(result)
  if not result.scorers then return "" end
  return ("entailment by %s, similarity by %s; %d issues\n"):format(result.scorers.entailment.name,
    result.scorers.similarity.name, #result.issues)
end

-- The paired comparison of the last two that were measured.
local function difference_text(results)
  if #results < 2 then return "" end
  local a, b = results[#results - 1], results[#results]
  local differences = evaluation.compare(a.result, b.result)
  return ("\na = %s, b = %s, on the same rows\n%s"):format(a.name, b.name, evaluation.difference_table(differences)),
    differences
end

local function without_predictions(result)
  local copy = {}
  for key, value in pairs(result) do copy[key] = value end
  copy.predictions = nil
  copy.likelihood = result.likelihood and without_predictions(result.likelihood) or nil
  return copy
end

local function figures_of(found, differences)
  local figures = { results = {}, differences = differences }
  for i, row in ipairs(found.rows) do
    figures.results[i] = { name = row.name, result = without_predictions(row.result) }
  end
  return figures
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return true? ok, string? message, string? code
function command.run(given, streams)
  local path = program.checkpoint_path(given)
  local session, message, code = program.open_session(given)
  if not session then return nil, message, code end
  local guard <close> = session
  local found
  found, message, code = measure_all(guard, given, path, streams)
  if not found then return nil, message, code end
  local last = found.results[#found.results].result
  local text, differences = difference_text(found.results)
  streams.out:write(heading(last), "\n\n", evaluation.table(found.rows), claims_text(last), text)
  if not given.json then return true end
  return fs.write_file(given.json, json.encode_pretty(figures_of(found, differences)))
end

return command
