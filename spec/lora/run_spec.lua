-- Runs on the C core: what the stand-in promises in training_loop_spec holds to the byte on a real
-- model, at any number of threads.
local lora = require("crucible").lora
local models = require "spec.support.models"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local function rows(count)
  local list = {}
  for i = 1, count do
    list[i] = { input = ("claim %d is %d:"):format(i, i * 7), output = i % 3 == 0 and "no" or "yes" }
  end
  return list
end

local function train(options, config)
  local given = { base_model = tiny_model.path, lora_rank = 4, learning_rate = 5e-3, warmup_steps = 2, threads = 1,
    schedule = "cosine" }
  for key, value in pairs(config or {}) do given[key] = value end
  local session <close> = assert(lora.create_session {
    config = given, seed = 11, experiment_id = options.id, runs = options.runs or temp.folder(),
  })
  options.id, options.runs = nil, nil
  return assert(lora.training_loop.run(session, rows(20), options))
end

local function bytes(results)
  local path = results.checkpoints[#results.checkpoints].path
  return temp.read(path .. "/adapter_model.safetensors") .. temp.read(path .. "/optimizer.safetensors")
end

describe("a run on the C core", function()
  after_each(temp.clean)

  it("learns", function()
    local results = train { epochs = 12, batch_size = 4 }
    assert.is_true(results.epochs[12].mean_loss < 0.6 * results.epochs[1].mean_loss)
  end)

  it("gives the same bytes twice, and at one and two threads", function()
    local first = bytes(train { epochs = 2, batch_size = 4 })
    assert.is_true(first == bytes(train { epochs = 2, batch_size = 4 }))
    assert.is_true(first == bytes(train({ epochs = 2, batch_size = 4 }, { threads = 2 })))
  end)

  it("gives other bytes for another seed", function()
    assert.is_false(bytes(train { epochs = 1, batch_size = 4 }) == bytes(train { epochs = 1, batch_size = 4,
      seed = 12 }))
  end)

  it("resumes to the bytes of the uninterrupted run, with dropout, accumulation and a schedule", function()
    local config = { lora_dropout = 0.1, grad_accumulation = 2 }
    local whole = bytes(train({ epochs = 3, batch_size = 3 }, config))
    for _, step in ipairs { 1, 4, 9 } do
      local runs = temp.folder()
      train({ id = "cut", runs = runs, epochs = 3, batch_size = 3, callbacks = {
        on_step_end = function(event) if event.step == step then return "stop" end end,
      } }, config)
      assert.is_true(whole == bytes(train({ id = "cut", runs = runs, epochs = 3, batch_size = 3, resume = true },
        config)))
    end
  end)

  it("has one loss curve for every split of the batch", function()
    local function curve(batch_size, accumulation, micro_batch_tokens)
      local losses = {}
      train({ epochs = 2, batch_size = batch_size,
        callbacks = { on_step_end = function(event) losses[event.step] = event.loss end } },
        { grad_accumulation = accumulation, lora_dropout = 0, micro_batch_tokens = micro_batch_tokens })
      return losses
    end
    local whole = { [8] = curve(8, 1), [16] = curve(16, 1) }
    for _, split in ipairs { { 1, 8 }, { 4, 2 }, { 8, 1, 30 }, { 1, 16 }, { 4, 4, 30 } } do
      local expected, found = whole[split[1] * split[2]], curve(table.unpack(split))
      assert.equal(#expected, #found)
      for step, loss in ipairs(expected) do
        assert.is_true(math.abs(loss - found[step]) < 1e-5 * loss, ("%d x %d, step %d"):format(split[1], split[2],
          step))
      end
    end
  end)

  it("keeps a step's numbers when layers are run again in backward", function()
    local kept, again = train { epochs = 1 }, train({ epochs = 1 }, { recompute = "layer" })
    assert.is_true(math.abs(kept.metrics.mean_loss - again.metrics.mean_loss) < 1e-6)
  end)
end)

describe("SmolLM2 from the rooms #slow", function()
  after_each(temp.clean)

  local path = models.smollm2()
  if not path then return end

  it("completes, scores and names itself", function()
    local session <close> = assert(lora.create_session {
      config = { base_model = "smollm2-135m-instruct", lora_rank = 2 }, runs = temp.folder(),
    })
    local out = assert(session:sample({ "The capital of France is" }, { temperature = 0, max_tokens = 8,
      stop_sequences = { "." } }))
    assert.equal(" Paris", out[1].text)
    assert.equal("stop", out[1].finish)
    local scores = assert(session:score({ "The capital of France is" }, { "Paris", "London" }))[1]
    assert.is_true(scores[1] > scores[2])
    assert.equal("HuggingFaceTB/SmolLM2-135M-Instruct", assert(session:describe()).model.hub)
  end)
end)
