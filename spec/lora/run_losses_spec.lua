-- Runs with losses written in Lua, on the tiny model: components over accumulated batches, held-out losses, and
-- texts written along the way.
local crucible = require "crucible"
local hooked = require "spec.support.hooked"
local jsonl = require "crucible.jsonl"

local lora = crucible.lora

before_each(hooked.begin)
after_each(hooked.finish)

-- −Σ log p, and how it reports: a mean over units, and a tally with a count of its own (short answers).
local function surprise()
  return {
    name = "surprise", outputs = { "logprobs" },
    count = function(datum) return #datum.tokens - datum.prompt_length end,
    compute = function(seen, targets)
      local loss, short = 0, 0
      for i, target in ipairs(targets) do
        loss = loss - (seen.logprobs[i] * target.weights):sum()
        if #target.tokens % 2 == 0 then short = short + 1 end
      end
      return { loss = loss, one = 1, even = { sum = short, count = #targets } }
    end,
  }
end

local function composite()
  return { name = "both", terms = {
    { loss = lora.loss_functions.get "cross_entropy", weight = 0.75 }, { loss = surprise(), weight = 0.5 },
  } }
end

local function train(options, changes)
  local session <close> = hooked.open(changes)
  local steps = {}
  options.callbacks = { options.callbacks or {}, { on_step_end = function(event) steps[#steps + 1] = event end } }
  local rows = hooked.rows(8)
  for i = 1, 3 do rows[i].output = rows[i].output .. " and more" end
  return assert(lora.training_loop.run(session, rows, options)), steps
end

local function near(a, b) return math.abs(a - b) <= 1e-6 * math.max(1, math.abs(b)) end

describe("a composite's components", function()
  it("are the same for one batch of eight and eight of one, tallies too", function()
    local _, whole = train { loss_fn = composite(), batch_size = 8, max_steps = 1 }
    local _, pieces = train({ loss_fn = composite(), batch_size = 1, max_steps = 1 }, { grad_accumulation = 8 })
    local names = {}
    for name, value in pairs(whole[1].components) do
      names[#names + 1] = name
      assert.is_true(near(pieces[1].components[name], value), name)
    end
    table.sort(names)
    assert.same({ "cross_entropy", "surprise", "surprise.even", "surprise.one" }, names)
    assert.is_true(near(1, whole[1].components["surprise.one"]))
    assert.is_true(near(pieces[1].loss, whole[1].loss))
    assert.is_true(near(whole[1].loss, 0.75 * whole[1].components.cross_entropy + 0.5 * whole[1].components.surprise))
  end)

  it("are measured over held-out rows, and the best state is that of the whole loss", function()
    local results = train { loss_fn = composite(), batch_size = 4, epochs = 2,
      evaluate = { dataset = hooked.rows(20) } }
    for _, event in ipairs(results.evaluations) do
      local found = event.metrics
      assert.is_true(near(found.loss, 0.75 * found.cross_entropy + 0.5 * found.surprise))
      assert.is_true(near(found.perplexity, math.exp(found.cross_entropy)))
      -- Both are the sum over the same targets, here divided by the same count.
      assert.is_true(near(found.surprise, found.cross_entropy))
    end
    assert.equal("loss", results.best.metric)
  end)
end)

describe("a loss that raises", function()
  it("in count or compute ends the run with step and trace", function()
    local broken = surprise()
    local compute, calls = broken.compute, 0
    broken.compute = function(...)
      calls = calls + 1
      if calls == 3 then error "no such graph" end
      return compute(...)
    end
    local ok, message = pcall(train, { loss_fn = broken, batch_size = 2 })
    assert.is_false(ok)
    for _, part in ipairs { 'loss "surprise" failed at step 3', "checkpoint step_000002 kept", "no such graph" } do
      assert.truthy(message:find(part, 1, true), part .. " in " .. message)
    end
  end)
end)

describe("samples of a run", function()
  it("are written before, at evaluations and at the end, told and kept", function()
    local told = {}
    local results = train { batch_size = 4, epochs = 3, samples = { prompts = { "row 1:", "row 2:" }, max_tokens = 5 },
      evaluate = function(_, event) return { score = -event.step } end, best = "score",
      callbacks = { on_event = function(name, measurements, metadata)
        if name ~= "samples.stop" then return end
        assert.is_true(measurements.seconds >= 0)
        told[#told + 1] = ("%s %d %d"):format(metadata.moment, metadata.step, #metadata.samples)
      end } }
    assert.same({ "before 0 2", "training 2 2", "training 4 2", "last 6 2", "best 2 2" }, told)
    local lines = assert(jsonl.read(results.run_dir .. "/samples.jsonl"))
    assert.equal(5, #lines)
    assert.equal("row 2:", lines[1].samples[2].prompt)
    assert.equal(lines[2].samples[1].text, lines[5].samples[1].text) -- the best is the state of step 2
  end)

  it("change nothing of what is learnt", function()
    local function bytes(results)
      local file = assert(io.open(results.checkpoints[#results.checkpoints].path .. "/optimizer.safetensors", "rb"))
      local text = file:read "a"
      file:close()
      return text
    end
    local plain = bytes((train({ batch_size = 4, epochs = 2 }, { lora_dropout = 0.1 })))
    local sampled = bytes((train({ batch_size = 4, epochs = 2, samples = 2, evaluate = { dataset = hooked.rows(3) } },
      { lora_dropout = 0.1 })))
    assert.is_true(plain == sampled)
  end)

  it("with options that do not exist, or too long, are refused before step 1", function()
    local expect = require "spec.support.expect"
    expect.raises('unknown option "promts"', train, { samples = { promts = {} } })
    expect.raises("over the context", train, { samples = { max_tokens = 100000 } })
  end)
end)
