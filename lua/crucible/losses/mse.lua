-- Mean squared differences:
--     on = "hidden"    of final hidden states (after the norm) and a teacher's, mean over their d values, at supervised
--                      targets: Σ weight · mean (h − h')²
--     on = "logits"    of logits and a teacher's, mean over the vocabulary, likewise
--     on = "targets"   of mean hidden states over spans and values given with the row:
--                      metadata.hidden_targets = { spans = { { first, last }, … }, values = { { d numbers }, … } };
--                      its units are spans
-- The teacher is the base model (lora left out) or another session over the same vocabulary (and width).
local errors = require "crucible.errors"
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"
local tensor = require "crucible.tensor"

local options = schema.new('loss "mse"', {
  { name = "on", default = "hidden", check = schema.one_of { "hidden", "logits", "targets" },
    doc = "what is compared" },
  { name = "teacher", default = "base", check = schema.either(schema.one_of { "base" }, schema.table),
    doc = '"base", or a session' },
})

local kinds = { hidden = "hidden_square", logits = "logit_square" }

local function compare(predictions, targets)
  local loss = 0
  for i, target in ipairs(targets) do loss = loss + (predictions.comparisons[1][i] * target.weights):sum() end
  return { loss = loss }
end

local function given_targets(datum) return datum.metadata and datum.metadata.hidden_targets end

local function spans_of(datum)
  local given = given_targets(datum)
  return given and #given.spans or 0
end

local function request(datum) return { spans = given_targets(datum) and given_targets(datum).spans or {} } end

local function to_targets(predictions, targets)
  local loss = 0
  for i, target in ipairs(targets) do
    if spans_of(target.datum) > 0 then
      local difference = predictions.hidden[i] - tensor.new(given_targets(target.datum).values)
      loss = loss + (difference ^ 2):mean(2):sum()
    end
  end
  return { loss = loss }
end

--- The loss with its options: on ("hidden"), teacher ("base").
---@param given { on: "hidden"|"logits"|"targets"|nil, teacher: "base"|crucible.Session|nil }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  local teacher = chosen.teacher ~= "base" and chosen.teacher or nil
  if teacher and not teacher.core then
    errors.raise('loss "mse": teacher must be "base" or a session, got %s', schema.show(teacher))
  end
  if chosen.on == "targets" then
    return {
      name = "mse", type = "builtin", count = spans_of, outputs = { "hidden" }, request = request, compute = to_targets,
      requires = { "hidden_targets" }, options = { on = "targets" },
    }
  end
  return {
    name = "mse", type = "builtin", count = rows.supervised, outputs = { "comparisons" }, compute = compare,
    comparisons = { { kind = kinds[chosen.on], teacher = teacher } },
    options = { on = chosen.on, teacher = teacher and "session" or "base" },
  }
end
