-- The functions of the adapter contract that are the same for every engine. An adapter takes
-- them into its table, or brings its own.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local schema = require "crucible.schema"
local selection = require "crucible.lora.selection"
local utc = require "crucible.utc"

local experiment = {}

--- The beginning of an adapter's table: the functions of the contract that are here.
---@return table
function experiment.adapter()
  local adapter = {}
  for _, name in ipairs {
    "generate_id", "create_experiment", "batch_dataset", "format_training_data", "calculate_metrics",
    "validate_quality", "sampling_params", "checkpoint_name",
  } do
    adapter[name] = experiment[name]
  end
  return adapter
end

--- Now, in UTC, as ISO 8601.
---@return string
function experiment.now() return utc.text() end

--- Sixteen lower-case hexadecimal characters from the system's random source.
---@return string
function experiment.generate_id()
  local bytes = fs.random_bytes(8)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

local experiment_options = schema.new("lora.create_experiment", {
  { name = "name", check = schema.string, doc = "what it is called" },
  { name = "description", default = "", check = schema.string, doc = "what it is about" },
  { name = "config", default = {}, check = schema.table, doc = "options of lora.config.new, or a config" },
  { name = "tags", default = {}, check = schema.list(schema.string), doc = "words to find it by" },
})

--- A record of an experiment: id, name, description, config, tags, status "pending",
--- created_at (UTC), metrics {}, checkpoints {}. Without a name: nil, message, "argument".
---@param options { name: string, description: string?, config: table?, tags: string[]? }
---@return table? record, string? message, string? code
function experiment.create_experiment(options)
  local given = experiment_options:resolve(options)
  if not given.name or not given.name:find("%S") then
    return errors.failure("argument", "lora.create_experiment: an experiment needs a name")
  end
  return {
    id = experiment.generate_id(), name = given.name, description = given.description, config = given.config,
    tags = given.tags, status = "pending", created_at = experiment.now(), metrics = {}, checkpoints = {},
  }
end

