-- Do the domain's losses teach what they measure? Cross-entropy alone against cross-entropy with each term and with all
-- of them, on claims and relations of SciFact; teacher-forced measures on held-out rows, over seeds.
--
--     lua5.4 examples/teaching_table.lua [--terms cross_entropy,topological,…] [--seeds 0,1,2] [--steps 40] …
--
-- A cell is one run (a term, a seed) and lies as a file in --folder; cells that are there are not run again, so that
-- the table can be made in pieces, --terms and --seeds picking them. Without --run the table of the cells that are
-- there is printed: mean and standard deviation over seeds, and the difference to cross-entropy alone in units of
-- its standard error. A cell of 40 steps takes several minutes.
--
-- Measures, each a mean over held-out rows: cross-entropy; validity of citations (1 − invalid_rate), precision of
-- the pool and recall; share of relation lines whose likeliest destination and label are the target's; balance distance d on
-- rows that argue for and against (two dev rows of different verdicts joined into one); |β₁ − β₁ of the target|.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local console = require "crucible.callbacks.console"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local predictions = require "crucible.lora.predictions"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"
local lora = crucible.lora
local losses = lora.loss_functions

losses.register_topological_loss()
losses.register_chirality_loss()
losses.register_citation_loss()

local WEIGHTS = { cross_entropy = 0.55, topological = 0.1, chirality = 0.15, citation_validity = 0.2 }

-- The loss of each term by name. "before" is no training at all.
local TERMS = {
  cross_entropy = function() return "cross_entropy" end,
  all = function()
    return losses.composite({ "cross_entropy", "topological", "chirality", "citation_validity" },
      { 0.55, 0.1, 0.15, 0.2 })
  end,
}
for _, name in ipairs { "topological", "chirality", "citation_validity" } do
  TERMS[name] = function()
    return losses.composite({ "cross_entropy", name }, { WEIGHTS.cross_entropy, WEIGHTS[name] })
  end
end
local ORDER = { "before", "cross_entropy", "topological", "chirality", "citation_validity", "all" }

