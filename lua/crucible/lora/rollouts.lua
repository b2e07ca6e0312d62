-- What a run by rewards does in each step, in the place of a plan of rows: samples several answers to some
-- prompts with the policy as it is, rewards them, and gives them to the loss as datums. Everything else (the
-- update, schedule, telemetry, checkpoints, evaluation) is the loop's.
--
-- A step is a function of (weights, seed, step): prompts in an order that is a function of (seed, epoch), samples
-- from streams of (seed, step, prompt). So a run that is killed goes on to the same bytes.
--
-- Each sample is a datum whose supervised targets are what was sampled, the end token included, with
--
--     metadata.group      "step.prompt": one for all answers to a prompt in a step
--     reward              of the answer
--     advantages          (reward − mean of the group) / (its deviation + 1e-4), deviation with n − 1 below
--     sampling_logprobs   log-probability of each target when it was sampled, if the loss asks for it
--
-- so that the losses "grpo", "ppo" and "importance_sampling" fit, and any other with such fields.
local dataset_integration = require "crucible.lora.dataset_integration"
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local json = require "crucible.json"
local loss_functions = require "crucible.lora.loss_functions"
local plan = require "crucible.lora.plan"
local random = require "crucible.random"
local rewards = require "crucible.lora.rewards"
local schema = require "crucible.schema"

local rollouts = {}

local entries = {
  { name = "reward", required = true, check = schema.any,
    doc = "a metric's name, (sample) → number, or a list of such and of { …, weight = 1, name = … }" },
  { name = "group_size", default = 4, check = schema.integer { min = 1 }, doc = "answers to each prompt of a step" },
  { name = "batch_size", default = 4, check = schema.integer { min = 1 }, doc = "prompts a batch" },
  { name = "loss", default = "grpo", check = schema.either(schema.nonempty_string, schema.table),
    doc = '"grpo", "ppo", "importance_sampling", or a loss over the fields of such datums' },
  { name = "max_steps", check = schema.integer { min = 1 }, doc = "optimiser steps at most" },
  { name = "epochs", check = schema.integer { min = 1 },
    doc = "times through the prompts; default: 1, or what max_steps takes" },
  { name = "most_prompt_tokens", check = schema.integer { min = 1 }, doc = "longer prompts are left out" },
}

-- Sampling options ride along; the policy is sampled as it is unless told otherwise.
local own_defaults = { temperature = 1, top_p = 1, max_tokens = 128 }
for _, entry in ipairs(experiment.sampling_options.entries) do
  if entry.name ~= "seed" and entry.name ~= "base" and entry.name ~= "trim" then
    entries[#entries + 1] = { name = entry.name, check = entry.check, doc = entry.doc,
      default = own_defaults[entry.name] or entry.default }
  end
end

--- Options that only runs by rewards have.
rollouts.entries = entries

---@class crucible.lora.RolloutPlan: crucible.lora.Plan
local Rollouts = setmetatable({ known_ahead = false }, { __index = plan.Plan })
Rollouts.__index = Rollouts

-- ---- prompts -------------------------------------------------------------------------------

local function prompt_of(row)
  if type(row) == "string" then return { input = row } end
  return row
end

-- A prompt that leaves room for the answer: cut from its left or left out as config.truncation has it.
local function fitting(self, session, ids)
  local longest = math.min(self.config.max_length or session.context, session.context)
  local room = longest - self.sampling.max_tokens - 1
  if #ids <= room then return ids end
  if self.config.truncation == "drop" or room < 1 then return nil end
  return datums.cut_left(session.tokenizer, ids, room)
end

-- Prompts as ids with their rows: texts, rows, or those of a data set.
local function load_prompts(self, session, source, options)
  local info = { name = "prompts", source = "a table" }
  if type(source) == "table" and type(source[1]) == "string" then
    local list = {}
    for i, text in ipairs(source) do list[i] = prompt_of(text) end
    source = list
  else
    local message, code
    source, message, code = dataset_integration.prepare_dataset(source,
      dataset_integration.row_options:pick(options))
    if not source then return nil, message, code end
    info = message
  end
  self.dataset, self.datums = info, {}
  local most = options.most_prompt_tokens or math.maxinteger
  for i, row in ipairs(source) do
    local ids = fitting(self, session, session.tokenizer:prompt(row.input))
    if ids and #ids <= most then
      self.datums[#self.datums + 1] = { row = i, ids = ids, input = row.input, expected = row.output,
        metadata = row.metadata or {} }
    end
  end
  return true
