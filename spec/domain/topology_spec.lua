-- Persistence diagrams and distances between them: beside gudhi and ripser (spec/fixtures/topology.json, made
-- by scripts/make_topology_fixtures.py), beside the plain algorithms in C, and by hand.
local core = require("crucible.core").topology
local found_debug, native = pcall(require, "crucible.core.debug")
local expect = require "spec.support.expect"
local json = require "crucible.json"
local lists = require "spec.support.lists"
local support = require "spec.support.topology"
local topology = require "crucible.domain.topology"

local function read_fixture()
  local file = assert(io.open("spec/fixtures/topology.json", "rb"))
  local text = file:read "a"
  file:close()
  return assert(json.decode(text))
end

local function assert_points(theirs, ours, what)
  assert.equal(#theirs, #ours, what)
  for i, point in ipairs(theirs) do
    assert.near(point[1], ours[i][1], 1e-9, what)
    assert.near(point[2], ours[i][2], 1e-9, what)
  end
end

describe("Persistence and Wasserstein distances", function()
  local theirs = read_fixture()
  local ours = support.make(1, #theirs.graphs)

  for _, kind in ipairs { "graphs", "clouds" } do
    it(("equal gudhi's and ripser's on %d %s"):format(#theirs[kind], kind), function()
      assert.equal(100, #theirs[kind])
      for i, row in ipairs(theirs[kind]) do
        local own = ours[kind][i]
        assert_points(row.h0, own.h0, ("%s %d, components"):format(kind, i))
        assert_points(row.h1, own.h1, ("%s %d, loops"):format(kind, i))
        assert.near(row.w[1], own.w[1], 1e-9)
        assert.near(row.w[2], own.w[2], 1e-9)
      end
    end)
  end
end)

describe("domain.topology", function()
  local square = { { 1, 2 }, { 2, 3 }, { 3, 4 }, { 1, 4 }, { 1, 3 } }

  it("names the edges of each interval", function()
    local diagram = topology.graph(4, square, { 0.1, 0.2, 0.3, 0.4, 0.9 }, { filled = true })
    local edges = {}
    for i, interval in ipairs(diagram[0]) do edges[i] = interval.death_edge or false end
    assert.same({ 1, 2, 3, false }, edges)
    local loop = diagram[1][1]
    assert.same({ 0.4, 0.9, 4, 5 }, { loop.birth, loop.death, loop.birth_edge, loop.death_edge })
    assert.equal(1, #diagram[1]) -- the other loop is filled as it is born
    assert.equal(2, #topology.graph(4, square, { 0.1, 0.2, 0.3, 0.4, 0.9 }, { filled = true, keep_empty = true })[1])
  end)

  it("lets loops of a graph live for ever", function()
    local diagram = topology.graph(4, square, { 0.1, 0.2, 0.3, 0.4, 0.9 })
    assert.same({ math.huge, math.huge }, { diagram[1][1].death, diagram[1][2].death })
  end)

  it("finds the circle in points on one", function()
    local points = {}
    for i = 1, 12 do points[i] = { math.cos(i * math.pi / 6), math.sin(i * math.pi / 6) } end
    local loops = topology.rips(points)[1]
    assert.equal(1, #loops)
    assert.near(2 * math.sin(math.pi / 12), loops[1].birth, 1e-12)
    assert.near(2 * math.sin(math.pi / 3), loops[1].death, 1e-12)
  end)

  it("breaks ties of a forest by the second list, then by place", function()
    local triangle = topology.pairs(3)
    assert.same({ 1, 2 }, topology.forest(3, triangle, { 0, 0, 0 }))
    assert.same({ 3, 1 }, topology.forest(3, triangle, { 0, 0, 0 }, { 0.5, 0.9, 0.1 }))
    assert.same({ 2, 1 }, topology.forest(5, { { 1, 2 }, { 2, 3 } }, { 1, 0 }))
  end)

  it("matches points to each other or to the diagonal", function()
    local distance, match = topology.wasserstein({ { 0, 1 }, { 0.4, 0.5 } }, { { 0.1, 1 } })
    assert.same({ 1, false }, match)
    assert.near(math.sqrt(0.1 ^ 2 + 0.1 ^ 2 / 2), distance, 1e-12)
    assert.equal(0, topology.wasserstein({}, {}))
    assert.near(math.sqrt(0.5), topology.wasserstein({}, { { 0, 1 } }), 1e-12)
  end)

  it("takes nothing, one point, and points in one place", function()
    assert.same({ [0] = {}, [1] = {} }, topology.graph(0, {}, {}))
    assert.equal(1, #topology.rips({ { 1, 2 } })[0])
    local same = topology.rips { { 1, 1 }, { 1, 1 }, { 1, 1 }, { 1, 1 } }
    assert.same({ 1, 0 }, { #same[0], #same[1] })
  end)

  it("refuses what is no graph", function()
    local function graph(edges, values) return topology.graph(3, edges, values) end
    expect.raises("edge 1 joins vertex 2 to itself", graph, { { 2, 2 } }, { 1 })
    expect.raises("edge 2 repeats another", graph, { { 1, 2 }, { 2, 1 } }, { 1, 1 })
    expect.raises("edge 1 joins 1 and 4, there are 3 vertices", graph, { { 1, 4 } }, { 1 })
    expect.raises("the value of edge 1 must be finite and at least 0", graph, { { 1, 2 } }, { 0 / 0 })
    expect.raises("expected a value for each edge", graph, { { 1, 2 } }, {})
    expect.raises("point 1 of the second diagram is not finite", topology.wasserstein, {}, { { 0, math.huge } })
  end)
end)

if not found_debug then return end

describe("Beside the plain algorithms", function()
  it("persistence finds the same intervals", function()
    for seed = 1, 60 do
      local n, edges, values = support.graph(seed)
      local ends = {}
      for i, edge in ipairs(edges) do ends[2 * i - 1], ends[2 * i] = edge[1], edge[2] end
      local from_zero = lists.map(ends, function(v) return v - 1 end)
      for _, filled in ipairs { false, true } do
        local fast = core.persistence(n, ends, values, filled)
        local plain = native.math.persistence_plain { vertices = n, ends = from_zero, values = values, filled = filled }
        assert.equal(#plain, 5 * #fast)
        for i, interval in ipairs(fast) do
          local own = { interval.dimension, interval.birth, interval.death, (interval.birth_edge or 0) - 1,
            (interval.death_edge or 0) - 1 }
          assert.same(lists.slice(plain, 5 * i - 4, 5), lists.map(own, function(x) return x + 0.0 end))
        end
      end
    end
  end)

  it("assignments cost the same", function()
    for n = 0, 7 do
      for seed = 1, 10 do
        local cost = lists.map(lists.uniform(31 * n + seed, n * n, 8), function(x) return math.floor(x) end)
        local total, columns = core.assignment(n, cost)
        assert.near(native.math.assignment_plain { n = n, cost = cost }, total, 1e-9)
        local used = {}
        for _, column in ipairs(columns) do used[column] = (used[column] or 0) + 1 end
        for column = 1, n do assert.equal(1, used[column]) end
      end
    end
  end)
end)
