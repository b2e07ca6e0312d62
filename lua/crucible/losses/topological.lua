-- How far the argument graph that the model believes in is from the target's, up to topology.
--
-- space = "relations": at each relation line the model's probability of every claim as the destination
-- gives a weighted graph on the claims, w(u, j) the largest over lines and directions, and a filtration
-- f = 1 − w; the target's is f* = 0 on its edges and 1 elsewhere. Per example
--
--     (1/|V|) ( ½ Σ_{MST(f*)} (f − f*)² + ½ Σ_{MST(f)} (f − f*)² + W₂²(D₁, D₁*) )
--
-- components by the two directions of Moor et al. 2020 ("Topological Autoencoders") on labelled edges, loops
-- by their persistence diagrams. matching = "diagram" compares unlabelled diagrams of components instead: it is
-- blind to which claim is joined to which, and accepts any confident spanning tree.
--
-- space = "hidden": the topological signature loss of Moor et al. (L_{X→Z} + L_{Z→X}) between
-- shortest paths in the target's graph and distances of the claims' mean hidden states, each divided by
-- its maximum, which the slopes take as a constant (so finite differences agree where `scale` holds it
-- still); pairs that the graph does not connect are left out.
--
-- space = "logprobs": as "relations" from the target's log-probabilities alone. Beliefs in other destinations
-- are then unseen: wrong merges and leaked loops cost nothing of their own. Reports logprobs_only = 1.
local example = require "crucible.domain.example"
local graph = require "crucible.domain.graph"
local parser = require "crucible.domain.parser"
local schema = require "crucible.schema"
local slots = require "crucible.domain.slots"
local tally = require "crucible.losses.tally"
local tensor = require "crucible.tensor"
local topology = require "crucible.domain.topology"

local options = schema.new('loss "topological"', {
  { name = "space", default = "relations", check = schema.one_of { "relations", "hidden", "logprobs" },
    doc = "what the graph is read from" },
  { name = "matching", default = "labels", check = schema.one_of { "labels", "diagram" },
    doc = "components compared edge by edge, or as unlabelled diagrams" },
  { name = "scale", check = schema.number { above = 0 },
    doc = 'space "hidden": what distances are divided by; default: their largest, as a constant' },
})

local BELIEVED = 0.5 -- weight from which an edge is in the reported graph

-- ---- the weighted graph -------------------------------------------------------------------------

-- Masses of all destinations: a tensor [R], the row of line l and claim j, its numbers. Nil without lines.
local function masses_of_candidates(own, group)
  local lines = own.destinations
  if #lines == 0 then return nil end
  local at = slots.index_of(lines)
  local masses = slots.log_masses(group.values, at):exp()
  return { tensor = masses, numbers = masses:totable(), row = function(l, j) return at.first[l] + j - 1 end }
end

-- The same of the target's log-probabilities: a row for each line, its own destination's.
local function masses_of_targets(own, logprobs)
  local lines, list = own.destinations, {}
  if #lines == 0 then return nil end
  for l, line in ipairs(lines) do
    local positions = line.slot.positions
    local log_mass = #positions > 0 and logprobs:clamp(slots.least):index_select(1, positions):sum() or tensor.new(0)
    list[l] = log_mass:exp():reshape(1)
  end
  local masses = tensor.concat(list, 1)
  return { tensor = masses, numbers = masses:totable(), row = function(l, j) return lines[l].target == j and l end }
end

