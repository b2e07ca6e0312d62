-- What a run folder keeps beside its telemetry, one object a line, for the report and for whoever reads it:
--
--     evaluations.jsonl  what evaluations found: metrics, classes, confusion matrix, and some of the answers
--     samples.jsonl      texts written for the same prompts at several moments
--
-- A run that goes on after a kill may repeat a place; readers take the last line of each.
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local json = require "crucible.json"
local jsonl = require "crucible.jsonl"
local paths = require "crucible.paths"
local schema = require "crucible.schema"

local run_records = {}

--- Answers kept of each evaluation, bytes of each text in them, and members of any list.
run_records.most_examples = 24
run_records.most_bytes = 4000
run_records.most_members = 1000

run_records.files = { evaluations = "evaluations.jsonl", samples = "samples.jsonl" }

-- ---- values --------------------------------------------------------------------------------

-- The text, or its beginning up to a whole character.
local function shortened(text)
  if #text <= run_records.most_bytes then return text end
  local stop = utf8.offset(text, 0, run_records.most_bytes + 1) or run_records.most_bytes + 1
  return text:sub(1, stop - 1) .. " …"
end

local left_out = { predictions = true, run_dir = true }

-- A copy that JSON can hold: functions and handles are left out, long texts cut.
local function plain(value, depth)
  local kind = type(value)
  if kind == "string" then return shortened(value) end
  if kind == "number" or kind == "boolean" then return value end
  if kind ~= "table" or depth > 8 then return nil end
  local copy = {}
  for i = 1, math.min(#value, run_records.most_members) do copy[i] = plain(value[i], depth + 1) end
  if #value > 0 then return json.array(copy) end
  for key, inner in pairs(value) do
    if type(key) == "string" then copy[key] = plain(inner, depth + 1) end
  end
  return copy
end

local function plain_fields(fields)
  local copy = {}
  for key, value in pairs(fields) do
    if not left_out[key] then copy[key] = plain(value, 1) end
  end
  return copy
end

local function example_of(prediction, likelier)
  return {
    input = shortened(tostring(prediction.input)), expected = plain(prediction.expected, 1),
    predicted = plain(prediction.predicted, 1), text = plain(prediction.text, 1), correct = prediction.correct,
    likelier = likelier and plain(likelier.predicted, 1),
  }
end

local function examples_of(result)
  local examples, likelier = json.array {}, result.likelihood and result.likelihood.predictions or {}
  for i, prediction in ipairs(result.predictions or {}) do
    if i > run_records.most_examples then break end
    examples[i] = example_of(prediction, likelier[i])
  end
  return examples
end

-- ---- writing -------------------------------------------------------------------------------

local place = schema.new("run_records.add_evaluation", {
  { name = "step", check = schema.integer { min = 0 }, doc = "optimiser steps done before it" },
  { name = "epoch", check = schema.integer { min = 0 }, doc = "of training" },
  { name = "moment", check = schema.one_of { "before", "training", "last", "best" },
    doc = 'which state was evaluated; default: "before" for the base model, else "training"' },
})

--- Adds an evaluation to a run's records: what lora.evaluation.evaluate returned, or a table of metrics.
---@param run_dir string
---@param result table
---@param at { step: integer?, epoch: integer?, moment: string? }?
---@return true? ok, string? message, string? code
function run_records.add_evaluation(run_dir, result, at)
  local entry = place:resolve(at)
  entry.moment = entry.moment or (result.base and "before" or "training")
  local found = result.metrics and plain_fields(result) or { metrics = plain(result, 1) }
  if found.likelihood then found.likelihood = plain_fields(result.likelihood) end
  for key, value in pairs(entry) do found[key] = value end
  found.evaluated_at = found.evaluated_at or experiment.now()
  found.examples = examples_of(result)
  return fs.append_file(paths.join(run_dir, run_records.files.evaluations), json.encode(found) .. "\n")
end

--- Adds texts that a model wrote to a run's records.
---@param run_dir string
---@param entry { step: integer?, epoch: integer?, moment: string, samples: { prompt: string, text: string }[] }
---@return true? ok, string? message, string? code
function run_records.add_samples(run_dir, entry)
  return fs.append_file(paths.join(run_dir, run_records.files.samples), json.encode(plain_fields(entry)) .. "\n")
end

-- ---- reading -------------------------------------------------------------------------------

-- The objects of a file up to the first line that is not whole, and what is wrong with that one.
local function read_lines(path)
  if not paths.is_file(path) then return {} end
  local rows, next_row, message = {}, jsonl.reader(path)
  if not next_row then return {}, message end
  while true do
    local row, line, code = next_row()
    if code then return rows, line end
    if row == nil then return rows end
    if type(row) == "table" then rows[#rows + 1] = row end
  end
end

local function key_of(row)
  local parts = {}
  for i, field in ipairs { "moment", "step", "dataset", "split", "mode", "base", "checkpoint" } do
    parts[i] = tostring(row[field])
  end
  return table.concat(parts, "\0")
end

-- The last row of each place, in the order in which places first came.
local function latest(rows)
  local by_key, order = {}, {}
  for _, row in ipairs(rows) do
    local key = key_of(row)
    if not by_key[key] then order[#order + 1] = key end
    by_key[key] = row
  end
  for i, key in ipairs(order) do order[i] = by_key[key] end
  return order
end

--- The records of a run: "evaluations" or "samples". A damaged line ends the list; the second value says
--- which.
---@param run_dir string
---@param kind "evaluations"|"samples"
---@return table[] rows, string? problem
function run_records.read(run_dir, kind)
  local rows, problem = read_lines(paths.join(run_dir, run_records.files[kind]))
  return latest(rows), problem
end

return run_records
