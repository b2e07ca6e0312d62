-- Do thesis and antithesis get their due share?
--
-- q = log-softmax of the masses of the three labels at each relation line; π = mean of exp q over the example's lines;
-- τ = shares of the labels in the target. With √π_k = exp(½ log π_k) and H = Σ (√π_k − √τ_k)² the
-- Fisher-Rao distance is d = 4·asin(√H / 2), which is 2·acos Σ √(π τ) without its singular slope where a
-- label is absent. Per example
--
--     0.6·d² / (1 + d²) + 0.2·(1 − evidence_coverage)
--
-- where evidence_coverage is the mean over cited documents of exp(mean log-probability of the id's tokens);
-- without citations the second part is dropped.
--
-- space = "logprobs" takes the target's log-probabilities alone: what a line's own label leaves of 1 is given
-- to the other two in equal parts. Reports logprobs_only = 1.
local chirality = require "crucible.domain.chirality"
local example = require "crucible.domain.example"
local graph = require "crucible.domain.graph"
local parser = require "crucible.domain.parser"
local schema = require "crucible.schema"
local slots = require "crucible.domain.slots"
local tally = require "crucible.losses.tally"
local tensor = require "crucible.tensor"

local options = schema.new('loss "chirality"', {
  { name = "space", default = "relations", check = schema.one_of { "relations", "logprobs" },
    doc = "all labels at each line, or the target's alone" },
})

local NEAR = 1e-4 -- H below which d² is its series: the slope of √H has no limit at 0

local LABELS = #parser.labels

-- ---- labels --------------------------------------------------------------------------------------

-- Log-probabilities of the labels at each line: [L, 3].
local function labels_of_candidates(own, group)
  local masses = slots.log_masses(group.values, slots.index_of(own.labels))
  return masses:reshape(#own.labels, LABELS):log_softmax(2)
end

-- The same of the target's log-probabilities.
local function labels_of_targets(own, logprobs)
  local rows = {}
  for l, line in ipairs(own.labels) do
    local mass = logprobs:clamp(slots.least, -1e-12):index_select(1, line.slot.positions):sum():clamp(nil, -1e-12)
    local rest = (-mass:expm1()):log() - math.log(LABELS - 1)
    local row = {}
    for k = 1, LABELS do row[k] = k == line.label and mass or rest end
    rows[l] = tensor.stack(row, 1)
  end
  return tensor.stack(rows, 1)
end

-- ---- the loss of one example ---------------------------------------------------------------------------

-- The square of 4·asin(√H / 2).
local function squared_distance(h)
  if h:item() < NEAR then return 4 * h * (1 + h / 12 + h * h / 90) end
  local d = 4 * (h:sqrt() / 2):asin()
  return d * d
end

-- d² between the mean of the lines' distributions and the target's shares.
local function distance_to(shares, log_labels)
  local log_mean = log_labels:logsumexp(1) - math.log(log_labels:size(1))
  local roots = {}
  for k, share in ipairs(shares) do roots[k] = math.sqrt(share) end
  local difference = (log_mean / 2):exp() - tensor.new(roots)
  return squared_distance((difference * difference):sum())
end

-- Mean over cited documents of exp(mean log-probability of the id's tokens); nil without citations.
local function coverage(own, logprobs)
  local sum, count
  for _, positions in ipairs(own.cited_positions) do
    if #positions > 0 then
      local one = logprobs:clamp(slots.least):index_select(1, positions):mean():exp()
      sum, count = sum and sum + one or one, (count or 0) + 1
    end
  end
  if sum then return sum / count end
end

-- Whether the most likely labels argue for and against one claim.
local function has_conflict(own, log_labels)
  local best, relations = log_labels:argmax(2):totable(), {}
  for l, line in ipairs(own.labels) do
    local label = parser.labels[math.tointeger(best[l])]
    relations[l] = { source = line.relation.source, target = line.relation.target, label = label }
  end
  return #graph.new(own.graph.claims, relations):polarity_conflicts() > 0
end

local function report(reports, own, log_labels, squared, covered)
  local d = math.sqrt(math.max(0, squared:item()))
  local conflict, overlap = has_conflict(own, log_labels), covered and covered:item()
  tally.add(reports, "balance_score", 1 - d / math.pi)
  tally.add(reports, "evidence_coverage", overlap)
  tally.add(reports, "polarity_conflict", conflict and 1 or 0)
  tally.add(reports, "score", chirality.score(d, overlap, conflict))
  local best = log_labels:argmax(2):totable()
  for l, line in ipairs(own.labels) do
    tally.add(reports, "label_accuracy", best[l] == line.label and 1 or 0)
    tally.add(reports, "ambiguous", line.slot.ambiguous, LABELS)
  end
end

-- ---- the protocol -------------------------------------------------------------------------------------------

local function count(datum)
  local own = example.of(datum)
  return #own.labels > 0 and own.label_shares and 1 or 0
end

local function request(datum)
  return { candidates = { labels = slots.request(slots.of(example.of(datum).labels)) } }
end

local function compute(labels_of)
  return function(predictions, targets)
    local scalars, reports = {}, {}
    for i, target in ipairs(targets) do
      if count(target.datum) > 0 then
        local own, logprobs = example.of(target.datum), predictions.logprobs[i]
        local log_labels = labels_of(own, predictions, i)
        local squared, covered = distance_to(own.label_shares, log_labels), coverage(own, logprobs)
        local loss = 0.6 * squared / (1 + squared)
        scalars[#scalars + 1] = covered and loss + 0.2 * (1 - covered) or loss
        report(reports, own, log_labels, squared, covered)
      end
    end
    return tally.result(scalars, reports)
  end
end

local by_space = {
  relations = {
    outputs = { "candidates", "logprobs" }, request = request,
    compute = compute(function(own, predictions, i)
      return labels_of_candidates(own, predictions.candidates[i].labels)
    end),
  },
  logprobs = {
    outputs = { "logprobs" },
    compute = function(predictions, targets)
      local result = compute(function(own, seen, i) return labels_of_targets(own, seen.logprobs[i]) end)(predictions,
        targets)
      result.logprobs_only = 1
      return result
    end,
  },
}

--- The loss with its options: space "relations" or "logprobs".
---@param given { space: string? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  local parts = by_space[chosen.space]
  return {
    type = "custom", name = "chirality", outputs = parts.outputs, count = count, request = parts.request,
    compute = parts.compute, weight = 0.15, requires = { "dialectical_structure" }, domain = true, options = chosen,
  }
end
