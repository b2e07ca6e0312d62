-- The small functions of the adapter contract, as lora shows them.
local expect = require "spec.support.expect"
local lora = require("crucible").lora

describe("lora", function()
  it("generates ids of sixteen lower-case hexadecimal characters", function()
    local seen = {}
    for _ = 1, 100 do
      local id = lora.generate_id()
      assert.truthy(id:match("^[0-9a-f]+$") and #id == 16, id)
      assert.is_nil(seen[id])
      seen[id] = true
    end
  end)

  it("creates an experiment's record", function()
    local record = assert(lora.create_experiment { name = "first", tags = { "a" } })
    assert.equal("first", record.name)
    assert.equal("pending", record.status)
    assert.same({ "a" }, record.tags)
    assert.same({}, record.metrics)
    assert.same({}, record.checkpoints)
    assert.equal(16, #record.id)
    assert.truthy(record.created_at:match("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$"))
  end)

  it("refuses an experiment without a name", function()
    expect.fails("argument", "needs a name", lora.create_experiment {})
    expect.fails("argument", "needs a name", lora.create_experiment { name = " " })
  end)

  for _, case in ipairs {
    { "an even split", { 1, 2, 3, 4 }, 2, { { 1, 2 }, { 3, 4 } } },
    { "a short last piece", { 1, 2, 3 }, 2, { { 1, 2 }, { 3 } } },
    { "one piece", { 1, 2 }, 8, { { 1, 2 } } },
    { "nothing", {}, 8, {} },
  } do
    it("batches " .. case[1], function() assert.same(case[4], lora.batch_dataset(case[2], case[3])) end)
  end

  it("refuses batches of size 0", function()
    expect.raises("the size must be an integer of at least 1, got 0", lora.batch_dataset, {}, 0)
  end)

  it("formats training data with weight 1 unless told", function()
    assert.same({ { input = "a", output = "b", weight = 1 }, { input = "c", output = "d", weight = 0.5 } },
      lora.format_training_data { { input = "a", output = "b", metadata = {} }, { input = "c", output = "d",
        weight = 0.5 } })
    assert.equal(2, lora.format_training_data({ { input = "a", output = "b" } }, { weight = 2 })[1].weight)
    expect.raises("row 1 must be", lora.format_training_data, { { input = "a" } })
  end)

  it("calculates metrics of steps", function()
    assert.same({ mean_loss = 2, loss_reduction = 2, min_loss = 1, max_loss = 3, final_loss = 1, total_steps = 3 },
      lora.calculate_metrics { { loss = 3 }, { loss = 2 }, { loss = 1 } })
  end)

  it("averages citation_invalid_rate over the steps that have one", function()
    local metrics = lora.calculate_metrics { { loss = 1, citation_invalid_rate = 0.5 }, { loss = 1 } }
    assert.equal(0.5, metrics.mean_citation_invalid_rate)
  end)

  it("keeps skipped steps out of the means", function()
    assert.same({ mean_loss = 1, loss_reduction = 0, min_loss = 1, max_loss = 1, final_loss = 1, total_steps = 3 },
      lora.calculate_metrics { { loss = 1 }, { loss = 0 / 0, skipped = true }, { loss = math.huge } })
  end)

  it("gives total_steps 0 and nothing else for no steps", function()
    assert.same({ total_steps = 0 }, lora.calculate_metrics {})
  end)

  it("validates quality, naming what failed and what was not measured", function()
    local config = lora.config.new()
    local found = lora.validate_quality({ schema_compliance = 0.96, citation_accuracy = 0.95,
      mean_entailment = 0.31 }, config)
    assert.is_false(found.passed)
    assert.equal("2/4 quality targets met; failed: mean_entailment 0.31 < 0.5, overall_pass_rate not measured",
      found.summary)
    assert.same({ metric = "overall_pass_rate", target = 0.45, passed = false }, found.assessments[3])
    assert.is_true(math.abs(found.assessments[2].delta + 0.19) < 1e-12)
  end)

  it("says when all targets are met", function()
    local config = lora.config.new { quality_targets = { accuracy = 0.5 } }
    assert.same({ passed = true, summary = "1/1 quality targets met",
      assessments = { { metric = "accuracy", target = 0.5, actual = 0.5, passed = true, delta = 0 } } },
      lora.validate_quality({ accuracy = 0.5 }, config))
  end)

  it("has the reference's sampling defaults", function()
    local params = lora.sampling_params()
    assert.equal(0.7, params.temperature)
    assert.equal(0.95, params.top_p)
    assert.equal(512, params.max_tokens)
    assert.same({}, params.stop_sequences)
  end)

  for _, case in ipairs {
    { { temperature = -1 }, "temperature must be a number of at least 0" },
    { { top_p = 0 }, "top_p must be a number above 0 and at most 1" },
    { { stop = {} }, 'unknown option "stop"' },
    { { stop_sequences = { "" } }, "stop_sequences must be a list" },
  } do
    it("refuses sampling options: " .. case[2], function() expect.raises(case[2], lora.sampling_params, case[1]) end)
  end

  it("names checkpoints by id, step and time", function()
    assert.truthy(lora.checkpoint_name("abc", 100):match("^abc_step_100_%d+$"))
  end)

  it("is loaded without the core", function()
    local pipe = assert(io.popen([[lua5.4 -e 'require "crucible"; print(package.loaded["crucible.core"])']]))
    assert.equal("nil", pipe:read "l")
    pipe:close()
  end)
end)