--- The list in pieces of n, the last one short.
---@generic T
---@param list T[]
---@param n integer
---@return T[][]
function experiment.batch_dataset(list, n)
  if type(list) ~= "table" then errors.raise("lora.batch_dataset: expected a list, got %s", schema.show(list)) end
  if math.type(n) ~= "integer" or n < 1 then
    errors.raise("lora.batch_dataset: the size must be an integer of at least 1, got %s", schema.show(n))
  end
  local batches = {}
  for first = 1, #list, n do
    batches[#batches + 1] = table.move(list, first, math.min(first + n - 1, #list), 1, {})
  end
  return batches
end

local training_data_options = schema.new("lora.format_training_data", {
  { name = "weight", default = 1, check = schema.number(), doc = "of rows that bring none" },
})

--- Rows as the tokeniser step takes them: `{ input, output, weight }`, those of messages with these and
--- what says how they are rendered.
---@param batch { input: string, output: string, weight: number? }[]
---@param options { weight: number? }?
---@return { input: string, output: string, weight: number }[]
function experiment.format_training_data(batch, options)
  local given = training_data_options:resolve(options)
  local formatted = {}
  for i, row in ipairs(batch) do
    if type(row) ~= "table" or type(row.input) ~= "string" or type(row.output) ~= "string" then
      errors.raise("lora.format_training_data: row %d must be { input = string, output = string }", i)
    end
    formatted[i] = {
      input = row.input, output = row.output, weight = row.weight or given.weight, messages = row.messages,
      template = row.template, train_on = row.train_on,
    }
  end
  return formatted
end

local function is_finite(value)
  return type(value) == "number" and value == value and value ~= math.huge and value ~= -math.huge
end

local function mean(values)
  local sum = 0
  for _, value in ipairs(values) do sum = sum + value end
  return sum / #values
end

-- The finite values of a field over the steps that were not skipped.
local function collect(steps, field)
  local values = {}
  for _, step in ipairs(steps) do
    if not step.skipped and is_finite(step[field]) then values[#values + 1] = step[field] end
  end
  return values
end

--- mean_loss, loss_reduction (first − last), min_loss, max_loss, final_loss, total_steps, and
--- mean_citation_invalid_rate when steps carry citation_invalid_rate. Skipped steps count in
--- total_steps alone. Of an empty list: total_steps 0 and nothing else.
---@param steps { loss: number, skipped: boolean?, citation_invalid_rate: number? }[]
---@return table<string, number>
function experiment.calculate_metrics(steps)
  local metrics = { total_steps = #steps }
  local losses = collect(steps, "loss")
  if #losses == 0 then return metrics end
  metrics.mean_loss = mean(losses)
  metrics.loss_reduction = losses[1] - losses[#losses]
  metrics.final_loss = losses[#losses]
  metrics.min_loss, metrics.max_loss = losses[1], losses[1]
  for _, loss in ipairs(losses) do
    metrics.min_loss = math.min(metrics.min_loss, loss)
    metrics.max_loss = math.max(metrics.max_loss, loss)
  end
  local rates = collect(steps, "citation_invalid_rate")
  if #rates > 0 then metrics.mean_citation_invalid_rate = mean(rates) end
  return metrics
end

local function assess(name, target, actual)
  local measured, most = is_finite(actual), selection.direction(name) == "min"
  local passed = measured and (most and actual <= target or not most and actual >= target)
  return {
    metric = name, target = target, actual = actual, passed = passed, delta = measured and actual - target or nil,
  }
end

local function summarise(assessments)
  local failed, passed = {}, 0
  for _, a in ipairs(assessments) do
    if a.passed then
      passed = passed + 1
    elseif a.delta then
      failed[#failed + 1] = ("%s %.3g %s %.3g"):format(a.metric, a.actual, a.delta < 0 and "<" or ">", a.target)
    else
      failed[#failed + 1] = a.metric .. " not measured"
    end
  end
  local summary = ("%d/%d quality targets met"):format(passed, #assessments)
  return #failed == 0 and summary or summary .. "; failed: " .. table.concat(failed, ", ")
end

--- Compares metrics with config.quality_targets: at least the target, or at most it where less is better
--- (perplexity, loss, invalid rates …). A target whose metric was not computed has
--- actual nil and has not passed ("not measured").
---@param metrics table<string, number>
---@param config crucible.lora.Config
---@return { passed: boolean, assessments: table[], summary: string }
function experiment.validate_quality(metrics, config)
  local names, assessments, passed = {}, {}, true
  for name in pairs(config.quality_targets) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    assessments[i] = assess(name, config.quality_targets[name], metrics[name])
    passed = passed and assessments[i].passed
  end
  return { passed = passed, assessments = assessments, summary = summarise(assessments) }
end

local sampling_options = schema.new("lora.sampling_params", {
  { name = "temperature", default = 0.7, check = schema.number { min = 0 }, doc = "0 = greedy" },
  { name = "top_p", default = 0.95, check = schema.number { above = 0, max = 1 },
    doc = "draw among the likeliest tokens of this mass; 1 = off" },
  { name = "top_k", default = 0, check = schema.integer { min = 0 }, doc = "draw among this many tokens; 0 = off" },
  { name = "min_p", default = 0, check = schema.number { min = 0, below = 1 },
    doc = "draw among tokens at least this times as likely as the likeliest; 0 = off" },
  { name = "repetition_penalty", default = 1, check = schema.number { above = 0 },
    doc = "logits of tokens in the row so far, prompt included, are divided by it; 1 = off" },
  { name = "max_tokens", default = 512, check = schema.integer { min = 0 }, doc = "new tokens for each prompt" },
  { name = "stop_sequences", default = {}, check = schema.list(schema.nonempty_string),
    doc = "texts that end a row, wherever tokens split them; not part of the output" },
  { name = "stop_ids", check = schema.list(schema.integer { min = 0 }),
    doc = "tokens that end a row; default: the tokenizer's end token" },
  { name = "seed", check = schema.integer(),
    doc = "prompt i draws from its own stream (seed, i); default: the session's" },
  { name = "max_batch", default = 0, check = schema.integer { min = 0 },
    doc = "rows decoded together; 0 = the engine's choice" },
  { name = "cache_bytes", default = 0, check = schema.integer { min = 0 },
    doc = "memory for keys and values, which bounds the rows decoded together; 0 = the engine's choice" },
  { name = "constraint", check = schema.table,
    doc = "what the text must become: { choices = … }, { regex = … } or { grammar = \"claims\" }" },
  { name = "trim", default = false, check = schema.boolean, doc = "remove white space around the text" },
  { name = "base", default = false, check = schema.boolean, doc = "leave the lora out" },
})

--- Checked sampling parameters with defaults: temperature 0.7, top_p 0.95, max_tokens 512,
--- stop_sequences {}, and others.
---@param options table?
---@return table
function experiment.sampling_params(options) return sampling_options:resolve(options) end

--- The schema behind sampling_params, for functions that hand sampling options on.
experiment.sampling_options = sampling_options

--- "<id>_step_<step>_<unix time>"
---@param id string
---@param step integer
---@return string
function experiment.checkpoint_name(id, step) return ("%s_step_%d_%d"):format(id, step, utc.time()) end

return experiment
