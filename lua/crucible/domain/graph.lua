-- The graph of claims: vertices are claims, edges the relations whose both ends exist. What holds it
-- together, where it runs in circles, which claims it argues for and against at once.
local errors = require "crucible.errors"
local schema = require "crucible.schema"

---@class crucible.domain.Graph
---@field claims string[]  ids, each once, lower-case
---@field index table<string, integer>  place of an id in `claims`
---@field edges { source: string, target: string, label: string }[]  self-loops included
local Graph = { __name = "crucible.domain.graph" }
Graph.__index = Graph

local graph = {}

local function add_claims(self, ids)
  for _, id in ipairs(ids) do
    if type(id) ~= "string" then errors.raise("domain.graph: expected ids as strings, got %s", schema.show(id)) end
    id = id:lower()
    if not self.index[id] then
      self.claims[#self.claims + 1] = id
      self.index[id] = #self.claims
    end
  end
end

local function check_relation(relation)
  local whole = type(relation) == "table" and type(relation.source) == "string" and type(relation.target) == "string"
  if whole then return end
  errors.raise("domain.graph: expected a relation as { source, target, label }, got %s", schema.show(relation))
end

--- A graph of claim ids and relations; a relation with an end that is no claim is left out.
---@param claims string[]
---@param relations { source: string, target: string, label: string? }[]
---@return crucible.domain.Graph
function graph.new(claims, relations)
  local self = setmetatable({ claims = {}, index = {}, edges = {} }, Graph)
  add_claims(self, claims)
  for _, relation in ipairs(relations) do
    check_relation(relation)
    local source, target = relation.source:lower(), relation.target:lower()
    if self.index[source] and self.index[target] then
      self.edges[#self.edges + 1] = { source = source, target = target, label = relation.label }
    end
  end
  return self
end

--- The graph of a parsed text.
---@param parsed crucible.domain.Parsed
---@return crucible.domain.Graph
function graph.of(parsed)
  local ids = {}
  for i, claim in ipairs(parsed.claims) do ids[i] = claim.id end
  return graph.new(ids, parsed.relations)
end

-- ---- undirected ----------------------------------------------------------------------------

local function find(parent, i)
  while parent[i] ~= i do
    parent[i] = parent[parent[i]]
    i = parent[i]
  end
  return i
end

-- Pairs of places, the smaller first, each once, without self-loops.
function Graph:simple_edges()
  local pairs_of, seen = {}, {}
  for _, edge in ipairs(self.edges) do
    local a, b = self.index[edge.source], self.index[edge.target]
    if a > b then a, b = b, a end
    local key = a .. " " .. b
    if a ~= b and not seen[key] then
      seen[key] = true
      pairs_of[#pairs_of + 1] = { a, b }
    end
  end
  return pairs_of
end

--- β₀ and β₁ of the undirected simple graph: connected components, and edges − vertices + components.
---@return integer betti_0, integer betti_1
function Graph:betti()
  local parent, components = {}, #self.claims
  for i = 1, #self.claims do parent[i] = i end
  local simple = self:simple_edges()
  for _, edge in ipairs(simple) do
    local a, b = find(parent, edge[1]), find(parent, edge[2])
    if a ~= b then
      parent[a] = b
      components = components - 1
    end
  end
  return components, #simple - #self.claims + components
end

-- ---- directed ------------------------------------------------------------------------------

local function successors(self)
  local next_of = {}
  for i = 1, #self.claims do next_of[i] = {} end
  for _, edge in ipairs(self.edges) do
    local from = next_of[self.index[edge.source]]
    from[#from + 1] = self.index[edge.target]
  end
  return next_of
end

-- Places reachable from `start`, itself included only over an edge.
local function reached_from(next_of, start)
  local reached, waiting = {}, { start }
  while #waiting > 0 do
    for _, place in ipairs(next_of[table.remove(waiting)]) do
      if not reached[place] then
        reached[place] = true
        waiting[#waiting + 1] = place
      end
    end
  end
  return reached
end

--- Directed cycles, as lists of claim ids: strongly connected components of more than one claim, and
--- claims with an edge to themselves.
---@return string[][]
function Graph:cycles()
  local next_of, reached, cycles, placed = successors(self), {}, {}, {}
  for i = 1, #self.claims do reached[i] = reached_from(next_of, i) end
  for i = 1, #self.claims do
    local component = {}
    for j = i, #self.claims do
      if not placed[j] and (i == j or reached[i][j] and reached[j][i]) then
        placed[j] = true
        component[#component + 1] = self.claims[j]
      end
    end
    if #component > 1 then cycles[#cycles + 1] = component end
  end
  local looped = {}
  for _, edge in ipairs(self.edges) do
    if edge.source == edge.target and not looped[edge.source] then
      looped[edge.source] = true
      cycles[#cycles + 1] = { edge.source }
    end
  end
  return cycles
end

--- Claims that both a supports and a refutes edge enters, in the order of the claims.
---@return string[]
function Graph:polarity_conflicts()
  local entered = { supports = {}, refutes = {} }
  for _, edge in ipairs(self.edges) do
    if entered[edge.label] then entered[edge.label][edge.target] = true end
  end
  local conflicts = {}
  for _, id in ipairs(self.claims) do
    if entered.supports[id] and entered.refutes[id] then conflicts[#conflicts + 1] = id end
  end
  return conflicts
end

--- 1 / (1 + directed cycles + polarity conflicts at claims other than the root).
---@param root string?  "c1"
---@return number
function Graph:consistency_score(root)
  local faults = #self:cycles()
  for _, id in ipairs(self:polarity_conflicts()) do
    if id ~= (root or "c1") then faults = faults + 1 end
  end
  return 1 / (1 + faults)
end

function Graph:__tostring()
  return ("crucible.domain.graph(%d claims, %d edges)"):format(#self.claims, #self.edges)
end

return graph
