-- The registry of losses: names, tables, options, composites, schedules, what a loss requires.
local expect = require "spec.support.expect"
local loss_functions = require "crucible.lora.loss_functions"
local predictions = require "crucible.lora.predictions"


local SHIPPED = {
  "cross_entropy", "dpo", "entropy_bonus", "focal", "grpo", "importance_sampling", "orpo", "ppo", "unlikelihood",
}

local function contains(list, names)
  local found = {}
  for _, name in ipairs(list) do found[name] = true end
  for _, name in ipairs(names) do
    if not found[name] then return false, name end
  end
  return true
end

local function custom(name, changes)
  local loss = { name = name, compute = function(seen) return { loss = seen.logprobs[1]:sum() } end }
  for field, value in pairs(changes or {}) do loss[field] = value end
  return loss
end

local function names_of(loss, step)
  local names, weights = {}, {}
  for i, term in ipairs(predictions.terms(loss, step)) do names[i], weights[i] = term.name, term.weight end
  return names, weights
end

describe("losses", function()
  it("are found by name, or not", function()
    local registry = loss_functions.new()
    assert.equal("cross_entropy", registry.get("cross_entropy").name)
    local loss, code = registry.get "topological"
    assert.is_nil(loss)
    assert.equal("not_found", code)
    assert.is_true(contains(registry.list(), SHIPPED))
    assert.is_false((contains(registry.list(), { "topological" })))
  end)

  it("count their units from the data alone", function()
    local count = loss_functions.get("cross_entropy").count
    assert.equal(2, count { tokens = { 1, 2, 3, 4 }, weights = { 0, 0.5, -1 } })
    assert.equal(3, count { tokens = { 1, 2, 3, 4 } })
    assert.equal(4, count { tokens = { 1, 2, 3, 4 }, targets = { 5, 5, 5, 5 } })
  end)

  it("can be registered under a name, once", function()
    local registry = loss_functions.new()
    registry.register("mine", registry.get "cross_entropy")
    registry.register("other", custom())
    assert.equal("other", registry.get("other").name)
    assert.same({ "logprobs" }, registry.get("other").outputs)
    assert.equal(3, registry.get("other").count { tokens = { 1, 2, 3, 4 } })
    assert.is_true(contains(registry.list(), { "mine", "other" }))
    expect.raises('"mine" is registered already', registry.register, "mine", {})
    expect.raises('"dpo" is registered already', registry.register, "dpo", custom())
  end)

  it("say what is wrong with a table", function()
    local register = loss_functions.new().register
    expect.raises('"x": a loss has no field "compte"; did you mean "compute"?', register, "x", { compte = print })
    expect.raises("compute must be a function", register, "x", {})
    expect.raises('there is no output "logprob"; did you mean "logprobs"?', register, "x",
      custom("x", { outputs = { "logprob" } }))
    expect.raises("requires must be a list of names, got \"pool\"", register, "x", custom("x", { requires = "pool" }))
    expect.raises("weight must be a number", register, "x", custom("x", { weight = "1" }))
    expect.raises('"x" must be a table with compute, got 1', register, "x", 1)
    expect.raises("a loss needs a name", register, "", custom())
  end)

  it("of one registry are unknown to another", function()
    local one, other = loss_functions.new(), loss_functions.new()
    one.register("mine", custom())
    one.register_topological_loss()
    assert.is_nil((other.get "mine"))
    assert.is_nil((other.get "topological"))
    assert.is_nil((loss_functions.get "mine"))
  end)

  it("of the domain are there once registered, and may be registered again", function()
    local registry = loss_functions.new()
    expect.raises('loss "chirality" is not registered: call lora.loss_functions.register_chirality_loss() first',
      registry.resolve, "chirality")
    registry.register_topological_loss()
    registry.register_chirality_loss()
    registry.register_citation_loss()
    assert.same({ 0.1, 0.15, 0.2 }, {
      registry.get("topological").weight, registry.get("chirality").weight, registry.get("citation_validity").weight,
    })
    assert.same({ "graph_structure" }, registry.get("topological").requires)
    assert.same({ "citations", "evidence_pool" }, registry.get("citation_validity").requires)
    registry.register_topological_loss { space = "hidden" }
    assert.same({ "hidden" }, registry.get("topological").outputs)
    expect.raises("space must be one of", registry.register_topological_loss, { space = "hiden" })
  end)

  it("resolve from a name, a name with options, a table and a composite", function()
    local registry = loss_functions.new()
    registry.register_topological_loss()
    assert.equal("hidden", registry.resolve({ "topological", { space = "hidden" } }).options.space)
    assert.equal("relations", registry.resolve("topological").options.space)
    assert.equal("custom", registry.resolve({ compute = print }).name)
    local composite = registry.composite { "cross_entropy", "topological" }
    assert.equal(composite, registry.resolve(composite))
    expect.raises('unknown loss "cross_entrpy"; did you mean "cross_entropy"?', registry.resolve, "cross_entrpy")
    expect.raises('loss "cross_entropy": unknown option "smoothing"', registry.resolve,
      { "cross_entropy", { smoothing = 1 } })
    registry.register("plain", { compute = function() end })
    expect.raises('loss "plain" takes no options', registry.resolve, { "plain", { smoothing = 1 } })
    expect.raises('unknown option "spce"', registry.resolve, { "topological", { spce = "hidden" } })
    expect.raises("a loss is a name, { name, options }, a table with compute or a composite, got 3",
      registry.resolve, 3)
  end)
end)

