-- The quality monitor: what it says of evaluations, citations and convergence, and when.
local fake = require("spec.support.fake_core").install() -- luacheck: ignore 211
local crucible = require "crucible"
local expect = require "spec.support.expect"
local quality_monitor = require "crucible.callbacks.quality_monitor"
local temp = require "spec.support.temp"

local told

local function new(options)
  options.on_finding = function(finding) told[#told + 1] = finding.text end
  return quality_monitor.new(options)
end

before_each(function() told = {} end)
after_each(temp.clean)

describe("the quality monitor", function()
  it("warns within 0.1 below a target and fails below that, once for each change", function()
    local monitor = new { targets = { accuracy = 0.6, f1 = 0.5 } }
    local function evaluate(step, accuracy, f1)
      return monitor.on_evaluate { step = step, metrics = { accuracy = accuracy, f1 = f1 } }
    end
    assert.is_nil(evaluate(1, 0.499, 0.5))
    evaluate(2, 0.5, 0.5)
    evaluate(3, 0.55, 0.5)
    evaluate(4, 0.6, 0.4)
    evaluate(5, 0 / 0, nil)
    assert.same({
      "step 1: accuracy failed: 0.499, target at least 0.600", "step 2: accuracy warning: 0.500, target at least 0.600",
      "step 4: accuracy met: 0.600, target at least 0.600", "step 4: f1 warning: 0.400, target at least 0.500",
    }, told)
    assert.same({ accuracy = "met", f1 = "warning" }, monitor.status)
    assert.equal(4, #monitor.findings)
    assert.equal(0.499, monitor.findings[1].actual)
  end)

  it("takes targets as the most where less is better", function()
    local monitor = new { targets = { perplexity = 2 } }
    monitor.on_evaluate { step = 1, metrics = { perplexity = 2.05 } }
    monitor.on_evaluate { step = 2, metrics = { perplexity = 1 } }
    assert.same({ "step 1: perplexity warning: 2.050, target at most 2.000",
      "step 2: perplexity met: 1.000, target at most 2.000" }, told)
  end)

  it("ends the run at a failure when asked to", function()
    local monitor = new { targets = { accuracy = 0.6 }, stop_on_failure = true }
    assert.is_nil(monitor.on_evaluate { step = 1, metrics = { accuracy = 0.55 } })
    assert.equal("stop", monitor.on_evaluate { step = 2, metrics = { accuracy = 0.1 } })
  end)

  for _, case in ipairs {
    { "as a figure of the step", function(rate) return { citation_invalid_rate = rate } end },
    { "among the components", function(rate)
      return { components = { ["citation_validity.invalid_rate"] = rate } }
    end },
    { "in a loss' own table", function(rate)
      return { components = { cross_entropy = 1, citation_validity = { invalid_rate = rate } } }
    end },
  } do
    it("watches the invalid rate of citations " .. case[1], function()
      local monitor = new { window = 2 }
      for step, rate in ipairs { 0, 0.5, 0.1, 0.1, 0, 0 } do
        local event = case[2](rate)
        event.step, event.loss = step, 1
        monitor.on_step_end(event)
      end
      assert.same({
        "step 2: citation_invalid_rate failed: 0.250, target at most 0.000",
        "step 4: citation_invalid_rate warning: 0.100, target at most 0.000",
        "step 6: citation_invalid_rate met: 0.000, target at most 0.000",
      }, told)
    end)
  end

  it("notes when the loss has settled, and says so when it has not in time", function()
    local settled = new { window = 3, convergence_steps = 20 }
    for step = 1, 20 do settled.on_step_end { step = step, loss = math.max(1, 5 - step) } end
    assert.equal(9, settled.converged_at)
    assert.same({}, told)
    local falling = new { window = 3, convergence_steps = 20 }
    for step = 1, 30 do falling.on_step_end { step = step, loss = 100 - 3 * step, skipped = step == 7 } end
    assert.is_nil(falling.converged_at)
    assert.same({ "step 20: convergence failed: the loss has not settled" }, told)
  end)

  it("goes on after an interruption as if there had been none", function()
    local whole, first, second = new { window = 2 }, new { window = 2 }, new { window = 2 }
    for step = 1, 5 do whole.on_step_end { step = step, loss = 1, citation_invalid_rate = step / 10 } end
    local expected = told
    told = {}
    for step = 1, 3 do first.on_step_end { step = step, loss = 1, citation_invalid_rate = step / 10 } end
    second.restore(first.state())
    for step = 4, 5 do second.on_step_end { step = step, loss = 1, citation_invalid_rate = step / 10 } end
    assert.same(expected, told)
    assert.same(whole.converged_at, second.converged_at)
    assert.same(whole.findings, second.findings)
  end)

  it("listens to a run", function()
    local folder = temp.folder()
    local session <close> = assert(crucible.lora.create_session {
      config = { base_model = temp.file(folder, "toy.gguf", "toy"), lora_rank = 2 }, runs = folder .. "/runs",
    })
    local monitor = new { targets = { skill = 0.9 } }
    local results = assert(crucible.lora.training_loop.run(session, { { input = "a", output = "b" } }, {
      epochs = 2, callbacks = { monitor }, evaluate = function(_, event) return { skill = event.step / 2 } end,
    }))
    assert.equal(2, results.total_steps)
    assert.same({
      "step 1: skill failed: 0.500, target at least 0.900", "step 2: skill met: 1.000, target at least 0.900",
    }, told)
  end)

  it("refuses options it does not know", function()
    expect.raises('unknown option "target"; did you mean "targets"?', quality_monitor.new, { target = {} })
    expect.raises("targets must be a table of numbers by metric", quality_monitor.new, { targets = { f1 = "high" } })
  end)
end)
