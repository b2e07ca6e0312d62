-- Where hooks stand in a step, what their actions do, what happens when they raise, and that looking
-- changes nothing.
local console = require "crucible.callbacks.console"
local crucible = require "crucible"
local expect = require "spec.support.expect"
local hooked = require "spec.support.hooked"

local hooks = crucible.lora.gradient_hooks
local loop = crucible.lora.training_loop
local open, run, events_of, telemetry = hooked.open, hooked.run, hooked.events, hooked.telemetry
local B = hooked.B

before_each(hooked.begin)
after_each(hooked.finish)

local function norm_of(gradients)
  local squares = 0
  for _, gradient in pairs(gradients) do squares = squares + gradient:norm() ^ 2 end
  return math.sqrt(squares)
end

-- What the console says of a step.
local function console_of(event)
  local stream = io.tmpfile()
  local report = console.new { mode = "plain", every = 1, stream = stream }
  report.on_event("training.start", { step = 0, total_steps = 9, steps_per_epoch = 9 }, { run = { run_dir = "x" } })
  report.on_event("step.stop", {}, { event = event })
  stream:seek "set"
  return stream:read "a"
end

describe("points", function()
  it("come in order, and each sees what its place promises", function()
    local session <close> = open { max_grad_norm = 1e-2 }
    local seen = {}
    run(session, { { "look", function(info)
      local norm = info.point ~= "after_update" and norm_of(info.gradients)
      seen[#seen + 1] = { point = info.point, norm = norm, before = info.grad_norm, update = info.update_norm }
    end, points = hooks.points } }, { max_steps = 2 })
    for step = 1, 2 do
      local backward, clipping, update = table.unpack(seen, 3 * step - 2, 3 * step)
      assert.same({ point = "after_backward", norm = backward.norm }, backward)
      assert.equal("after_clipping", clipping.point)
      assert.is_true(math.abs(clipping.before - backward.norm) < 1e-6 * backward.norm)
      assert.is_true(math.abs(clipping.norm - 1e-2) < 1e-5)
      assert.equal("after_update", update.point)
      assert.is_true(update.update > 0)
    end
  end)

  it("after the update have no gradients any more", function()
    local session <close> = open()
    local late = { "late", function(info) return { norm = info.gradients[B]:norm() } end, points = "after_update" }
    expect.raises('gradient hook "late" (after_update) failed at step 1', hooked.try, session, { late })
  end)
end)

describe("actions", function()
  it("skip a step: nothing moves, and it is recorded as the hook's doing", function()
    local session <close> = open()
    local picky = { "picky", function(info) return info.step >= 2 and { action = "skip" } or nil end }
    local events, results = events_of(session, { picky }, { epochs = 2 })
    for step, event in ipairs(events) do assert.equal(step > 1 and "picky" or nil, event.skipped_by) end
    assert.truthy(console_of(events[2]):find("skipped by hook picky", 1, true))
    assert.equal("finished", results.status) -- no patience is lost on a hook's choice
    assert.equal(7, results.skipped_steps)
    assert.equal(1, session.core:step())
    local row = telemetry(results)[2]
    assert.same({ { action = "skip", hook = "picky", point = "after_backward" } }, row.hooks.actions)
    assert.is_true(row.skipped)
  end)

  it("stop the run after the step", function()
    local session <close> = open()
    local results = run(session, { { "enough", function(info)
      if info.step == 3 then return { action = "stop" } end
    end, points = "after_update" } })
    assert.equal("stopped", results.status)
    assert.equal('by gradient hook "enough"', results.reason)
    assert.equal(3, results.total_steps)
    assert.equal("stop", telemetry(results)[3].hooks.actions[1].action)
  end)

  it("scale the gradients, before or after clipping", function()
    local norms, moments = {}, {}
    for i, point in ipairs { "after_backward", "after_clipping" } do
      local session <close> = open { max_grad_norm = 1e6 }
      local half = { "half", function() return { action = { scale = 0.5 } } end, points = point }
      local events, results = events_of(session, { half }, { max_steps = 1 })
      assert.same({ { action = "scale", factor = 0.5, hook = "half", point = point } },
        telemetry(results)[1].hooks.actions)
      norms[i], moments[i] = events[1].grad_norm, session.core:norm(B, "moment1")
    end
    assert.is_true(math.abs(norms[2] - 2 * norms[1]) < 1e-6 * norms[2])
    assert.is_true(math.abs(moments[2] - moments[1]) < 1e-6 * moments[1])
  end)

  it("freeze and thaw names, at once and from the next step", function()
    local session <close> = open()
    local lengths = {}
    local results = run(session, { { "ice", function(info)
      if info.step == 2 then return { action = { freeze = { "layers.1" } } } end
      if info.step == 4 then return { action = { thaw = { B } } } end
    end } }, { epochs = 2, callbacks = { on_step_end = function(event)
      lengths[event.step] = session:weight_norm(B)
    end } })
    assert.equal(lengths[1], lengths[2])
    assert.equal(lengths[1], lengths[4])
    assert.not_equal(lengths[4], lengths[5])
    assert.equal(3, #session:frozen())
    local recorded = telemetry(results)[2].hooks.actions[1]
    assert.same({ "freeze", "ice", 4 }, { recorded.action, recorded.hook, #recorded.names })
    assert.same({ B }, telemetry(results)[4].hooks.actions[1].names)
  end)

  it("that freeze are resumed with the run, to the same bytes", function()
    local ice = { "ice", function(info) return info.step == 2 and { action = { freeze = { B } } } or nil end }
    local whole <close> = open()
    local expected = run(whole, { ice }, { epochs = 2 })
    local session <close> = open()
    local half = run(session, { ice }, { epochs = 2, callbacks = { on_step_end = function(event)
      return event.step == 3 and "stop" or nil
    end } })
    local again <close> = open()
    local results = run(again, {}, { epochs = 2, resume = true, run_dir = half.run_dir })
    assert.equal(hooked.final_bytes(expected), hooked.final_bytes(results))
    assert.same({ B }, again:frozen())
  end)

  it("do several things at once", function()
    local session <close> = open()
    local row = telemetry(run(session, { { "all", function(info)
      if info.step > 1 then return nil end
      return { action = { freeze = { B }, scale = 2, stop = true, skip = true }, note = "done" }
    end } }))
    assert.equal(1, #row)
    local names = {}
    for i, action in ipairs(row[1].hooks.actions) do names[i] = action.action end
    assert.same({ "freeze", "scale", "skip", "stop" }, names)
    assert.equal("done", row[1].hooks.note)
  end)

  it("are refused where they come too late", function()
    for _, action in ipairs { "skip", { scale = 2 } } do
      local session <close> = open()
      local late = { "late", function() return { action = action } end, points = "after_update" }
      expect.raises("the update", hooked.try, session, { late })
    end
  end)
end)

describe("a hook that raises in a run", function()
  local function frail(point)
    return { "frail", function(info)
      if info.step == 3 then error "boom" end
    end, points = point }
  end

  for _, point in ipairs(hooks.points) do
    it("ends it at " .. point .. " with the last whole step saved, and the run can go on", function()
      local whole <close> = open()
      local expected = run(whole, {})
      local session <close> = open()
      local ok, message = pcall(hooked.try, session, { frail(point) })
      assert.is_false(ok)
      local kept = ("checkpoint step_%06d kept"):format(point == "after_update" and 3 or 2)
      local named = ('gradient hook "frail" (%s) failed at step 3'):format(point)
      for _, part in ipairs { named, kept, "boom", "stack traceback" } do
        assert.truthy(message:find(part, 1, true), part .. " in " .. message)
      end
      local again <close> = open()
      local results = run(again, {}, { run_dir = session.run_dir, resume = true })
      assert.equal(hooked.final_bytes(expected), hooked.final_bytes(results))
    end)

    it("is passed over at " .. point .. " when that was asked for", function()
      local whole <close> = open()
      local session <close> = open()
      local results = run(session, { frail(point), "norm" }, { on_hook_error = "continue" })
      assert.equal(4, results.total_steps)
      local errors = telemetry(results)[3].hooks.hook_errors
      assert.same({ "frail", point }, { errors[1].hook, errors[1].point })
      assert.truthy(errors[1].message:find "boom")
      assert.equal(hooked.final_bytes(run(whole, {})), hooked.final_bytes(results))
    end)
  end
end)

describe("hooks that only read", function()
  local function read(info)
    if info.point == "after_update" then return end
    for _, gradient in pairs(info.gradients) do
      gradient:stats()
      gradient:histogram()
      gradient:totable()
    end
  end

  for _, limit in ipairs { 0.05, 0, 1e6 } do
    it(("leave every byte of lora and optimiser as it was, with max_grad_norm %g"):format(limit), function()
      local config = { max_grad_norm = limit, grad_accumulation = 2, lora_dropout = 0.1 }
      local plain <close> = open(config)
      local expected = assert(loop.run(plain, hooked.rows(16), { batch_size = 2, checkpoint_every = 0 }))
      local looked <close> = open(config)
      local specs = { "norm", "distribution", "flow", "health", "updates", "cosine", "noise",
        { "spectrum", { every = 1 } }, { "reader", read, points = hooks.points } }
      local events, results = events_of(looked, specs, { rows = 16 })
      assert.equal(hooked.final_bytes(expected), hooked.final_bytes(results))
      for step, row in ipairs(telemetry(expected)) do
        local event = events[step]
        assert.same({ row.loss, row.grad_norm, row.update_norm }, { event.loss, event.grad_norm, event.update_norm })
      end
    end)
  end
end)

describe("a run without hooks", function()
  it("asks nothing of the session and gives one empty list of issues", function()
    local session <close> = open()
    local forbidden = { "gradients", "watch", "clip_gradients", "measure_gradients", "measured_gradients", "updates" }
    for _, name in ipairs(forbidden) do
      session[name] = function() error(name .. " was called") end
    end
    local events, results = events_of(session, { "norm" }, { enable_gradient_hooks = false })
    for _, event in ipairs(events) do assert.equal(events[1].gradient_issues, event.gradient_issues) end
    assert.is_nil(next(events[1].gradient_issues))
    assert.is_nil(telemetry(results)[1].hooks)
  end)

  it("is what an engine without gradients gives, said before any work", function()
    local session <close> = open()
    session.clip_gradients, session.engine = false, "remote" -- as an engine that has no such method
    expect.raises("gradient hooks need an engine that gives gradients; the remote engine does not", hooked.try, session,
      { "norm" })
  end)
end)
