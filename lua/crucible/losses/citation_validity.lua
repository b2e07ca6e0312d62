-- Citations must come from the example's evidence pool.
--
-- The ids of the pool make a trie of tokens, terminator included. At each token of each citation of the
-- target the trie allows the children of the target's prefix; validity = Σ p(allowed). The loss is
-- −mean log validity over those tokens: no penalty of the data, which would have no gradient, and no weight
-- on bad examples, which would teach them.
--
-- A citation that the pool lacks costs up to the token with which it leaves the trie. Without a pool or
-- citations a row counts 0. Where only one id is possible the loss is the cross-entropy of its tokens.
--
-- space = "logprobs" takes the target's log-probabilities alone: validity = p(target token), so invalid_rate is
-- an upper bound and precision is not known. Reports logprobs_only = 1.
local example = require "crucible.domain.example"
local schema = require "crucible.schema"
local slots = require "crucible.domain.slots"
local tally = require "crucible.losses.tally"
local tensor = require "crucible.tensor"

local options = schema.new('loss "citation_validity"', {
  { name = "space", default = "tries", check = schema.one_of { "tries", "logprobs" },
    doc = "the pool's tokens at each place, or the target's alone" },
})

-- ---- validity ------------------------------------------------------------------------------------------

local function parts_of(lines, field)
  local list = {}
  for l, line in ipairs(lines) do list[l] = line[field] end
  return list
end

-- Places, in the values that the tries ask for, of the allowed tokens at each position, in rows of one width
-- and filled with the place behind the last value; how many positions each citation has; places of the
-- target's tokens.
local function make_index(lines)
  local width, total, counts = 1, 0, {}
  for l, line in ipairs(lines) do
    counts[l] = #line.trie.positions
    for p, ids in ipairs(line.trie.ids) do
      width, total = math.max(width, line.trie.allowed[p]), total + #ids
    end
  end
  local flat, offset, own = {}, 0, {}
  for _, line in ipairs(lines) do
    for p, ids in ipairs(line.trie.ids) do
      for k = 1, width do flat[#flat + 1] = k <= line.trie.allowed[p] and offset + k or total + 1 end
      own[#own + 1] = offset + line.trie.own[p]
      offset = offset + #ids
    end
  end
  return { flat = #flat > 0 and tensor.new(flat), width = width, counts = counts, own = own, rows = #flat // width }
end

local indices = setmetatable({}, { __mode = "k" }) -- by list of lines

local function index_of(lines)
  indices[lines] = indices[lines] or make_index(lines)
  return indices[lines]
end

-- Log validity at each position of each citation: [P].
local function validity_of_tries(own, group)
  local at = index_of(own.citations)
  local padded = tensor.concat({ group.values:clamp(slots.least), tensor.full(1, 2 * slots.least) }, 1)
  return padded:index_select(1, at.flat):reshape(at.rows, at.width):logsumexp(2)
end

local function positions_of(lines)
  local list = {}
  for _, line in ipairs(lines) do
    table.move(line.trie.positions, 1, #line.trie.positions, #list + 1, list)
  end
  return list
end

local function validity_of_targets(own, logprobs)
  return logprobs:clamp(slots.least):index_select(1, positions_of(own.citations))
end

-- ---- reports ---------------------------------------------------------------------------------------------

local function report_validity(reports, own, log_validity)
  local numbers, at, k = log_validity:totable(), index_of(own.citations), 0
  for l in ipairs(own.citations) do
    local sum = 0
    for _ = 1, at.counts[l] do
      k = k + 1
      sum = sum + numbers[k]
    end
    if at.counts[l] > 0 then tally.add(reports, "invalid_rate", 1 - math.exp(math.min(0, sum))) end
  end
end

local function log_sum(numbers)
  local most, sum = math.max(table.unpack(numbers)), 0
  for _, number in ipairs(numbers) do sum = sum + math.exp(number - most) end
  return most + math.log(sum)
end

-- The gold id's part of the pool's mass; citations with one id to choose from are left out and counted.
local function report_precision(reports, own, group)
  local lines = own.citations
  local at = slots.mass_index(parts_of(lines, "slot"))
  local masses = at.rows > 0 and slots.log_masses(group.values, at):totable() or {}
  for l, line in ipairs(lines) do
    if line.gold and line.pool > 1 then
      local pool = table.move(masses, at.first[l], at.first[l] + line.pool - 1, 1, {})
      tally.add(reports, "precision", math.exp(pool[line.slot.own] - log_sum(pool)))
      tally.add(reports, "ambiguous", line.slot.ambiguous, #line.slot.paths)
    end
    tally.add(reports, "one_id_pool", line.pool == 1 and 1 or 0)
  end
end

-- Share of gold citations whose every token is the likeliest of the vocabulary.
local function report_recall(reports, own, group, likeliest)
  local values, first = group.values:totable(), 1
  for _, line in ipairs(own.citations) do
    local all = true
    for p, ids in ipairs(line.trie.ids) do
      all = all and values[first + line.trie.own[p] - 1] >= likeliest:item(line.trie.positions[p])
      first = first + #ids
    end
    if line.gold then tally.add(reports, "recall", all and 1 or 0) end
  end
end

-- ---- the protocol ------------------------------------------------------------------------------------------

local function count(datum)
  local units = 0
  for _, line in ipairs(example.of(datum).citations) do units = units + #line.trie.positions end
  return units
end

local function request(datum)
  local lines = example.of(datum).citations
  return { candidates = {
    tries = slots.request(parts_of(lines, "trie")), pool = slots.request(parts_of(lines, "slot")),
  } }
end

local function compute_tries(predictions, targets)
  local scalars, reports = {}, {}
  for i, target in ipairs(targets) do
    if count(target.datum) > 0 then
      local own, groups = example.of(target.datum), predictions.candidates[i]
      local log_validity = validity_of_tries(own, groups.tries)
      scalars[#scalars + 1] = -log_validity:sum()
      report_validity(reports, own, log_validity)
      report_precision(reports, own, groups.pool)
      report_recall(reports, own, groups.tries, predictions.likeliest[i])
    end
  end
  return tally.result(scalars, reports)
end

local function compute_logprobs(predictions, targets)
  local scalars, reports = {}, {}
  for i, target in ipairs(targets) do
    if count(target.datum) > 0 then
      local own = example.of(target.datum)
      local log_validity = validity_of_targets(own, predictions.logprobs[i])
      scalars[#scalars + 1] = -log_validity:sum()
      report_validity(reports, own, log_validity)
    end
  end
  reports.logprobs_only = 1
  return tally.result(scalars, reports)
end

local by_space = {
  tries = { outputs = { "candidates", "likeliest" }, request = request, compute = compute_tries },
  logprobs = { outputs = { "logprobs" }, compute = compute_logprobs },
}

--- The loss with its options: space "tries" or "logprobs".
---@param given { space: string? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  local parts = by_space[chosen.space]
  return {
    type = "custom", name = "citation_validity", outputs = parts.outputs, count = count, request = parts.request,
    compute = parts.compute, weight = 0.2, requires = { "citations", "evidence_pool" }, domain = true,
    options = chosen,
  }
end
