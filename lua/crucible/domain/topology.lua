-- Topology of small weighted graphs and point clouds: persistence diagrams in dimensions 0 and 1, distances
-- between diagrams, spanning forests.
local errors = require "crucible.errors"
local native = require("crucible.core").topology

local topology = {}

---@class crucible.domain.Interval
---@field birth number
---@field death number         math.huge: never
---@field birth_edge integer?  place in the list of edges
---@field death_edge integer?

---@class crucible.domain.Diagram
---@field [0] crucible.domain.Interval[]  components
---@field [1] crucible.domain.Interval[]  loops

local function made(...)
  if (...) == nil then errors.raise("domain.topology: %s", (select(2, ...))) end
  return ...
end

-- Intervals by dimension, without those of length 0 unless they are wanted.
local function by_dimension(intervals, keep_empty)
  local diagram = { [0] = {}, [1] = {} }
  for _, interval in ipairs(intervals) do
    if keep_empty or interval.death > interval.birth then
      local list = diagram[interval.dimension]
      list[#list + 1] = interval
    end
  end
  return diagram
end

local function flat_ends(edges)
  local ends = {}
  for i, edge in ipairs(edges) do ends[2 * i - 1], ends[2 * i] = edge[1], edge[2] end
  return ends
end

--- The diagrams of a graph: vertices 1 to n from 0 on, edges { a, b } from their values on. A loop of a graph
--- never dies; with `filled` each triangle of edges fills it. Raises for self-loops, repeated edges and
--- values below 0 or not finite.
---@param n integer
---@param edges integer[][]
---@param values number[]
---@param options { filled: boolean?, keep_empty: boolean? }?  keep_empty: intervals of length 0 too
---@return crucible.domain.Diagram
function topology.graph(n, edges, values, options)
  options = options or {}
  local intervals = made(native.persistence(n, flat_ends(edges), values, options.filled))
  return by_dimension(intervals, options.keep_empty)
end

--- All pairs of 1 to n, in order: { 1, 2 }, { 1, 3 }, …
---@param n integer
---@return integer[][]
function topology.pairs(n)
  local list = {}
  for a = 1, n do
    for b = a + 1, n do list[#list + 1] = { a, b } end
  end
  return list
end

local function distance(p, q)
  local sum = 0
  for i = 1, #p do sum = sum + (p[i] - q[i]) ^ 2 end
  return math.sqrt(sum)
end

--- The diagrams of the Vietoris-Rips complex of points, lists of as many coordinates each.
---@param points number[][]
---@param options { keep_empty: boolean? }?
---@return crucible.domain.Diagram
function topology.rips(points, options)
  local edges, values = topology.pairs(#points), {}
  for i, edge in ipairs(edges) do values[i] = distance(points[edge[1]], points[edge[2]]) end
  return topology.graph(#points, edges, values, { filled = true, keep_empty = options and options.keep_empty })
end

--- Places of the edges of a minimum spanning forest. Of two edges of one value the first in the list
--- is taken; `second` breaks ties before that.
---@param n integer
---@param edges integer[][]
---@param values number[]
---@param second number[]?
---@return integer[] places  ascending in value
function topology.forest(n, edges, values, second)
  local order, ranks = {}, {}
  for i = 1, #edges do order[i] = i end
  table.sort(order, function(a, b)
    if values[a] ~= values[b] then return values[a] < values[b] end
    if second and second[a] ~= second[b] then return second[a] < second[b] end
    return a < b
  end)
  for rank, i in ipairs(order) do ranks[i] = rank end
  local places = {}
  for _, interval in ipairs(made(native.persistence(n, flat_ends(edges), ranks, false))) do
    if interval.dimension == 0 and interval.death_edge then places[#places + 1] = interval.death_edge end
  end
  return places
end

local function flat_points(points)
  local flat = {}
  for i, point in ipairs(points) do
    flat[2 * i - 1], flat[2 * i] = point.birth or point[1], point.death or point[2]
  end
  return flat
end

--- The 2-Wasserstein distance of two diagrams with the Euclidean ground distance, matching to the diagonal
--- allowed, and for each point of a the place of its match in b, or false: the diagonal. Points are intervals or
--- { birth, death }, all finite.
---@param a table[]
---@param b table[]
---@return number distance, (integer|false)[] match
function topology.wasserstein(a, b)
  local squared, match = made(native.wasserstein(flat_points(a), flat_points(b)))
  return math.sqrt(squared), match
end

return topology