end

local function digest_of(prompts)
  local parts = {}
  for i, prompt in ipairs(prompts) do parts[i] = table.concat(prompt.ids, " ") end
  return fs.sha256(table.concat(parts, "\n"))
end

local function needs(loss, name)
  for _, field in ipairs(loss.requires or {}) do
    if field == name then return true end
  end
  for _, term in ipairs(loss.terms or {}) do
    if needs(term.loss, name) then return true end
  end
  return false
end

--- The plan of a run by rewards. Raises on misuse.
---@param session crucible.Session
---@param prompts string|string[]|table[]  a data set's name, texts, or rows { input, output?, metadata? }
---@param options table  resolved options of training_loop.rollouts
---@return crucible.lora.RolloutPlan? plan, string? message, string? code
function rollouts.make(session, prompts, options)
  local registry = session.loss_functions or loss_functions
  local self = setmetatable({
    config = plan.run_config(session, options.config), loss = registry.resolve(options.loss),
    seed = options.seed or session.seed, shuffle = options.shuffle, batch_size = options.batch_size,
    training_metric = "reward", evaluation_loss = loss_functions.get "cross_entropy",
    group_size = options.group_size, terms = rewards.terms(options.reward), session = session, what = "rollouts",
    sampling = experiment.sampling_params(experiment.sampling_options:pick(options)),
  }, Rollouts)
  if session.check_loss then session:check_loss(self.loss, {}) end
  self.asks_logprobs = needs(self.loss, "sampling_logprobs")
  local ok, message, code = load_prompts(self, session, prompts, options)
  if not ok then return nil, message, code end
  if #self.datums == 0 then
    return errors.failure("data", "no prompt leaves room for %d new tokens in a context of %d: lower max_tokens",
      self.sampling.max_tokens, session.context)
  end
  self.units = {}
  for i = 1, #self.datums do self.units[i] = { i } end
  plan.count_steps(self, options)
  self.digest = digest_of(self.datums)
  return self
end

function Rollouts:identity()
  local same = plan.Plan.identity(self)
  same.group_size = self.group_size
  same.sampling = json.encode(self.sampling)
  return same
end

-- ---- one step ------------------------------------------------------------------------------

