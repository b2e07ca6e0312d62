-- A data set as a run would see it, without a run: rows, datums and what the gate says of them.
local dataset_integration = require "crucible.lora.dataset_integration"
local datums = require "crucible.lora.datums"
local gate = require "crucible.lora.gate"
local lists = require "crucible.lists"
local schema = require "crucible.schema"

local inspection = {}

local entries = {
  { name = "max_length", check = schema.integer { min = 2 }, doc = "longest row in tokens; default: no limit" },
  { name = "truncation", default = "left", check = schema.one_of { "left", "drop" }, doc = "of rows over max_length" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 },
    doc = "rows a batch, for the share of padding" },
  { name = "against", check = schema.nonempty_string,
    doc = 'a split whose rows must not be among these; default: "test" or what stands for it' },
}
table.move(dataset_integration.row_options.entries, 1, #dataset_integration.row_options.entries, #entries + 1, entries)

--- The options of inspection.run.
inspection.options = schema.new("inspection.run", entries)

-- The split to compare with: the one asked for, or that of evaluation if it is another than this one.
local function other_split(dataset, given)
  if given.against then return given.against end
  local test = dataset.fallback and dataset.fallback.test or "test"
  return test ~= given.split and lists.contains(dataset.splits, test) and test or nil
end

-- Rows of the other split of a named data set; nil where there is none.
local function evaluation_rows(source, given)
  local dataset = dataset_integration.find(source)
  local split = dataset and other_split(dataset, given)
  if not split then return nil end
  local asked = dataset_integration.row_options:pick(given)
  asked.split, asked.limit = split, nil
  local rows, message, code = dataset_integration.prepare_dataset(source, asked)
  if not rows and given.against then return nil, message, code end
  return rows
end

---@class crucible.lora.Inspection
---@field rows crucible.lora.Row[]
---@field datums table[]
---@field dataset crucible.lora.DatasetInfo
---@field report crucible.lora.gate.Report

--- Reads a data set, tokenises it and asks the gate. Fails as prepare_dataset, datums.build and gate.check do.
---@param tokenizer crucible.Tokenizer
---@param source string|table[]
---@param options table?  inspection.options
---@return crucible.lora.Inspection? inspection, string? message, string? code
function inspection.run(tokenizer, source, options)
  local given = inspection.options:resolve(options)
  local rows, info, code = dataset_integration.prepare_dataset(source, dataset_integration.row_options:pick(given))
  if not rows then return nil, info --[[@as string]], code end
  local evaluation, message
  evaluation, message, code = evaluation_rows(source, given)
  if code then return nil, message, code end
  local list, counts
  list, counts, code = datums.build(tokenizer, rows, { max_length = given.max_length, truncation = given.truncation })
  if not list then return nil, counts, code end
  local report
  report, message, code = gate.check(list, counts, tokenizer, { rows = rows, evaluation = evaluation,
    batch_size = given.batch_size })
  if not report then return nil, message, code end
  return { rows = rows, datums = list, dataset = info, report = report }
end

return inspection
