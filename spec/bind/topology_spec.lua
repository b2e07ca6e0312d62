-- core.topology: what it gives, and what it refuses. Values: spec/domain/topology_spec.lua.
local core = require("crucible.core").topology
local expect = require "spec.support.expect"

describe("core.topology.persistence", function()
  it("gives intervals with their edges, by dimension, death and birth", function()
    local found = core.persistence(3, { 1, 2, 2, 3, 1, 3 }, { 0.5, 0.25, 0.75 }, false)
    assert.same({
      { dimension = 0, birth = 0.0, death = 0.25, death_edge = 2 },
      { dimension = 0, birth = 0.0, death = 0.5, death_edge = 1 },
      { dimension = 0, birth = 0.0, death = math.huge },
      { dimension = 1, birth = 0.75, death = math.huge, birth_edge = 3 },
    }, found)
  end)

  it("refuses lists that do not fit", function()
    expect.raises("expected a multiple of 2 numbers, got 3", core.persistence, 2, { 1, 2, 1 }, { 1 })
    expect.raises("ends[2]: expected an integer of 32 bits, got string", core.persistence, 2, { 1, "2" }, { 1 })
    expect.raises("expected a value for each edge", core.persistence, 2, { 1, 2 }, {})
    expect.raises("[1]: expected a number, got string", core.persistence, 2, { 1, 2 }, { "1" })
    expect.raises("expected a number of vertices", core.persistence, -1, {}, {})
    expect.fails("argument", "edge 1 joins 1 and 3, there are 2 vertices", core.persistence(2, { 1, 3 }, { 1 }))
  end)
end)

describe("core.topology.assignment", function()
  it("finds the cheapest", function()
    local total, columns = core.assignment(3, { 4, 1, 3, 2, 0, 5, 3, 2, 2 })
    assert.equal(5, total)
    assert.same({ 2, 1, 3 }, columns)
    assert.same({ 0.0, {} }, { core.assignment(0, {}) })
  end)

  it("refuses a cost that is not finite", function()
    expect.fails("argument", "row 2 and column 1 is not finite", core.assignment(2, { 0, 0, 0 / 0, 0 }))
    expect.raises("expected n times n costs", core.assignment, 2, { 1 })
  end)
end)

describe("core.topology.wasserstein", function()
  it("gives the square, and the match of each point", function()
    local squared, match = core.wasserstein({ 0, 1, 0.5, 0.75 }, { 0.25, 1 })
    assert.near(0.25 ^ 2 + 0.25 ^ 2 / 2, squared, 1e-15)
    assert.same({ 1, false }, match)
  end)

  it("refuses what is no diagram", function()
    expect.raises("expected a multiple of 2 numbers, got 1", core.wasserstein, { 1 }, {})
    expect.fails("argument", "point 1 of the first diagram is not finite", core.wasserstein({ 0, math.huge }, {}))
  end)
end)