-- Numbers of the prompts of a step.
local function numbers_of(self, epoch, index)
  local batches, numbers = self:batches(epoch), {}
  local each = self.config.grad_accumulation
  for place = (index - 1) * each + 1, math.min(index * each, #batches) do
    table.move(batches[place], 1, #batches[place], #numbers + 1, numbers)
  end
  return numbers
end

-- Completions of a step's prompts, each group_size times.
local function sample(self, numbers, step)
  local prompts = {}
  for _, number in ipairs(numbers) do
    for _ = 1, self.group_size do prompts[#prompts + 1] = self.datums[number].ids end
  end
  local params = {}
  for name, value in pairs(self.sampling) do params[name] = value end
  params.seed = random.generator(self.seed, step)(2 ^ 31 - 1 | 0)
  return self.session:sample(prompts, params)
end

-- What was sampled ends in the end token if that is what ended it; after a stop text nothing says so.
local function sampled_ids(self, completion)
  local ids = table.move(completion.tokens, 1, #completion.tokens, 1, {})
  local ended = completion.finish == "stop" and #self.sampling.stop_sequences == 0 and not self.sampling.stop_ids
  if ended or #ids == 0 then ids[#ids + 1] = self.session.tokenizer.eos end
  return ids
end

local function datum_of(self, prompt, completion)
  local tokens, weights = table.move(prompt.ids, 1, #prompt.ids, 1, {}), {}
  local ids = sampled_ids(self, completion)
  table.move(ids, 1, #ids, #tokens + 1, tokens)
  for i = 1, #tokens - 1 do weights[i] = i >= #prompt.ids and 1 or 0 end
  return { tokens = tokens, weights = weights, prompt_length = #prompt.ids, row = prompt.row }
end

local function metadata_of(prompt, group)
  local metadata = {}
  for name, value in pairs(prompt.metadata) do metadata[name] = value end
  metadata.group = group
  return metadata
end

local function trim(text) return text:match "^%s*(.-)%s*$" end

-- The datums of one prompt, rewarded.
local function group_of(self, number, place, completions, step)
  local prompt, group, samples = self.datums[number], {}, {}
  for index = 1, self.group_size do
    local completion = completions[(place - 1) * self.group_size + index]
    local datum = datum_of(self, prompt, completion)
    local one = {
      prompt = prompt.input, text = trim(completion.text), expected = prompt.expected, metadata = prompt.metadata,
      tokens = completion.tokens, finish = completion.finish, step = step, group = place, index = index,
    }
    one.reward, one.parts = rewards.of(self.terms, one)
    one.assessment = nil
    datum.metadata, datum.reward = metadata_of(prompt, ("%d.%d"):format(step, place)), one.reward
    group[index], samples[index] = datum, one
  end
  return group, samples
end

local function moments(values)
  local mean, squares = 0, 0
  for _, value in ipairs(values) do mean = mean + value / #values end
  for _, value in ipairs(values) do squares = squares + (value - mean) ^ 2 end
  return mean, #values > 1 and math.sqrt(squares / (#values - 1)) or 0
end

-- Advantages within a group; returns its deviation. One answer alone has its reward for an advantage.
local function judge(group)
  local values = {}
  for i, datum in ipairs(group) do values[i] = datum.reward end
  local mean, deviation = moments(values)
  for _, datum in ipairs(group) do
    datum.advantages = #group > 1 and (datum.reward - mean) / (deviation + 1e-4) or datum.reward
  end
  return deviation
end

-- Adds the log-probability of each target under the policy that sampled, dropout off; 0 where there is no weight.
local function add_logprobs(self, list)
  local found, message, code = self.session:forward(list)
  if not found then return nil, message, code end
  for d, datum in ipairs(list) do
    local logprobs = {}
    for t, weight in ipairs(datum.weights) do logprobs[t] = weight ~= 0 and found.logprobs[d][t] or 0 end
    datum.sampling_logprobs = logprobs
  end
  return true
end

-- What the step's record says of rewards: means over all samples.
local function measured(samples, deviations)
  local found, count = { reward = 0, ["reward.length"] = 0, ["reward.finished"] = 0 }, #samples
  for _, one in ipairs(samples) do
    found.reward = found.reward + one.reward / count
    found["reward.length"] = found["reward.length"] + #one.tokens / count
    found["reward.finished"] = found["reward.finished"] + (one.finish == "stop" and 1 or 0) / count
    for name, part in pairs(one.parts) do
      if type(part) == "number" then found["reward." .. name] = (found["reward." .. name] or 0) + part / count end
    end
  end
  local spread, idle = 0, 0
  for _, deviation in ipairs(deviations) do
    spread, idle = spread + deviation / #deviations, idle + (deviation == 0 and 1 or 0) / #deviations
  end
  found["reward.deviation"], found["reward.idle_groups"] = spread, idle
  return found
end

-- The step's groups as batches, none cut.
local function batches_of(self, groups)
  local batches = {}
  for first = 1, #groups, self.batch_size do
    local batch = {}
    for place = first, math.min(first + self.batch_size - 1, #groups) do
      table.move(groups[place], 1, #groups[place], #batch + 1, batch)
    end
    batches[#batches + 1] = batch
  end
  return batches
end

--- Samples and rewards; the batches of a step, the units of the loss, and what the step's record says of it.
---@param epoch integer
---@param index integer  step within the epoch, from 1
---@param step integer
---@return table[][]? batches, table|string counts_or_message, string|table code_or_found
function Rollouts:step(epoch, index, step)
  local numbers = numbers_of(self, epoch, index)
  local completions, message, code = sample(self, numbers, step)
  if not completions then return nil, message, code end
  local groups, all, samples, deviations = {}, {}, {}, {}
  for place, number in ipairs(numbers) do
    local theirs
    groups[place], theirs = group_of(self, number, place, completions, step)
    deviations[place] = judge(groups[place])
    table.move(groups[place], 1, #groups[place], #all + 1, all)
    table.move(theirs, 1, #theirs, #samples + 1, samples)
  end
  if self.asks_logprobs then
    local ok
    ok, message, code = add_logprobs(self, all)
    if not ok then return nil, message, code end
  end
  return batches_of(self, groups), loss_functions.counts(self.loss, all), {
    components = measured(samples, deviations), rollouts = samples,
  }
end

return rollouts
