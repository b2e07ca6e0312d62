-- Unlikelihood: what must not be said loses probability; Welleck et al. 2019 ("Neural Text Generation with
-- Unlikelihood Training").
--
-- of = "marked" (sequence level, equation 5): −Σ log(1 − p) over the supervised targets of rows whose field
-- `unlikely` is true, −Σ log p over those of other rows.
-- of = "context" (token level, equations 2 and 3): −Σ_t [ log p(x_t) + α Σ_{c ∈ C_t} log(1 − p(c)) ], where
-- C_t are the supervised targets before t other than x_t: against repetition.
--
-- Where p reaches 1 − 1e-7 the slope ends, so that the loss stays finite.
local rows = require "crucible.losses.rows"
local schema = require "crucible.schema"

local options = schema.new('loss "unlikelihood"', {
  { name = "of", default = "marked", check = schema.one_of { "marked", "context" }, doc = "what must not be said" },
  { name = "alpha", default = 1, check = schema.number { min = 0 }, doc = "weight of what must not be said" },
})

-- log(1 − p) from log p.
local function log_complement(logprobs) return (-logprobs:clamp(nil, -1e-7):expm1()):log() end

local function compute_marked(alpha)
  return function(predictions, targets)
    local total
    for i, target in ipairs(targets) do
      local values = predictions.logprobs[i]
      if rows.field(target.datum, "unlikely") then values = log_complement(values) * alpha end
      local loss = -(values * target.weights):sum()
      total = total and total + loss or loss
    end
    return { loss = total }
  end
end

local function target_ids(datum)
  if datum.targets then return datum.targets end
  return table.move(datum.tokens, 2, #datum.tokens, 1, {})
end

-- Supervised positions, and at each the supervised targets before it other than its own, each once.
local function contexts(datum)
  local ids, before, seen, group = target_ids(datum), {}, {}, { positions = {}, ids = {} }
  for t, id in ipairs(ids) do
    if not datum.weights or datum.weights[t] ~= 0 then
      local list = {}
      for _, other in ipairs(before) do
        if other ~= id then list[#list + 1] = other end
      end
      if #list > 0 then
        table.insert(group.positions, t)
        table.insert(group.ids, list)
      end
      if not seen[id] then
        seen[id] = true
        before[#before + 1] = id
      end
    end
  end
  return group
end

local function compute_context(alpha)
  return function(predictions, targets)
    local total
    for i, target in ipairs(targets) do
      local group = predictions.candidates[i].context
      local loss = -(predictions.logprobs[i] * target.weights):sum()
      if #group > 0 then loss = loss - alpha * log_complement(group.values):sum() end
      total = total and total + loss or loss
    end
    return { loss = total }
  end
end

--- The loss with its options: of "marked" or "context", alpha (1).
---@param given { of: string?, alpha: number? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  local loss = { name = "unlikelihood", outputs = { "logprobs" }, count = rows.supervised, options = chosen }
  if chosen.of == "marked" then
    loss.compute = compute_marked(chosen.alpha)
    return loss
  end
  loss.outputs, loss.compute = { "logprobs", "candidates" }, compute_context(chosen.alpha)
  loss.request = function(datum) return { candidates = { context = contexts(datum) } } end
  return loss
end