local options = schema.new("teaching_table", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "terms", default = { "before", "cross_entropy", "topological", "chirality", "citation_validity", "all" },
    check = schema.list(schema.one_of(ORDER)), doc = "rows of the table" },
  { name = "seeds", default = { "0", "1", "2" }, check = schema.list(schema.string), doc = "runs of each term" },
  { name = "run", default = false, check = schema.boolean, doc = "run the cells that are not there yet" },
  { name = "folder", default = "runs/teaching", check = schema.nonempty_string, doc = "where cells lie" },
  { name = "steps", default = 40, check = schema.integer { min = 1 }, doc = "optimiser steps of a run" },
  { name = "batch_size", default = 4, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "length", default = 700, check = schema.integer { min = 64 },
    doc = "longest row in tokens; longer prompts are cut on the left" },
  { name = "distractors", default = 3, check = schema.integer { min = 0 }, doc = "abstracts that are no evidence" },
  { name = "dev_rows", default = 64, check = schema.integer { min = 2 }, doc = "held-out rows" },
  { name = "learning_rate", default = 2e-4, check = schema.number { above = 0 }, doc = "after a warm-up of 5 steps" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "teaching_table: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

-- ---- held-out rows ---------------------------------------------------------------------------------

local function row_length(session) return math.min(given.length, session.context) end

-- Rows whose answer alone fits.
local function fitting(session, rows)
  local kept = {}
  for _, row in ipairs(rows) do
    if lora.datums.row(session.tokenizer, row, { max_length = row_length(session), truncation = "left" }) then
      kept[#kept + 1] = row
    end
  end
  return kept
end

local function datums_of(session, rows)
  local formatted = lora.format_training_data(rows)
  for i, row in ipairs(rows) do formatted[i].metadata = row.metadata end
  return (assert(lora.datums.build(session.tokenizer, formatted, { max_length = row_length(session) })))
end

local function cns_rows(session, split, limit, distractors)
  return fitting(session, (assert(lora.dataset_integration.prepare_dataset("scifact_cns",
    { split = split, limit = limit, distractors = distractors }))))
end

-- The claims of a second answer numbered on after the first's.
local function renumber(text, by)
  return (text:gsub("(%f[%w]c)(%d+)", function(c, number) return c .. math.tointeger(tonumber(number)) + by end))
end

local function claims_in(text) return select(2, text:gsub("CLAIM%[", "")) end

-- Two rows in one: both passages, then both arguments.
local function joined(one, other)
  local passages = one.input:match "Passage:\n(.-)\n\nTask:" .. "\n\n" .. other.input:match "Passage:\n(.-)\n\nTask:"
  local before, after = one.input:match "^(.-Passage:\n).-(\n\nTask:.*)$"
  local pool = table.move(one.metadata.pool, 1, #one.metadata.pool, 1, {})
  table.move(other.metadata.pool, 1, #other.metadata.pool, #pool + 1, pool)
  return {
    input = before .. passages .. after, output = one.output .. "\n" .. renumber(other.output, claims_in(one.output)),
    metadata = { pool = pool },
  }
end

-- Rows that argue for one claim and against another: a supported and a refuted dev row in turn.
local function mixed_rows(session, rows)
  local by_label, mixed = { SUPPORT = {}, CONTRADICT = {} }, {}
  for _, row in ipairs(rows) do table.insert(by_label[row.metadata.label], row) end
  for i = 1, math.min(#by_label.SUPPORT, #by_label.CONTRADICT) do
    mixed[i] = joined(by_label.SUPPORT[i], by_label.CONTRADICT[i])
  end
  return fitting(session, mixed)
end

-- ---- measures -----------------------------------------------------------------------------------------

local ROWS_AT_ONCE = 4

-- Σ and count of each field that a loss reports over datums, and of the loss itself, as a function of the field:
-- its mean. `each` is told every row's own fields.
local function reports_of(session, name, list, each)
  local loss, totals = losses.resolve(name), {}
  local function add(field, sum, count)
    local total = totals[field] or { sum = 0, count = 0 }
    total.sum, total.count, totals[field] = total.sum + sum, total.count + count, total
  end
  local at_once = each and 1 or ROWS_AT_ONCE
  for first = 1, #list, at_once do
    local batch = table.move(list, first, math.min(first + at_once - 1, #list), 1, {})
    local units = predictions.counts(loss, batch)[loss.name]
    if units > 0 then
      local seen = assert(session:forward(batch, { outputs = loss.outputs, request = loss.request }))
      local found = loss.compute(seen, predictions.targets(batch))
      for field, value in pairs(found) do
        if field == "loss" then
          add("loss", type(value) == "number" and value or value:item(), units)
        elseif type(value) == "table" then
          add(field, value.sum, value.count)
        end
      end
      if each then each(found) end
    end
  end
  return function(field)
    local total = totals[field]
    return total and total.count > 0 and total.sum / total.count or nil
  end
end

local function measure(session, dev, mixed)
  local betti_error, rows = 0, 0
  local graph = reports_of(session, "topological", dev, function(found) -- by row: signs must not cancel
    betti_error, rows = betti_error + math.abs(found.betti_1.sum - found.target_betti_1.sum), rows + 1
  end)
  local labels, balance = reports_of(session, "chirality", dev), reports_of(session, "chirality", mixed)
  local cited = reports_of(session, "citation_validity", dev)
  return {
    cross_entropy = reports_of(session, "cross_entropy", dev)("loss"), validity = 1 - cited "invalid_rate",
    precision = cited "precision", recall = cited "recall", destinations = graph "destination_accuracy",
    labels = labels "label_accuracy", balance_distance = (1 - balance "balance_score") * math.pi,
    betti_1_error = betti_error / rows, topological = graph "loss", chirality = labels "loss",
    citation_validity = cited "loss",
  }
end

-- ---- cells --------------------------------------------------------------------------------------------

local function cell_path(term, seed) return paths.join(given.folder, ("%s_%s.json"):format(term, seed)) end

local function read_cell(term, seed)
  local text = fs.read_file(cell_path(term, seed))
  return text and assert(json.decode(text))
end

local function write_cell(term, seed, cell)
  assert(fs.make_folder(given.folder))
  assert(fs.write_file(cell_path(term, seed), json.encode_pretty(cell)))
end

local function train(session, term, seed)
  if term == "before" then return end
  assert(lora.training_loop.run(session, cns_rows(session, "train", nil, given.distractors), {
    loss_fn = TERMS[term](), max_steps = given.steps, batch_size = given.batch_size, seed = seed,
    checkpoint_every = 0, callbacks = { console.new { every = 10 } },
    run_dir = paths.join(given.folder, ("%s_%d"):format(term, seed)),
  }))
end

local function run_cell(model, term, seed)
  local config = lora.config.new {
    base_model = given.model, lora_rank = 16, learning_rate = given.learning_rate, warmup_steps = 5,
    threads = given.threads, max_length = math.min(given.length, model.info.context),
  }
  local session <close> = assert(lora.create_session { model = model, config = config, seed = seed })
  train(session, term, seed)
  local rows = cns_rows(session, "dev", given.dev_rows, given.distractors)
  local mixed = mixed_rows(session, cns_rows(session, "dev", given.dev_rows, 0))
  local cell = measure(session, datums_of(session, rows), datums_of(session, mixed))
  cell.term, cell.seed, cell.steps, cell.dev_rows, cell.mixed_rows = term, seed, given.steps, #rows, #mixed
  cell.batch_size, cell.length, cell.distractors = given.batch_size, given.length, given.distractors
  write_cell(term, seed, cell)
end

local function run_missing()
  local model <close> = assert(crucible.model(given.model))
  for _, seed in ipairs(given.seeds) do
    for _, term in ipairs(given.terms) do
      if not read_cell(term, seed) then
        io.stderr:write(("%s, seed %s\n"):format(term, seed))
        run_cell(model, term, assert(math.tointeger(tonumber(seed)), "seeds are integers"))
      end
    end
  end
end

-- ---- the table ----------------------------------------------------------------------------------------

local MEASURES = { "cross_entropy", "validity", "precision", "recall", "destinations", "labels", "balance_distance",
  "betti_1_error" }

local function moments(values)
  local mean, squares = 0, 0
  for _, value in ipairs(values) do mean = mean + value / #values end
  for _, value in ipairs(values) do squares = squares + (value - mean) ^ 2 end
  return mean, #values > 1 and math.sqrt(squares / (#values - 1)) or 0 / 0
end

local function values_of(term, measure_name)
  local values = {}
  for _, seed in ipairs(given.seeds) do
    local cell = read_cell(term, seed)
    if cell and type(cell[measure_name]) == "number" then values[#values + 1] = cell[measure_name] end
  end
  return values
end

-- "0.913 ± 0.004 (+3.1)": the last is the difference to cross-entropy alone over its standard error (Welch).
local function entry(term, measure_name)
  local values, plain = values_of(term, measure_name), values_of("cross_entropy", measure_name)
  if #values == 0 then return "-" end
  local mean, deviation = moments(values)
  local text = #values > 1 and ("%.4f ± %.4f"):format(mean, deviation) or ("%.4f"):format(mean)
  if term == "before" or term == "cross_entropy" or #values < 2 or #plain < 2 then return text end
  local plain_mean, plain_deviation = moments(plain)
  local by = math.sqrt(deviation ^ 2 / #values + plain_deviation ^ 2 / #plain)
  return by > 0 and ("%s (%+.1f)"):format(text, (mean - plain_mean) / by) or text
end

local function print_table()
  local rows = {}
  for _, term in ipairs(given.terms) do
    local row = { term, #values_of(term, "cross_entropy") }
    for i, name in ipairs(MEASURES) do row[i + 2] = entry(term, name) end
    rows[#rows + 1] = row
  end
  io.write(terminal.table({ "trained with", "seeds", table.unpack(MEASURES) }, rows))
end

if given.run then run_missing() end
print_table()
