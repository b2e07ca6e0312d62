-- Rewards of sampled texts: metrics by name, Lua functions, or weighted sums of both.
local claims = require "crucible.metrics.claims"
local errors = require "crucible.errors"
local metrics = require "crucible.metrics"
local schema = require "crucible.schema"

local rewards = {}

---@class crucible.lora.RolloutSample
---@field prompt string      as the data has it
---@field text string        sampled, white space around it removed
---@field expected string?   the row's output
---@field metadata table     of the row
---@field tokens integer[]   sampled, the end token left out
---@field finish "stop"|"length"
---@field step integer
---@field group integer      number of the prompt within the step
---@field index integer      number of the sample within its group

---@class crucible.lora.RewardTerm
---@field name string
---@field weight number
---@field value fun(sample: crucible.lora.RolloutSample): number, table<string, number>?

-- Metrics of claims that a text's form and citations decide; the others wait for scorers.
local without_scorers = {
  schema_compliance = true, citation_accuracy = true, betti_1 = true, polarity_conflicts = true,
  consistency_score = true, chirality = true,
}

local function assessment_of(sample)
  sample.assessment = sample.assessment or claims.begin(sample.text, claims.expectation {
    input = sample.prompt, expected = sample.expected or "", metadata = sample.metadata,
  })
  return sample.assessment
end

-- A metric of one text; the lower the better counts against it.
local function by_metric(name)
  local metric = metrics.find(name)
  if metric.needs == "claims" and not without_scorers[name] then
    errors.raise('training_loop.rollouts: reward "%s" needs scorers; give a function that asks them', name)
  end
  if metric.needs == "likelihood" or metric.needs == "label scores" then
    errors.raise('training_loop.rollouts: "%s" is no metric of a text', name)
  end
  return function(sample)
    local prediction = {
      input = sample.prompt, expected = sample.expected, predicted = sample.text, text = sample.text,
      correct = sample.text == sample.expected, metadata = sample.metadata,
      assessment = metric.needs == "claims" and assessment_of(sample) or nil,
    }
    local item = metric.family.observe(prediction, {})
    local value = item ~= nil and metric.value(metric.family.summarise({ item }, {}), {}) or 0
    return metric.lower and -value or value
  end
end

local function term_of(spec, place)
  local what, weight, name = spec, 1, nil
  if type(spec) == "table" and not schema.callable.read(spec) then
    what, weight, name = spec[1], spec.weight or 1, spec.name
  end
  if not schema.number().read(weight) then
    errors.raise("training_loop.rollouts: reward %d: weight must be a number, got %s", place, schema.show(weight))
  end
  if type(what) == "string" then return { name = name or what, weight = weight, value = by_metric(what) } end
  if not schema.callable.read(what) then
    errors.raise("training_loop.rollouts: reward %d must be a metric's name or a function, got %s", place,
      schema.show(what))
  end
  return { name = name or ("reward_%d"):format(place), weight = weight, value = what }
end

--- The terms of a reward: "schema_compliance", a function of a sample, or a list of such and of
--- { metric or function, weight = 1, name = "…" }. Raises on anything else.
---@param given string|function|table
---@return crucible.lora.RewardTerm[]
function rewards.terms(given)
  if type(given) == "string" or schema.callable.read(given) then given = { given } end
  if type(given) ~= "table" or #given == 0 then
    errors.raise("training_loop.rollouts: reward must be a metric's name, a function, or a list of such, got %s",
      schema.show(given))
  end
  local terms = {}
  for i, spec in ipairs(given) do terms[i] = term_of(spec, i) end
  return terms
end

--- The reward of a sample and its parts by name. Raises, naming the term, when one raises or returns no finite
--- number.
---@param terms crucible.lora.RewardTerm[]
---@param sample crucible.lora.RolloutSample
---@return number reward, table<string, number> parts
function rewards.of(terms, sample)
  local total, parts = 0, {}
  for _, term in ipairs(terms) do
    local ok, value, more = xpcall(term.value, errors.traceback, sample)
    if not ok then error(('reward "%s" of prompt %d: %s'):format(term.name, sample.group, value), 0) end
    if not schema.number().read(value) then
      error(('reward "%s" of prompt %d must be a finite number, got %s'):format(term.name, sample.group,
        schema.show(value)), 0)
    end
    total, parts[term.name] = total + term.weight * value, value
    for name, part in pairs(type(more) == "table" and more or {}) do parts[name] = part end
  end
  return total, parts
end

return rewards
