-- What a run with gradient hooks leaves behind: events, manifest, telemetry, report, data.
local crucible = require "crucible"
local hooked = require "spec.support.hooked"
local json = require "crucible.json"
local report = require "crucible.lora.gradient_report"
local temp = require "spec.support.temp"

local hooks = crucible.lora.gradient_hooks
local open, run, telemetry = hooked.open, hooked.run, hooked.telemetry
local B = hooked.B
local four = { "norm", "distribution", "flow", "health" }

before_each(hooked.begin)
after_each(hooked.finish)

describe("a run with hooks leaves", function()
  it("in events: figures by name and what hooks found", function()
    local session <close> = open()
    local last = hooked.events(session, four)[4]
    assert.equal(last.gradient_norms[B], last.gradients[B].norm)
    assert.equal(12, #last.gradient_flow)
    assert.same({}, last.gradient_issues)
    assert.equal("healthy", last.gradient_health[B])
    assert.is_nil(last.session)
  end)

  it("in the manifest: the hooks' names", function()
    local session <close> = open()
    local results = run(session, { "norm", { "mine", function() end, points = "after_clipping" } }, { max_steps = 1 })
    assert.same({ "norm", "mine" }, json.decode(temp.read(results.run_dir .. "/manifest.json")).gradient_hooks)
  end)

  it("in telemetry: layers, projections, ratios and issues", function()
    local session <close> = open()
    local row = telemetry(run(session, four, { max_steps = 2 }))[2].hooks
    assert.equal(3, #row.layers)
    assert.equal(3, #row.ratios)
    assert.is_true(row.targets.q_proj > 0)
    assert.is_true(#row.histogram.counts > 3)
    assert.same({}, row.gradient_issues)
    assert.is_nil(row.gradient_norms)
  end)

  it("in telemetry on request: every figure of every matrix", function()
    local session <close> = open()
    local all = hooks.new { hooks = four, telemetry = "full" }
    local row = telemetry(run(session, all, { max_steps = 2 }))[2].hooks
    assert.is_true(row.gradient_norms[B] > 0)
    assert.is_true(row.gradient_stats[B].quantiles.p99 > 0)
    assert.equal("healthy", row.gradient_health[B])
  end)
end)

describe("the report", function()
  it("shows layers in order, what was found and what was done", function()
    local session <close> = open { grad_accumulation = 2 }
    local function act(info) return info.step == 2 and { action = { scale = 0.5 } } or nil end
    local one = hooks.new { on_error = "continue", hooks = { "norm", "distribution", "flow",
      { "health", { exploding = 1e-3 } }, "cosine", "noise", { "act", act },
      { "frail", function() error "boom" end } } }
    assert.equal("no step was seen by the gradient hooks\n", one:report())
    run(session, one, { rows = 16 })
    local text = one:report()
    for _, part in ipairs {
      "Gradients by layer, step 4 (over steps 1 to 4)", "update/weight", "q_proj", "v_proj", "█", "2^-",
      "cosine with the step before", "gradient noise scale", "boom",
      B .. ": exploding, 4 times, first at step 1, last at step 4",
      "step 2: scale × 0.5 by act, after backward", "step 1: hook frail failed",
    } do
      assert.truthy(text:find(part, 1, true), part .. " in\n" .. text)
    end
    assert.truthy(text:find "\n1 .*\n2 .*\n3 ")
  end)

  it("can be asked for in the middle of a step without counting twice", function()
    local session <close> = open()
    local one
    local nosy = { "nosy", function() one:report() end, points = hooks.points }
    one = hooks.new { hooks = { { "health", { exploding = 1e-3 } }, nosy } }
    run(session, one)
    for _, issue in ipairs(one:data().issues) do
      local dA = issue.layer:find "lora_A$" -- zero in step 1
      assert.same({ dA and 3 or 4, 4 }, { issue.count, issue.last })
    end
  end)
end)

describe("the picture", function()
  -- Names of elements in the order in which they are closed; fails on what is not well formed.
  local function elements(svg)
    local open_elements, count = {}, {}
    for slash, name, attributes, empty in svg:gmatch "<(/?)([%a]+)([^<>]-)(/?)>" do
      if slash == "/" then
        assert.equal(table.remove(open_elements), name)
      else
        assert.equal(0, select(2, attributes:gsub('"', "")) % 2, attributes)
        count[name] = (count[name] or 0) + 1
        if empty == "" then open_elements[#open_elements + 1] = name end
      end
    end
    assert.same({}, open_elements)
    return count
  end

  it("is one well-formed SVG with a cell for each layer and step", function()
    local session <close> = open()
    local one = hooks.new { hooks = four }
    run(session, one)
    local svg = one:picture { title = 'a <b> & "c"' }
    local count = elements(svg)
    assert.equal(1, count.svg)
    assert.truthy(svg:find("a &lt;b&gt; &amp; &quot;c&quot;", 1, true))
    assert.is_true(count.rect > 2 * 3 * 4)
    for _, title in ipairs { "Norm by layer", "Update beside weights", "Magnitudes of all" } do
      assert.truthy(svg:find(title, 1, true))
    end
    assert.is_nil(svg:find "nan")
    assert.is_nil(svg:find "inf")
  end)

  it("stands even where nothing was measured, or only NaN", function()
    assert.truthy(hooks.new():picture():find("nothing was measured", 1, true))
    local session <close> = open()
    local one = hooks.new { hooks = { { "plant", function(info)
      local values = {}
      for i = 1, #info.gradients[B] do values[i] = 0 / 0 end
      info.gradients[B]:add_(values)
    end }, "norm", "distribution", "flow", "health" }, buffer_size = 1 }
    local _, message = hooked.try(session, one)
    assert.truthy(message:find("3 steps in a row", 1, true))
    elements(one:picture())
    assert.truthy(one:report():find(B .. ": nonfinite, 3 times, first at step 1, last at step 3", 1, true))
  end)
end)

describe("the data of a report", function()
  it("is series by layer and step", function()
    local session <close> = open()
    local one = hooks.new { hooks = { "norm", "health" } }
    run(session, one, { epochs = 2 })
    local data = one:data()
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8 }, data.steps)
    assert.same({ 1, 2, 3 }, data.layers)
    assert.same({ "q_proj", "v_proj" }, data.targets)
    for layer = 1, 3 do
      assert.equal(8, #data.norms[layer])
      assert.is_true(data.ratios[layer][8] > 0)
    end
  end)

  it("is thinned when a run is long, and keeps the last step", function()
    local long = hooks.new { hooks = { "norm" } }
    for step = 1, 3 * report.most_steps do
      long:run_hooks { step = step, gradients = hooked.bare { B } }
    end
    local steps = long:data().steps
    assert.is_true(#steps <= report.most_steps + 1)
    assert.same({ 1, 5, 9 }, { steps[1], steps[2], steps[3] })
    assert.equal(3 * report.most_steps, steps[#steps])
  end)
end)