-- For each pair of claims the row of its largest mass over lines and directions; of equal ones the first.
local function strongest_rows(own, masses, edges)
  local rows, place = {}, {}
  for e, edge in ipairs(edges) do place[edge[1] * #own.graph.claims + edge[2]] = e end
  for l, line in ipairs(masses and own.destinations or {}) do
    for j = 1, #own.graph.claims do
      local row = j ~= line.source and masses.row(l, j)
      if row then
        local a, b = math.min(line.source, j), math.max(line.source, j)
        local e = place[a * #own.graph.claims + b]
        if not rows[e] or masses.numbers[row] > masses.numbers[rows[e]] then rows[e] = row end
      end
    end
  end
  return rows
end

---@class crucible.losses.Filtration
---@field edges integer[][]
---@field f crucible.Tensor     [E]
---@field numbers number[]      of f, in [0, 1]
---@field target number[]       f*

local function filtration_of(own, masses)
  local edges = topology.pairs(#own.graph.claims)
  local rows = strongest_rows(own, masses, edges)
  local weights
  if masses then
    local none = #masses.numbers + 1
    for e = 1, #edges do rows[e] = rows[e] or none end
    weights = tensor.concat({ masses.tensor, tensor.zeros(1) }, 1):index_select(1, rows)
  else
    weights = tensor.zeros(#edges)
  end
  local made = { edges = edges, f = 1 - weights, numbers = {}, target = {} }
  for e, value in ipairs(made.f:totable()) do made.numbers[e], made.target[e] = math.min(1, math.max(0, value)), 1 end
  local place = {}
  for e, edge in ipairs(edges) do place[edge[1] .. " " .. edge[2]] = e end
  for _, edge in ipairs(own.graph:simple_edges()) do made.target[place[edge[1] .. " " .. edge[2]]] = 0 end
  return made
end

-- ---- relations: the loss of one example ------------------------------------------------------------

local function pick(values, places)
  local list = {}
  for k, place in ipairs(places) do list[k] = values[place] end
  return list
end

-- Σ (f − f*)² over some edges.
local function squares(filtration, places)
  if #places == 0 then return tensor.new(0) end
  local difference = filtration.f:index_select(1, places) - tensor.new(pick(filtration.target, places))
  return (difference * difference):sum()
end

-- W₂² of points that `coordinate` makes of edges, to constant points; `along` gives the tensor whose square is
-- the squared distance to the diagonal times 2, `to(place, point)` that to a point.
local function matched_cost(points, constants, to_point, to_diagonal)
  local _, match = topology.wasserstein(points, constants)
  local cost, used = tensor.new(0), 0
  for k, m in ipairs(match) do
    cost = cost + (m and to_point(points[k].edge, constants[m]) or to_diagonal(points[k].edge) / 2)
    if m then used = used + 1 end
  end
  local taken = {}
  for _, m in ipairs(match) do
    if m then taken[m] = true end
  end
  for m, point in ipairs(constants) do
    if not taken[m] then cost = cost + (point[2] - point[1]) ^ 2 / 2 end
  end
  return cost
end

local function complement(places, count)
  local inside, list = {}, {}
  for _, place in ipairs(places) do inside[place] = true end
  for place = 1, count do
    if not inside[place] then list[#list + 1] = place end
  end
  return list
end

-- Loops are born at f and never die: (f, 1).
local function loops_cost(filtration, forest, target_forest)
  local points, constants = {}, {}
  for _, e in ipairs(complement(forest, #filtration.edges)) do
    if filtration.numbers[e] < 1 then points[#points + 1] = { filtration.numbers[e], 1, edge = e } end
  end
  for _, e in ipairs(complement(target_forest, #filtration.edges)) do
    if filtration.target[e] < 1 then constants[#constants + 1] = { filtration.target[e], 1 } end
  end
  local f = filtration.f
  return matched_cost(points, constants, function(e, point) return (f[e] - point[1]) ^ 2 end,
    function(e) return (1 - f[e]) ^ 2 end)
end

-- Components are born at 0 and die at f: (0, f).
local function components_cost(filtration, forest, target_forest)
  local points, constants = {}, {}
  for _, e in ipairs(forest) do
    if filtration.numbers[e] > 0 then points[#points + 1] = { 0, filtration.numbers[e], edge = e } end
  end
  for _, e in ipairs(target_forest) do
    if filtration.target[e] > 0 then constants[#constants + 1] = { 0, filtration.target[e] } end
  end
  local f = filtration.f
  return matched_cost(points, constants, function(e, point) return (f[e] - point[2]) ^ 2 end,
    function(e) return f[e] ^ 2 end)
end

local function relations_loss(own, masses, matching)
  local n = #own.graph.claims
  local filtration = filtration_of(own, masses)
  local forest = topology.forest(n, filtration.edges, filtration.numbers)
  local target_forest = topology.forest(n, filtration.edges, filtration.target, filtration.numbers)
  local components
  if matching == "diagram" then
    components = components_cost(filtration, forest, target_forest)
  else
    components = (squares(filtration, target_forest) + squares(filtration, forest)) / 2
  end
  -- The last term keeps a path to the predictions where every point of a diagram is a constant.
  return (components + loops_cost(filtration, forest, target_forest)) / n + filtration.f:sum() * 0
end

-- ---- relations: what is reported -----------------------------------------------------------------------

local function most_likely_labels(own, group)
  local lines, list = own.labels, {}
  if not group or #lines == 0 then return list end
  local at = slots.index_of(lines)
  local masses = slots.log_masses(group.values, at):totable()
  for l, line in ipairs(lines) do
    local best = 1
    for k = 2, #parser.labels do
      if masses[at.first[l] + k - 1] > masses[at.first[l] + best - 1] then best = k end
    end
    list[line.relation] = parser.labels[best]
  end
  return list
end

-- Edges in which the model believes, with their lines' most likely labels.
local function believed_graph(own, masses, labels)
  local claims, relations = own.graph.claims, {}
  for l, line in ipairs(masses and own.destinations or {}) do
    for j, id in ipairs(claims) do
      local row = masses.row(l, j)
      if row and masses.numbers[row] >= BELIEVED then
        relations[#relations + 1] = {
          source = claims[line.source], target = id, label = labels[line.relation] or line.relation.label,
        }
      end
    end
  end
  return graph.new(claims, relations)
end

local function report_graphs(reports, own, masses, labels)
  local believed = believed_graph(own, masses, labels)
  local betti_0, betti_1 = believed:betti()
  local target_0, target_1 = own.graph:betti()
  tally.add(reports, "betti_0", betti_0)
  tally.add(reports, "betti_1", betti_1)
  tally.add(reports, "consistency_score", believed:consistency_score())
  tally.add(reports, "target_betti_0", target_0)
  tally.add(reports, "target_betti_1", target_1)
end

local function report_masses(reports, own, masses)
  for l, line in ipairs(own.destinations) do
    local best = true
    for j = 1, #own.graph.claims do
      local row = masses.row(l, j)
      if j ~= line.target and masses.numbers[row] >= masses.numbers[masses.row(l, line.target)] then best = false end
    end
    tally.add(reports, "destination_accuracy", best and 1 or 0)
    tally.add(reports, "ambiguous", line.slot.ambiguous, #line.slot.paths)
  end
end

-- ---- hidden ------------------------------------------------------------------------------------------

-- Claims whose text the answer holds: their places in the graph and positions of their text.
local function claim_spans(own)
  local list, seen, length = {}, {}, #own.datum.tokens - 1
  for _, claim in ipairs(own.parsed.claims) do
    local place = own.graph.index[claim.id]
    if place and not seen[place] then
      local first, last = slots.positions(own.answer, claim.text_span)
      seen[place] = true
      if first <= length then list[#list + 1] = { place = place, span = { first, math.min(last, length) } } end
    end
  end
  return list
end

-- Steps from claim `start` to every other along the target's edges.
local function steps_from(own, start)
  local steps, waiting, at = { [start] = 0 }, { start }, 1
  local edges = own.graph:simple_edges()
  while waiting[at] do
    local place = waiting[at]
    for _, edge in ipairs(edges) do
      local other = edge[1] == place and edge[2] or edge[2] == place and edge[1]
      if other and not steps[other] then
        steps[other] = steps[place] + 1
        waiting[#waiting + 1] = other
      end
    end
    at = at + 1
  end
  return steps
end

-- Pairs of spanned claims that the graph connects, and their shortest paths.
local function connected_pairs(own)
  local claims = claim_spans(own)
  local edges, paths = {}, {}
  for a = 1, #claims do
    local steps = steps_from(own, claims[a].place)
    for b = a + 1, #claims do
      local count = steps[claims[b].place]
      if count then edges[#edges + 1], paths[#paths + 1] = { a, b }, count end
    end
  end
  return edges, paths, #claims
end

local function ends_of(edges, k)
  local list = {}
  for e, edge in ipairs(edges) do list[e] = edge[k] end
  return list
end

-- Distances of mean hidden states, divided by `scale` or by their detached maximum: [E].
local function scaled_distances(hidden, edges, scale)
  local difference = hidden:index_select(1, ends_of(edges, 1)) - hidden:index_select(1, ends_of(edges, 2))
  local distances = ((difference * difference):sum(2) + 1e-12):sqrt()
  return distances / (scale or distances:max():item())
end

local function scaled_paths(paths)
  local longest, list = math.max(table.unpack(paths)), {}
  for e, count in ipairs(paths) do list[e] = count / longest end
  return list
end

local function hidden_loss(own, hidden, scale)
  local edges, paths, n = connected_pairs(own)
  if #edges == 0 then return hidden:sum() * 0 end
  local z, x = scaled_distances(hidden, edges, scale), scaled_paths(paths)
  local filtration = { f = z, target = x }
  local of_graph, of_states = topology.forest(n, edges, x), topology.forest(n, edges, z:totable())
  return (squares(filtration, of_graph) + squares(filtration, of_states)) / 2
end

-- ---- the protocol ---------------------------------------------------------------------------------------

local function count_relations(datum)
  local own = example.of(datum)
  if #own.graph.claims < 2 then return 0 end
  -- Without a line the model can show no belief: nothing to learn unless there is nothing to believe.
  return (#own.destinations > 0 or #own.graph:simple_edges() == 0) and 1 or 0
end

local function count_hidden(datum) return #claim_spans(example.of(datum)) >= 3 and 1 or 0 end

local function request_relations(datum)
  local own = example.of(datum)
  return { candidates = {
    destinations = slots.request(slots.of(own.destinations)), labels = slots.request(slots.of(own.labels)),
  } }
end

local function request_hidden(datum)
  local spans = {}
  for k, claim in ipairs(claim_spans(example.of(datum))) do spans[k] = claim.span end
  return { spans = spans }
end

local function compute_relations(matching)
  return function(predictions, targets)
    local scalars, reports = {}, {}
    for i, target in ipairs(targets) do
      if count_relations(target.datum) > 0 then
        local own, groups = example.of(target.datum), predictions.candidates[i]
        local masses = masses_of_candidates(own, groups.destinations)
        scalars[#scalars + 1] = relations_loss(own, masses, matching)
        report_graphs(reports, own, masses, most_likely_labels(own, groups.labels))
        if masses then report_masses(reports, own, masses) end
      end
    end
    return tally.result(scalars, reports)
  end
end

local function compute_logprobs(matching)
  return function(predictions, targets)
    local scalars, reports = {}, {}
    for i, target in ipairs(targets) do
      if count_relations(target.datum) > 0 then
        local own = example.of(target.datum)
        local masses = masses_of_targets(own, predictions.logprobs[i])
        scalars[#scalars + 1] = relations_loss(own, masses, matching)
        report_graphs(reports, own, masses, {})
      end
    end
    reports.logprobs_only = 1
    return tally.result(scalars, reports)
  end
end

local function compute_hidden(scale)
  return function(predictions, targets)
    local scalars, reports = {}, {}
    for i, target in ipairs(targets) do
      if count_hidden(target.datum) > 0 then
        local own = example.of(target.datum)
        scalars[#scalars + 1] = hidden_loss(own, predictions.hidden[i], scale)
        local target_0, target_1 = own.graph:betti()
        tally.add(reports, "target_betti_0", target_0)
        tally.add(reports, "target_betti_1", target_1)
      end
    end
    return tally.result(scalars, reports)
  end
end

local by_space = {
  relations = { outputs = { "candidates" }, count = count_relations, request = request_relations,
    compute = compute_relations },
  logprobs = { outputs = { "logprobs" }, count = count_relations, compute = compute_logprobs },
  hidden = { outputs = { "hidden" }, count = count_hidden, request = request_hidden,
    compute = function(_, scale) return compute_hidden(scale) end },
}

--- The loss with its options: space "relations", "hidden" or "logprobs"; matching "labels" or "diagram"; scale.
---@param given { space: string?, matching: string?, scale: number? }?
---@return table loss
return function(given)
  local chosen = options:resolve(given)
  local parts = by_space[chosen.space]
  return {
    type = "custom", name = "topological", outputs = parts.outputs, count = parts.count, request = parts.request,
    compute = parts.compute(chosen.matching, chosen.scale), weight = 0.1, requires = { "graph_structure" },
    domain = true, options = chosen,
  }
end
