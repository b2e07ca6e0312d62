-- What a run will do, settled before step 1: the config, the loss, the rows as datums, and which
-- of them each step takes. Nothing here changes while the run goes on.
--
-- An epoch is an order of all rows, a pure function of (seed, epoch), cut into batches of batch_size
-- rows, or of as many rows as batch_tokens tokens hold, in one of the ways of lora.packing. A step takes
-- grad_accumulation batches; the last step of an epoch takes what is left. Rows of one metadata.group (a pair
-- to compare, completions of one prompt) stand side by side and in one batch.
local config = require "crucible.lora.config"
local dataset_integration = require "crucible.lora.dataset_integration"
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local gate = require "crucible.lora.gate"
local loss_functions = require "crucible.lora.loss_functions"
local packing = require "crucible.lora.packing"
local token_cache = require "crucible.lora.token_cache"

---@class crucible.lora.Plan
---@field config crucible.lora.Config
---@field loss crucible.lora.Loss
---@field datums table[]
---@field gate crucible.lora.gate.Report?
---@field dataset crucible.lora.DatasetInfo
---@field digest string  SHA-256 of all tokens and weights
---@field seed integer   of the order of rows
---@field batch_size integer
---@field batch_tokens integer?
---@field batching string     of packing.methods
---@field units integer[][]    numbers of datums that stay together
---@field steps_per_epoch integer  of the first epoch; groups and batch_tokens can change it with the order
---@field epochs integer
---@field total_steps integer
---@field known_ahead boolean  what a step trains on does not depend on the steps before it
local Plan = { batching = "in_order", known_ahead = true }
Plan.__index = Plan

local plan = { Plan = Plan }

--- The config of a run: the session's, or one that differs from it in what a run may change.
---@param session crucible.Session
---@param given table?
---@return crucible.lora.Config
function plan.run_config(session, given)
  local chosen = config.for_run(session.config, given)
  local names = config.model_differences(session.config, chosen)
  if #names == 0 then return chosen end
  local name = names[1]
  return errors.raise("training_loop.run: config.%s is %s, but the session was made with %s; it cannot change in a run",
    name, config.text_of(chosen[name]), config.text_of(session.config[name]))
end

-- Weights count as the engine takes them, in 32 bits.
local function packed(datum)
  local weights = {}
  for i, weight in ipairs(datum.weights) do weights[i] = string.pack("<f", weight) end
  return table.concat(datum.tokens, " ") .. ":" .. table.concat(weights)
end

local ROWS_AT_ONCE = 1024 -- joined for the digest: little to hold

