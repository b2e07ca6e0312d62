-- Divergence of the predicted distribution from a teacher's over the whole vocabulary, at supervised targets:
-- Σ weight · D. The teacher is the base model (lora left out) or another session over the same vocabulary.
--
-- p is the teacher's distribution, q the session's, both of logits over the temperature (Hinton et al. 2015; values are
-- not multiplied by its square):
--     forward          Σ p log(p / q)            covers what the teacher does
--     reverse          Σ q log(q / p)            stays within it
--     jensen_shannon   ½ KL(p|m) + ½ KL(q|m), m = (p + q) / 2      at most ln 2
local errors = require "crucible.errors"
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"

local options = schema.new('loss "kl_divergence"', {
  { name = "direction", default = "forward", check = schema.one_of { "forward", "reverse", "jensen_shannon" },
    doc = "which of the two is the reference" },
  { name = "temperature", default = 1, check = schema.number { above = 0 }, doc = "what logits are divided by" },
  { name = "teacher", default = "base", check = schema.either(schema.one_of { "base" }, schema.table),
    doc = '"base", or a session' },
})

local kinds = { forward = "forward_kl", reverse = "reverse_kl", jensen_shannon = "jensen_shannon" }

local function compute(predictions, targets)
  local loss = 0
  for i, target in ipairs(targets) do loss = loss + (predictions.comparisons[1][i] * target.weights):sum() end
  return { loss = loss }
end

--- The loss with its options: direction ("forward"), temperature (1), teacher ("base").
---@param given { direction: string?, temperature: number?, teacher: "base"|crucible.Session|nil }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  local teacher = chosen.teacher ~= "base" and chosen.teacher or nil
  if teacher and not teacher.core then
    errors.raise('loss "kl_divergence": teacher must be "base" or a session, got %s', schema.show(teacher))
  end
  return {
    name = "kl_divergence", type = "builtin", count = rows.supervised, outputs = { "comparisons" }, compute = compute,
    comparisons = { { kind = kinds[chosen.direction], temperature = chosen.temperature, teacher = teacher } },
    options = {
      direction = chosen.direction, temperature = chosen.temperature, teacher = teacher and "session" or "base",
    },
  }
end
