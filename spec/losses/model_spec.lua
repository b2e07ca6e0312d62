-- Every loss that is registered, through a tiny model: slopes and gradients of the lora beside finite differences; what
-- a step reports; runs on claims and relations.
local crucible = require "crucible"
local datums = require "crucible.lora.datums"
local expect = require "spec.support.expect"
local lora = crucible.lora
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local model = assert(crucible.model(tiny_model.path))

local function open(options)
  options = options or {}
  local config = { base_model = tiny_model.path, lora_rank = 4, lora_alpha = 8, lora_dropout = 0,
    target_modules = { "q_proj", "v_proj" } }
  for name, value in pairs(options.config or {}) do config[name] = value end
  return assert(lora.create_session { config = config, seed = 3, model = model, loss_functions = options.registry,
    runs = options.runs })
end

-- A registry that knows the domain's losses.
local function full_registry()
  local registry = lora.loss_functions.new()
  registry.register_topological_loss()
  registry.register_chirality_loss()
  registry.register_citation_loss()
  return registry
end

local PROMPT = "Document 137: a\nDocument 139: b\nDocument 21: c\nGo:\n"
local CLAIMS = {
  { input = PROMPT, output = "CLAIM[c1]: one\nCLAIM[c10] (Document 137): two\nCLAIM[c2] (Document 21): three\n"
    .. "RELATION: c10 refutes c1\nRELATION: c2 supports c10\nRELATION: c2 supports c1" },
  { input = PROMPT, output = "CLAIM[c1]: one\nCLAIM[c2] (Document 139): two\nRELATION: c2 refutes c1" },
}

-- Rows that each loss of no domain can be made of.
local function pair_rows()
  local rows = {}
  for i, choice in ipairs { "chosen", "rejected" } do
    rows[i] = { input = "ask", output = i == 1 and "this is it" or "or that", metadata = {
      group = 1, choice = choice, reward = i, advantages = 3 - 2 * i, sampling_logprobs = -5.5, unlikely = i == 2,
    } }
  end
  return rows
end

local function built(session, rows) return (assert(datums.build(session.tokenizer, rows, {}))) end

-- A session whose lora is no longer at its start, where half of the gradients are 0.
local function moved_session(registry)
  local session = open { registry = registry }
  for _ = 1, 2 do
    assert(session:forward_backward(built(session, CLAIMS)))
    assert(session:optim_step(lora.config.adam_params(lora.config.new { learning_rate = 0.02, weight_decay = 0 })))
  end
  return session
end

