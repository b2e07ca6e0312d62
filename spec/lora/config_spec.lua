-- Hyperparameters: the reference's names and defaults, and what is refused.
local config = require "crucible.lora.config"
local core = require "crucible.core"
local expect = require "spec.support.expect"
local json = require "crucible.json"
local schedule = require "crucible.lora.schedule"
local temp = require "spec.support.temp"

describe("lora.config", function()
  it("has the defaults of the training interface", function()
    local defaults = config.new()
    for name, value in pairs {
      base_model = "llama-3-8b", lora_rank = 16, lora_alpha = 32, lora_dropout = 0.05,
      target_modules = { "q_proj", "v_proj", "k_proj", "o_proj" }, learning_rate = 1.0e-4, weight_decay = 0.01,
      warmup_steps = 100, max_grad_norm = 1.0, adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1.0e-8,
      quality_targets = { schema_compliance = 0.95, citation_accuracy = 0.95, mean_entailment = 0.5,
        overall_pass_rate = 0.45 },
    } do
      assert.same(value, defaults[name], name)
    end
  end)

  it("adds fields whose defaults change nothing", function()
    local defaults = config.defaults()
    for name, value in pairs {
      schedule = "constant", grad_accumulation = 1, rslora = false, precision = "f32", seed = 0, recompute = "none",
      threads = 0, truncation = "left", schedule_cycles = 1, schedule_power = 1, min_lr_ratio = 0,
    } do
      assert.same(value, defaults[name], name)
    end
    assert.is_nil(defaults.max_length)
  end)

  for _, case in ipairs {
    { { lora_rank = 0 }, "lora_rank must be an integer of at least 1" },
    { { learning_rate = 0 }, "learning_rate must be a number above 0, got 0" },
    { { learning_rate = -1 }, "learning_rate must be a number above 0" },
    { { learning_rate = "1e-4" }, 'learning_rate must be a number above 0, got "1e-4"' },
    { { lora_dropout = 1 }, "lora_dropout must be a number of at least 0 and below 1, got 1" },
    { { lora_alpha = 0 }, "lora_alpha must be a number above 0" },
    { { lora_rnk = 4 }, 'unknown option "lora_rnk"; did you mean "lora_rank"?' },
    { { target_modules = { "q_prj" } },
      'unknown target "q_prj"; did you mean "q_proj"?; known: q_proj, k_proj, v_proj' },
    { { target_modules = { "banana" } }, "known: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" },
    { { target_modules = { "q_proj", "q_proj" } }, '"q_proj" is listed twice' },
    { { target_modules = {} }, "target_modules must be a list of projections" },
    { { schedule = "cosin" }, 'schedule must be one of "constant", "linear", "cosine",' },
    { { precision = "bf16" }, 'precision must be one of "f32", got "bf16"' },
    { { dorra = true }, 'unknown option "dorra"; did you mean "dora"?' },
    { { quality_targets = { accuracy = "high" } }, "quality_targets must be a table of metric names and numbers" },
  } do
    it("refuses: " .. case[2], function() expect.raises(case[2], config.new, case[1]) end)
  end

  it("accepts seed 0 and a rank given as 8.0", function()
    local made = config.new { seed = 0, lora_rank = 8.0 }
    assert.equal(0, made.seed)
    assert.equal("integer", math.type(made.lora_rank))
  end)

  it("replaces quality_targets by a given table", function()
    assert.same({ accuracy = 0.7 }, config.new({ quality_targets = { accuracy = 0.7 } }).quality_targets)
  end)

  it("knows the projections that the core knows", function()
    assert.same(core.targets(), config.targets)
  end)

  it("gives AdamW its parameters under the optimiser's names", function()
    assert.same({ lr = 1e-4, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01, max_grad_norm = 1.0 },
      config.adam_params(config.new()))
  end)

  it("prints as a list of fields, and its help", function()
    assert.truthy(tostring(config.new()):find("lora_rank           16", 1, true))
    assert.truthy(config.help():find("learning_rate = 0.0001", 1, true))
  end)
end)

describe("a schedule", function()
  local function rates(options, total)
    options.learning_rate = 1
    local made, list = config.new(options), {}
    for step = 1, total do list[step] = schedule.learning_rate(made, step, total) end
    return list
  end

  local function close(expected, found)
    assert.equal(#expected, #found)
    for i, value in ipairs(expected) do
      assert.is_true(math.abs(value - found[i]) < 1e-12, ("step %d: %g"):format(i, found[i]))
    end
  end

  it("warms up from a rate above 0 and reaches the peak at warmup_steps", function()
    close({ 0.25, 0.5, 0.75, 1, 1, 1 }, rates({ warmup_steps = 4 }, 6))
  end)

  it("stays constant without warm-up", function() close({ 1, 1, 1 }, rates({ warmup_steps = 0 }, 3)) end)

  it("falls linearly to just above 0 at the last step", function()
    close({ 0.5, 1, 1, 0.75, 0.5, 0.25 }, rates({ warmup_steps = 2, schedule = "linear" }, 6))
  end)

  it("falls as a half cosine", function()
    local expected = { 0.5, 1 }
    for done = 2, 5 do expected[done + 1] = 0.5 * (1 + math.cos(math.pi * (done - 2) / 4)) end
    close(expected, rates({ warmup_steps = 2, schedule = "cosine" }, 6))
  end)

  it("has transformers' values at every step; in warm-up, those of one step later", function()
    local cases = assert(json.decode(temp.read "spec/fixtures/schedules.json"))
    assert.equal(33, #cases)
    for _, case in ipairs(cases) do
      local options = { schedule = case.schedule, warmup_steps = case.warmup_steps }
      for name, value in pairs(case.settings) do options[name] = value end
      for step, rate in ipairs(rates(options, case.total_steps)) do
        local expected = case.factors[step <= case.warmup_steps and step + 1 or step]
        if step == case.warmup_steps then expected = 1 end -- the peak, even where nothing comes after
        assert.is_true(math.abs(rate - expected) <= 1e-12, ("%s, %d of %d, step %d: %.17g, expected %.17g"):format(
          case.schedule, case.warmup_steps, case.total_steps, step, rate, expected))
      end
    end
  end)

  it("may warm up longer than the run lasts", function()
    close({ 0.1, 0.2 }, rates({ warmup_steps = 10, schedule = "linear" }, 2))
  end)
end)