local function digest_of(list)
  local digest, parts = "", {}
  for i, datum in ipairs(list) do
    parts[#parts + 1] = packed(datum)
    if #parts == ROWS_AT_ONCE or i == #list then digest, parts = fs.sha256(digest .. table.concat(parts, "\n")), {} end
  end
  return digest
end

-- Numbers of the datums of each metadata.group, and of each datum without one, in the order of rows.
local function units_of(list)
  local units, by_group = {}, {}
  for i, datum in ipairs(list) do
    local group = datum.metadata and datum.metadata.group
    local unit = group ~= nil and by_group[group]
    if unit then
      unit[#unit + 1] = i
    else
      units[#units + 1] = { i }
      if group ~= nil then by_group[group] = units[#units] end
    end
  end
  return units
end

--- Settles epochs, steps_per_epoch and total_steps.
---@param self crucible.lora.Plan
---@param options { epochs: integer?, max_steps: integer? }
function plan.count_steps(self, options)
  self.steps_per_epoch = self:steps_in(1)
  local most, wanted = options.max_steps or math.maxinteger, options.epochs
  if not wanted and not options.max_steps then wanted = 1 end
  local epochs, steps = 0, 0
  while steps < most and epochs < (wanted or math.maxinteger) do
    epochs = epochs + 1
    steps = steps + self:steps_in(epochs)
  end
  self.epochs, self.total_steps = wanted or epochs, math.min(steps, most)
end

-- The rows that the run is judged by, where they can be read; what is wrong with them is told by the
-- evaluation itself.
local function evaluation_rows(dataset, options)
  local given = options.evaluate
  if type(given) ~= "table" then return nil end
  local source = given.dataset or dataset
  local asked, known = dataset_integration.row_options:pick(given), dataset_integration.find(source)
  asked.split = asked.split or "test"
  asked.split = known and known.fallback and known.fallback[asked.split] or asked.split
  asked.transform, asked.formatter = asked.transform or options.transform, asked.formatter or options.formatter
  return (dataset_integration.prepare_dataset(source, asked))
end

local WORTH_CACHING = 1 << 22 -- bytes of text; less is tokenised as fast as it is looked up

-- The folder for tokenised data, or nil to do without.
local function cache_folder(wanted, rows)
  if wanted == false then return nil end
  if type(wanted) == "string" then return wanted end
  if wanted then return token_cache.folder() end
  local bytes = 0
  for _, row in ipairs(rows) do bytes = bytes + #row.input + #row.output end
  return bytes >= WORTH_CACHING and token_cache.folder() or nil
end

local function load_datums(self, session, dataset, options)
  local rows, info, code = dataset_integration.prepare_dataset(dataset, dataset_integration.row_options:pick(options))
  if not rows then return nil, info, code end
  local formatted = require("crucible.lora").format_training_data(rows)
  for i, row in ipairs(rows) do formatted[i].metadata = row.metadata end
  local limit = math.min(self.config.max_length or session.context, session.context)
  local list, counts
  list, counts, code = datums.build(session.tokenizer, formatted, {
    max_length = limit, truncation = self.config.truncation, cache = cache_folder(options.token_cache, rows),
  })
  if not list then return nil, counts, code end
  local provided, message, what = loss_functions.check(self.loss, list)
  if not provided then return nil, message, what end
  if session.check_loss then session:check_loss(self.loss, list) end
  self.datums, self.dataset, self.units = list, info, units_of(list)
  if options.gate or #list == 0 then
    self.gate, counts, code = gate.check(list, counts, session.tokenizer, {
      rows = rows, evaluation = evaluation_rows(dataset, options), batch_size = self.batch_size,
    })
    if not self.gate then return nil, counts, code end
  end
  return true
end

--- The plan of a run. Raises on misuse; a data set that cannot be read or trained on gives nil,
--- message, code.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table  resolved options of training_loop.run
---@return crucible.lora.Plan? plan, string? message, string? code
function plan.make(session, dataset, options)
  local registry = session.loss_functions or loss_functions
  local self = setmetatable({
    config = plan.run_config(session, options.config), loss = registry.resolve(options.loss_fn),
    seed = options.seed or session.seed, shuffle = options.shuffle, batch_size = options.batch_size,
    batch_tokens = options.batch_tokens, batching = options.batching,
  }, Plan)
  if self.batching == "best_fit" and not self.batch_tokens then
    errors.raise('training_loop.run: batching = "best_fit" fills batches of batch_tokens, which is missing')
  end
  loss_functions.check_dataset(self.loss, dataset)
  local ok, message, code = load_datums(self, session, dataset, options)
  if not ok then return nil, message, code end
  plan.count_steps(self, options)
  self.digest = digest_of(self.datums)
  return self
end

local function rows_of(unit) return #unit end

-- What a unit takes in tokens; prompts of a run by rewards, whose answers are not there yet, are not asked.
local function tokens_of(unit, list)
  local tokens = 0
  for _, number in ipairs(unit) do tokens = tokens + #list[number].tokens - 1 end
  return tokens
end

local function measure(self, size)
  local sizes = {}
  for i, unit in ipairs(self.units) do sizes[i] = size(unit, self.datums) end
  return sizes
end

-- What packing needs to know, found once.
local function packing_of(self)
  local by_length = self.batch_tokens or self.batching == "bucket"
  local lengths = by_length and measure(self, tokens_of) or nil
  return {
    sizes = self.batch_tokens and lengths or measure(self, rows_of), lengths = lengths,
    room = self.batch_tokens or self.batch_size, method = self.batching, seed = self.seed, shuffle = self.shuffle,
  }
end

-- Batches of an epoch as lists of datum numbers: as many units as there is room for, at least one.
local function lay_out(self, epoch)
  self.packing = self.packing or packing_of(self)
  local batches = {}
  for i, places in ipairs(packing.epoch(self.packing, epoch)) do
    local batch = {}
    for _, place in ipairs(places) do table.move(self.units[place], 1, #self.units[place], #batch + 1, batch) end
    batches[i] = batch
  end
  return batches
end

--- The batches of an epoch, as lists of numbers of datums.
---@param epoch integer  from 1
---@return integer[][]
function Plan:batches(epoch)
  if self.known_epoch ~= epoch then self.known_epoch, self.known_batches = epoch, lay_out(self, epoch) end
  return self.known_batches
end

--- Optimiser steps in an epoch.
---@param epoch integer  from 1
---@return integer
function Plan:steps_in(epoch)
  local count = #self.datums
  if self.batch_tokens or #self.units < count or self.batching ~= "in_order" then
    count = #self:batches(epoch)
  else
    count = (count + self.batch_size - 1) // self.batch_size
  end
  return (count + self.config.grad_accumulation - 1) // self.config.grad_accumulation
end

--- The batches of a step, and the units of the loss in all of them.
---@param epoch integer  from 1
---@param index integer  step within the epoch, from 1
---@return table[][] batches, table<string, number> counts
function Plan:step(epoch, index)
  local numbers, batches, all = self:batches(epoch), {}, {}
  local each = self.config.grad_accumulation
  for place = (index - 1) * each + 1, math.min(index * each, #numbers) do
    local batch = {}
    for i, number in ipairs(numbers[place]) do
      batch[i] = self.datums[number]
      all[#all + 1] = batch[i]
    end
    batches[#batches + 1] = batch
  end
  return batches, loss_functions.counts(self.loss, all)
end

-- A loss in words: its name and options, and what a composite is made of.
local function loss_of(loss)
  local parts = {}
  if not loss.terms then
    for name, value in pairs(loss.options or {}) do
      if type(value) ~= "table" then parts[#parts + 1] = ("%s = %s"):format(name, tostring(value)) end
    end
    table.sort(parts)
    return #parts == 0 and loss.name or ("%s { %s }"):format(loss.name, table.concat(parts, ", "))
  end
  for i, term in ipairs(loss.terms) do
    local weight = type(term.weight) == "number" and ("%.17g"):format(term.weight) or "a schedule"
    parts[i] = ("%s × %s"):format(weight, loss_of(term.loss))
  end
  return ("%s(%s)"):format(loss.name, table.concat(parts, ", "))
end

--- What must be the same for a run to go on from a checkpoint and reach the same bytes.
---@return table<string, any>
function Plan:identity()
  return {
    rows = #self.datums, data_sha256 = self.digest, seed = self.seed, shuffle = self.shuffle,
    batch_size = self.batch_size, batch_tokens = self.batch_tokens, batching = self.batching,
    grad_accumulation = self.config.grad_accumulation, loss = loss_of(self.loss),
  }
end

local identity_fields = {
  "batch_size", "batch_tokens", "batching", "data_sha256", "grad_accumulation", "group_size", "loss", "rows",
  "sampling", "seed", "shuffle",
}

--- The first difference between this plan and a checkpoint's identity, in words; nil if none.
---@param identity table<string, any>
---@return string?
function Plan:difference(identity)
  local own = self:identity()
  for _, name in ipairs(identity_fields) do
    if own[name] ~= identity[name] then
      return ("%s was %s, now it is %s"):format(name, tostring(identity[name]), tostring(own[name]))
    end
  end
end

return plan