describe("Every registered loss through a model", function()
  local registry = full_registry()
  local session = moved_session(registry)
  local claims, pairs_of = built(session, CLAIMS), built(session, pair_rows())

  teardown(function() session:close() end)

  local of_domain = { topological = true, chirality = true, citation_validity = true }
  local variants = {
    topological = { { matching = "diagram" }, { space = "logprobs" }, { space = "hidden", scale = 4 } },
    chirality = { { space = "logprobs" } }, citation_validity = { { space = "logprobs" } },
    unlikelihood = { { of = "context" } }, dpo = { { loss = "ipo" }, { label_smoothing = 0.2 } },
    ppo = { { normalisation = "sequences" } }, grpo = { { kl = 0.1 } },
  }
  local cases = {}
  for _, name in ipairs(registry.list()) do
    cases[#cases + 1] = { name = name, loss = name }
    for _, options in ipairs(variants[name] or {}) do cases[#cases + 1] = { name = name, loss = { name, options } } end
  end

  for _, case in ipairs(cases) do
    local key, value
    if type(case.loss) == "table" then key, value = next(case.loss[2]) end
    it(case.name .. (key and (", %s = %s"):format(key, value) or ""), function()
      local batch = of_domain[case.name] and claims or pairs_of
      local loss = case.loss
      if case.name == "grpo" and not key then loss = { "grpo", { clip_low = 1, clip_high = 1000 } } end
      local report = lora.loss_functions.check_gradient(registry.resolve(loss), session, batch, { directions = 2 })
      assert.is_true(report.passed, tostring(report))
      assert.is_true(report.model.norm > 0)
    end)
  end

  it("composites, and composites of them #slow", function()
    local inner = registry.composite({ "topological", "chirality" }, { 2, 1 })
    for _, loss in ipairs {
      registry.composite({ "cross_entropy", "topological", "chirality", "citation_validity" },
        { 0.55, 0.1, 0.15, 0.2 }),
      registry.composite({ "cross_entropy", inner, registry.composite { "citation_validity", "entropy_bonus" } },
        { 0.5, 3, -0.5 }),
    } do
      local report = lora.loss_functions.check_gradient(loss, session, claims, { directions = 2 })
      assert.is_true(report.passed, tostring(report))
    end
  end)
end)

describe("A composite of the domain's losses", function()
  local registry, session
  local TERMS, WEIGHTS = { "cross_entropy", "topological", "chirality", "citation_validity" }, { 0.55, 0.1, 0.15, 0.2 }

  before_each(function()
    registry = full_registry()
    session = open { registry = registry, runs = temp.folder() }
  end)

  after_each(function()
    session:close()
    temp.clean()
  end)

  it("is the weighted sum of its terms, each over its own count", function()
    local batch = built(session, CLAIMS)
    local whole = assert(session:forward_backward(batch, registry.composite(TERMS, WEIGHTS)))
    local sum = 0
    for i, name in ipairs(TERMS) do
      session:zero_gradients()
      local alone = assert(session:forward_backward(batch, name))
      assert.near(alone.loss, whole.components[name], 1e-9)
      assert.near(WEIGHTS[i] * alone.loss, whole.weighted[name], 1e-9)
      assert.equal(alone.counts[name], whole.counts[name])
      sum = sum + whole.weighted[name]
    end
    assert.near(sum, whole.loss, 1e-12)
  end)

  it("adds up to the same over batches of any size", function()
    local batch = built(session, CLAIMS)
    batch[3] = built(session, { { input = PROMPT, output = "CLAIM[c1]: nothing else" } })[1]
    local loss = registry.composite(TERMS, WEIGHTS)
    local counts = lora.loss_functions.counts(loss, batch)
    assert.same({ 2, 2 }, { counts.topological, counts.chirality })
    local function gradient()
      local list = {}
      for _, p in ipairs(session.core:parameters()) do
        local values = session.core:read(p.name, "gradient")
        table.move(values, 1, #values, #list + 1, list)
      end
      session:zero_gradients()
      return list
    end
    local whole = assert(session:forward_backward(batch, loss, { counts = counts }))
    local expected, total = gradient(), 0
    for _, datum in ipairs(batch) do
      total = total + assert(session:forward_backward({ datum }, loss, { counts = counts })).loss
    end
    assert.near(whole.loss, total, 1e-6)
    local found, largest, worst = gradient(), 0, 0
    for k = 1, #found do
      largest, worst = math.max(largest, math.abs(expected[k])), math.max(worst, math.abs(expected[k] - found[k]))
    end
    assert.is_true(worst < 1e-5 * largest)
  end)

  it("trains in a run, which reports its terms, their gradients and a schedule of weights", function()
    local weights = { 1, { from = 0, to = 0.5, steps = 2 }, 0.15, 0.2 }
    local loss = registry.composite(TERMS, weights, { term_gradients = true })
    local steps = {}
    assert(lora.training_loop.run(session, CLAIMS, {
      loss_fn = loss, max_steps = 3, batch_size = 1, checkpoint_every = 0, config = { grad_accumulation = 2 },
      callbacks = { on_step_end = function(event) steps[event.step] = event end },
    }))
    assert.equal(3, #steps)
    local seen = steps[3].components
    for _, name in ipairs(TERMS) do
      assert.is_number(seen[name])
      assert.is_true(seen[name .. ".gradient_norm"] > 0)
      assert.is_true(math.abs(seen[name .. ".gradient_cosine"]) < 1 + 1e-6)
    end
    assert.near(1, seen["cross_entropy.gradient_cosine"], 1e-6)
    assert.equal(0, steps[1].components["topological.gradient_norm"])
    assert.near(seen.cross_entropy + 0.5 * seen.topological + 0.15 * seen.chirality + 0.2 * seen.citation_validity,
      steps[3].loss, 1e-6)
    assert.is_number(seen["topological.betti_1"])
    assert.is_number(seen["citation_validity.invalid_rate"])
  end)

  it("is refused before step 1 on rows that have no claims, and on scifact by name", function()
    local rows = { { input = "Is it so?", output = "SUPPORT" }, { input = "And that?", output = "CONTRADICT" } }
    expect.fails("data", 'loss "topological" requires graph_structure, which no row has; answers of claims, relations '
      .. 'and citations are in "scifact_cns"', lora.training_loop.run(session, rows, { loss_fn = "topological" }))
    expect.fails("data", 'loss "citation_validity" requires evidence_pool', lora.training_loop.run(session, {
      { input = "no documents", output = "CLAIM[c1] (Document 7): a" },
    }, { loss_fn = registry.composite { "cross_entropy", "citation_validity" } }))
    expect.raises('use the data set "scifact_cns"', lora.training_loop.run, session, "scifact",
      { loss_fn = "chirality" })
  end)

  it("is looked up in the session's own registry", function()
    registry.register("mine", { compute = function(seen, targets)
      return { loss = -(seen.logprobs[1] * targets[1].weights):sum() }
    end })
    local batch = { built(session, CLAIMS)[1] }
    local own = assert(session:forward_backward(batch, "mine"))
    session:zero_gradients()
    assert.near(assert(session:forward_backward(batch, "cross_entropy")).loss, own.loss, 1e-9)
    local other <close> = open()
    expect.raises('unknown loss "mine"', other.forward_backward, other, batch, "mine")
  end)
end)

describe("DPO through a model", function()
  it("starts at ln 2 against the base, and against a frozen copy of where it stands", function()
    local session <close> = open()
    local batch = built(session, pair_rows())
    local first = assert(session:forward_backward(batch, "dpo"))
    assert.near(math.log(2), first.loss, 1e-6)
    assert.near(0, first.components["dpo.margin"], 1e-6)
    assert(session:optim_step())
    assert(require("crucible.losses.dpo").store(session, batch))
    assert.near(math.log(2), assert(session:forward_backward(batch, { "dpo", { reference = "stored" } })).loss, 1e-6)
    session:zero_gradients()
    assert.is_true(assert(session:forward_backward(batch, "dpo")).loss < math.log(2))
  end)
end)