describe("composites", function()
  it("weigh their terms, lay nested ones flat, and take registered weights where none are given", function()
    local registry = loss_functions.new()
    registry.register_topological_loss()
    registry.register_chirality_loss()
    local names, weights = names_of(registry.composite({ "cross_entropy", "topological", "chirality" }))
    assert.same({ "cross_entropy", "topological", "chirality" }, names)
    assert.same({ 1, 0.1, 0.15 }, weights)
    local inner = registry.composite({ "topological", "chirality" }, { 2, 4 })
    names, weights = names_of(registry.composite({ "cross_entropy", inner }, { 0.5, 0.25 }))
    assert.same({ "cross_entropy", "topological", "chirality" }, names)
    assert.same({ 0.5, 0.5, 1.0 }, weights)
  end)

  it("follow schedules of their weights", function()
    local loss = loss_functions.composite({ "cross_entropy", custom "a", custom "b", custom "c" }, {
      1, function(step) return 1 / step end, { from = 0, to = 2, steps = 4 },
      { from = 1, to = 0, steps = 2, start = 3, shape = "cosine" },
    })
    local function weights(step) return (select(2, names_of(loss, step))) end
    assert.same({ 1, 1.0, 0.0, 1.0 }, weights(1))
    assert.same({ 1, 0.5, 0.5, 1.0 }, weights(2))
    assert.near(0.5, weights(4)[4], 1e-12)
    assert.same({ 1, 0.125, 2.0, 0.0 }, weights(8))
  end)

  it("refuse lists that do not fit, and two terms of one name", function()
    local composite = loss_functions.composite
    expect.raises("2 losses and 1 weights", composite, { "cross_entropy", custom "a" }, { 1 })
    expect.raises("expected a list of losses, got an empty table", composite, {})
    expect.raises("weight 1 must be a number, a function of the step or a schedule", composite, { "cross_entropy" },
      { "much" })
    expect.raises('unknown option "form"; did you mean "from"?', composite, { "cross_entropy" },
      { { form = 1, to = 2, steps = 3 } })
    expect.raises('two of its terms are called "cross_entropy": give one a name of its own', composite,
      { "cross_entropy", "cross_entropy" })
    local loss = composite { "cross_entropy", { loss = "cross_entropy", name = "again" } }
    assert.same({ "cross_entropy", "again" }, (names_of(loss)))
  end)
end)

describe("what a loss requires", function()
  local function datum(fields)
    fields.tokens, fields.weights = { 1, 2 }, { 1 }
    return fields
  end

  it("is looked for in every row, and named", function()
    local loss = custom("judged", { requires = { "verdict" } })
    assert.is_true(loss_functions.check(loss, { datum { verdict = 1 }, datum { metadata = { verdict = false } } }))
    expect.fails("data", 'loss "judged" requires verdict, which row 7 lacks',
      loss_functions.check(loss, { datum { verdict = 1 }, datum { row = 7 } }))
    expect.fails("data", "requires verdict, which row 1 and 1 more lack",
      loss_functions.check(loss, { datum {}, datum {}, datum { verdict = 1 } }))
    expect.fails("data", "requires verdict, which no row has", loss_functions.check(loss, { datum {}, datum {} }))
  end)

  it("is refused for the data set of bare labels, naming the one of claims", function()
    local registry = loss_functions.new()
    registry.register_chirality_loss()
    local loss = registry.composite { "cross_entropy", "chirality" }
    expect.raises('loss "chirality" reads claims, relations and citations, and the answers of "scifact" are bare '
      .. 'labels: use the data set "scifact_cns"', loss_functions.check_dataset, loss, "scifact")
    loss_functions.check_dataset(loss, "scifact_cns")
    loss_functions.check_dataset(registry.get "cross_entropy", "scifact")
  end)
end)

