-- Random graphs and point clouds that scripts/make_topology_fixtures.py makes too, and what
-- crucible.domain.topology finds in them, in the layout of spec/fixtures/topology.json.
local topology = require "crucible.domain.topology"

local support = {}

local function numbers(seed)
  local state = seed
  return function(limit)
    state = (1103515245 * state + 12345) % 2147483648
    return (state >> 16) % limit
  end
end

function support.graph(seed)
  local draw = numbers(seed)
  local n, edges, values = 3 + draw(6), {}, {}
  for _, edge in ipairs(topology.pairs(n)) do
    local value, kept = draw(50) / 50, draw(4) > 0
    if kept then edges[#edges + 1], values[#values + 1] = edge, value end
  end
  return n, edges, values
end

function support.cloud(seed)
  local draw, points = numbers(seed), {}
  for i = 1, 4 + draw(9) do
    local x = draw(1000) / 1000
    points[i] = { x, draw(1000) / 1000 }
  end
  return points
end

-- { birth, death } in order; -1: never.
local function sorted(intervals)
  local list = {}
  for i, interval in ipairs(intervals) do
    list[i] = { interval.birth, interval.death == math.huge and -1 or interval.death }
  end
  table.sort(list, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  return list
end

local function finite(points)
  local list = {}
  for i, point in ipairs(points) do list[i] = { point[1], point[2] == -1 and 1 or point[2] } end
  return list
end

local function answers(diagrams)
  local rows = {}
  for i, own in ipairs(diagrams) do
    local h0, h1 = sorted(own[0]), sorted(own[1])
    rows[i] = { h0 = h0, h1 = h1 }
  end
  for i, own in ipairs(rows) do
    local other = rows[i % #rows + 1]
    own.w = { (topology.wasserstein(finite(own.h0), finite(other.h0))),
      (topology.wasserstein(finite(own.h1), finite(other.h1))) }
  end
  return rows
end

--- Answers for `cases` graphs and clouds from a seed.
---@param seed integer
---@param cases integer
---@return { graphs: table[], clouds: table[] }
function support.make(seed, cases)
  local graphs, clouds = {}, {}
  for i = 0, cases - 1 do
    graphs[i + 1] = topology.graph(support.graph(seed + 17 * i))
    clouds[i + 1] = topology.rips(support.cloud(seed + 17 * i))
  end
  return { graphs = answers(graphs), clouds = answers(clouds) }
end

return support
