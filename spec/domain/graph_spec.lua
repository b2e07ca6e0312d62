-- The graph of claims: Betti numbers, directed cycles, polarity conflicts, consistency.
local graph = require "crucible.domain.graph"
local parser = require "crucible.domain.parser"
local expect = require "spec.support.expect"

local function of(...)
  local relations = {}
  for i, edge in ipairs { ... } do
    local source, label, target = edge:match "(%w+) (%w+) (%w+)"
    relations[i] = { source = source, target = target, label = label }
  end
  return graph.new({ "c1", "c2", "c3", "c4" }, relations)
end

local STAR = { "c2 supports c1", "c3 supports c1", "c4 supports c1" }

describe("domain.graph", function()
  for _, case in ipairs {
    { "nothing", {}, 4, 0 },
    { "a star", STAR, 1, 0 },
    { "a triangle beside a point", { "c1 supports c2", "c2 supports c3", "c3 supports c1" }, 2, 1 },
    { "the same edge both ways", { "c1 supports c2", "c2 refutes c1" }, 3, 0 },
    { "a self-loop", { "c2 supports c2" }, 4, 0 },
    { "all pairs", { "c1 supports c2", "c1 supports c3", "c1 supports c4", "c2 supports c3", "c2 supports c4",
      "c3 supports c4" }, 1, 3 },
    { "an end that is no claim", { "c9 supports c1" }, 4, 0 },
  } do
    it("has the Betti numbers of " .. case[1], function()
      assert.same({ case[3], case[4] }, { of(table.unpack(case[2])):betti() })
    end)
  end

  it("counts strongly connected components and self-loops as cycles", function()
    assert.same({}, of(table.unpack(STAR)):cycles())
    assert.same({ { "c1", "c2", "c3" } },
      of("c1 supports c2", "c2 supports c3", "c3 supports c1", "c4 supports c1"):cycles())
    assert.same({ { "c1", "c2" }, { "c3", "c4" } },
      of("c1 supports c2", "c2 supports c1", "c3 supports c4", "c4 supports c3", "c2 supports c3"):cycles())
    assert.same({ { "c2" } }, of("c2 supports c2", "c2 refutes c2"):cycles())
  end)

  it("sees a conflict only where both labels enter", function()
    assert.same({ "c1" }, of("c2 supports c1", "c3 refutes c1"):polarity_conflicts())
    assert.same({}, of("c1 supports c2", "c1 refutes c3"):polarity_conflicts())
    assert.same({}, of("c2 contrasts c1", "c3 refutes c1"):polarity_conflicts())
  end)

  it("forgives a conflict at the root", function()
    assert.equal(1, of("c2 supports c1", "c3 refutes c1"):consistency_score())
    assert.equal(1 / 2, of("c2 supports c1", "c3 refutes c1"):consistency_score "c2")
    assert.equal(1 / 3, of("c1 supports c2", "c3 refutes c2", "c4 supports c4"):consistency_score())
  end)

  it("is made of a parsed text; duplicate ids are one claim", function()
    local made = graph.of(parser.parse("CLAIM[c1]: a\nCLAIM[C1]: b\nCLAIM[c2]: c\n"
      .. "RELATION: c2 supports C1\nRELATION: c7 supports c1"))
    assert.same({ "c1", "c2" }, made.claims)
    assert.same({ 1, 0 }, { made:betti() })
    assert.equal("crucible.domain.graph(2 claims, 1 edges)", tostring(made))
    assert.same({ 0, 0 }, { graph.new({}, {}):betti() })
  end)

  it("refuses what is no relation", function()
    expect.raises('expected a relation as { source, target, label }, got "c1"', graph.new, { "c1" }, { "c1" })
    expect.raises("expected ids as strings, got 1", graph.new, { 1 }, {})
  end)
end)
