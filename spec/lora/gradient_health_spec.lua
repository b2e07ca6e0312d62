-- The health hook: planted faults are found by name and step, and nothing else is.
local crucible = require "crucible"
local hooked = require "spec.support.hooked"

local hooks = crucible.lora.gradient_hooks
local open, events_of, steps_of = hooked.open, hooked.events, hooked.steps_of
local A, B = hooked.A, hooked.B

before_each(hooked.begin)
after_each(hooked.finish)

local function plant(f) return { "plant", f } end

local function all_quiet(events)
  for step, event in ipairs(events) do assert.same({}, event.gradient_issues, "step " .. step) end
end

-- The one step with an issue, and only one.
local function only_at(expected, events)
  for step, event in ipairs(events) do
    assert.equal(step == expected and 1 or 0, #event.gradient_issues, "step " .. step)
  end
end

describe("the health hook is quiet", function()
  it("in a healthy run, from its first step on", function()
    local session <close> = open()
    local events = events_of(session, { "health" }, { epochs = 3 })
    assert.equal(12, #events)
    all_quiet(events)
  end)

  it("about a dA that is zero because B is: it waits", function()
    local session <close> = open()
    local events = events_of(session, { "health" })
    assert.equal("waiting", events[1].gradient_health[A])
    assert.equal("healthy", events[1].gradient_health[B])
    assert.equal("healthy", events[2].gradient_health[A])
  end)

  it("about frozen names and steps without supervision", function()
    local session <close> = open()
    session:freeze "layers.0"
    local events = {}
    local rows = hooked.rows(3)
    rows[2].output = ""
    assert(crucible.lora.training_loop.run(session, rows, {
      batch_size = 1, shuffle = false, gate = false, enable_gradient_hooks = true, gradient_hooks = { "health" },
      callbacks = { on_step_end = function(event) events[event.step] = event end },
    }))
    assert.equal("frozen", events[3].gradient_health["layers.0.self_attn.q_proj.lora_B"])
    assert.equal("unsupervised", events[2].gradient_health[B])
    all_quiet(events)
  end)

  it("about clipping that cuts nothing", function()
    local session <close> = open { max_grad_norm = 1e6 }
    all_quiet(events_of(session, { { "health", { clip_window = 5 } } }, { epochs = 3 }))
  end)
end)

describe("the health hook finds", function()
  it("a learning rate a million times too high", function()
    local session <close> = open { learning_rate = 1e-3 * 1e6, weight_decay = 0 }
    local events = events_of(session, { "health" }, { epochs = 2 })
    assert.is_true(#events[1].gradient_issues + #events[2].gradient_issues > 0)
    assert.is_true(#steps_of(events, A, "runaway") > 0)
    assert.equal(8, #events)
  end)

  it("a layer scaled by 1e-12", function()
    local session <close> = open()
    local events = events_of(session, { plant(function(info)
      for name, gradient in pairs(info.gradients) do
        if name:find "^layers%.1%." then gradient:scale(1e-12) end
      end
    end), { "health", { dead_after = 1000 } } }, { epochs = 2 })
    for step = 2, 8 do
      for _, issue in ipairs(events[step].gradient_issues) do
        assert.equal("vanishing", issue.status)
        assert.truthy(issue.layer:find "^layers%.1%.")
      end
    end
    assert.is_true(#steps_of(events, A, "vanishing") > 0 and #steps_of(events, B, "vanishing") == 8)
  end)

  it("a NaN injected at step 7, by name and number; the step is skipped and the run goes on", function()
    local session <close> = open()
    local events, results = events_of(session, { plant(function(info)
      if info.step ~= 7 then return end
      local values = {}
      for i = 1, #info.gradients[B] do values[i] = i == 10 and 0 / 0 or 0 end
      info.gradients[B]:add_(values)
    end), "health" }, { epochs = 3 })
    assert.same({ 7 }, steps_of(events, B, "nonfinite"))
    only_at(7, events)
    assert.equal(1, events[7].gradient_issues[1].count)
    assert.equal(1, results.skipped_steps)
    assert.equal(12, results.total_steps)
  end)

  it("a gradient that explodes", function()
    local session <close> = open()
    local events = events_of(session, { plant(function(info) info.gradients[B]:scale(1e9) end), "health" })
    assert.same({ 1, 2, 3, 4 }, steps_of(events, B, "exploding"))
  end)

  it("a dead branch once its B should have moved, and says so once", function()
    local session <close> = open()
    local still = plant(function(info) info.gradients[B]:zero_() end)
    local events = events_of(session, { still, { "health", { vanishing = 0, dead_after = 5 } } }, { epochs = 3 })
    assert.same({ 6 }, steps_of(events, B, "dead"))
    assert.equal("dead", events[12].gradient_health[B])
    only_at(6, events)
  end)

  it("a dead branch that was frozen only some time after it is thawed", function()
    local session <close> = open()
    local events = events_of(session, { plant(function(info)
      info.gradients[B]:zero_()
      if info.step == 1 then return { action = { freeze = { B } } } end
      if info.step == 6 then return { action = { thaw = { B } } } end
    end), { "health", { vanishing = 0, dead_after = 4 } } }, { epochs = 3 })
    assert.same({ 10 }, steps_of(events, B, "dead"))
  end)

  it("that clipping cuts every step, and says so once", function()
    local session <close> = open { max_grad_norm = 1e-3 }
    local events = events_of(session, { { "health", { clip_window = 5 } } }, { epochs = 3 })
    assert.same({ 5 }, steps_of(events, "all", "clipped"))
    only_at(5, events)
  end)

  it("what lies beyond the reference's thresholds, on bare gradients", function()
    local function gradient(norm)
      return { norm = function() return norm end, nonfinite = function() return 1 end }
    end
    local found = hooks.gradient_health_hook { vanishing = 1e-3, exploding = 10 } { step = 2, gradients = {
      ["layers.0.self_attn.q_proj.lora_B"] = gradient(1e-4), ["layers.1.self_attn.q_proj.lora_B"] = gradient(11),
      ["layers.2.self_attn.q_proj.lora_B"] = gradient(1), ["layers.10.self_attn.q_proj.lora_A"] = gradient(0 / 0),
    } }
    assert.equal("healthy", found.gradient_health["layers.2.self_attn.q_proj.lora_B"])
    local statuses = {}
    for i, issue in ipairs(found.gradient_issues) do statuses[i] = issue.status end
    assert.same({ "vanishing", "exploding", "nonfinite" }, statuses)
  end)
end)
