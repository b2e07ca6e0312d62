-- Events of training: who hears what, and what becomes of listeners that raise.
-- luacheck: ignore 211 (subscriptions that end with their block)
local fake = require("spec.support.fake_core").install()
local crucible = require "crucible"
local expect = require "spec.support.expect"
local temp = require "spec.support.temp"

local lora, telemetry = crucible.lora, crucible.telemetry
local folder, path

local function rows(count)
  local list = {}
  for i = 1, count do list[i] = { input = ("row %d:"):format(i), output = ("answer %d"):format(i) } end
  return list
end

local function train(options, id)
  local session <close> = assert(lora.create_session {
    config = { base_model = path, lora_rank = 2, warmup_steps = 0 }, runs = folder .. "/runs", experiment_id = id,
  })
  return lora.training_loop.run(session, rows(4), options)
end

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
end)
after_each(temp.clean)

describe("an attached function", function()
  it("hears a run's events in order, with measurements, metadata and the run they belong to", function()
    local heard, steps = {}, {}
    local subscription <close> = telemetry.attach(function(name, measurements, metadata)
      heard[#heard + 1] = name
      assert.equal("one", metadata.run.experiment_id)
      assert.equal("default", metadata.run.adapter_name)
      for key, value in pairs(measurements) do assert.equal("number", type(value), name .. "." .. key) end
      if name == "step.stop" then steps[#steps + 1] = { measurements, metadata } end
    end)
    assert(train({ batch_size = 2, evaluate = function() return { accuracy = 0.5, note = "x" } end }, "one"))
    assert.same({ "training.start", "epoch.start", "step.start", "step.stop", "step.start", "step.stop", "epoch.stop",
      "evaluation.start", "evaluation.stop", "checkpoint.saved", "training.stop" }, heard)
    local measurements, metadata = steps[2][1], steps[2][2]
    for _, name in ipairs { "loss", "lr", "grad_norm", "update_norm", "tokens", "supervised", "seconds", "tokens_per_s",
      "memory" } do
      assert.is_not_nil(measurements[name], name)
    end
    assert.equal(2, metadata.step)
    assert.equal(2, metadata.total_steps)
    assert.equal(measurements.loss, metadata.components.cross_entropy)
    assert.equal(measurements.loss, metadata.event.loss)
  end)

  it("hears only what it asked for: a name, a group, one run", function()
    local names, groups, ones = {}, {}, 0
    local first <close> = telemetry.attach(function(name) names[#names + 1] = name end, { events = "checkpoint.saved" })
    local second <close> = telemetry.attach(function(name) groups[#groups + 1] = name end, { events = { "epoch.*" } })
    local third <close> = telemetry.attach(function() ones = ones + 1 end, { experiment_id = "other" })
    assert(train({ batch_size = 2 }, "this"))
    assert.same({ "checkpoint.saved" }, names)
    assert.same({ "epoch.start", "epoch.stop" }, groups)
    assert.equal(0, ones)
  end)

  it("hears nothing after detach, which may be called twice and from within", function()
    local count, subscription = 0, nil
    subscription = telemetry.attach(function()
      count = count + 1
      subscription:detach()
    end)
    assert(train {})
    assert.equal(1, count)
    subscription:detach()
  end)

  it("that raises is detached, the others are told, and the run goes on", function()
    local told
    local good <close> = telemetry.attach(function(_, _, metadata) told = metadata end,
      { events = "telemetry.detached" })
    local bad = telemetry.attach(function(name) if name == "step.stop" then error "broken dashboard" end end)
    assert.equal(4, assert(train { batch_size = 1 }).total_steps)
    assert.equal("step.stop", told.event)
    assert.truthy(told.message:find("broken dashboard", 1, true) and told.message:find("stack traceback", 1, true))
    bad:detach()
  end)

  it("is refused when it is none, or when no such event exists", function()
    expect.raises("telemetry.attach: expected a function, got 5", telemetry.attach, 5)
    expect.raises('unknown event "step.end"', telemetry.attach, print, { events = "step.end" })
  end)
end)

describe("a reporter among the callbacks", function()
  it("hears its own run alone", function()
    local count = 0
    local reporter = { on_event = function(name) if name == "step.stop" then count = count + 1 end end }
    assert(train { batch_size = 2, callbacks = { reporter } })
    assert(train { batch_size = 2 })
    assert.equal(2, count)
  end)

  it("that raises ends the run, named with event and step, and the step is kept", function()
    local reporter = { on_event = function(name, _, metadata)
      if name == "step.stop" and metadata.step == 3 then error "no room" end
    end }
    local ok, message = pcall(train, { batch_size = 1, callbacks = reporter })
    assert.is_false(ok)
    for _, part in ipairs { "on_event (step.stop) failed at step 3", "checkpoint step_000003 kept", "no room" } do
      assert.truthy(message:find(part, 1, true), part .. " in " .. message)
    end
  end)
end)

it("every event a run sends is among those that are documented", function()
  local known = {}
  for _, event in ipairs(telemetry.events) do
    known[event.name] = true
    assert.truthy(telemetry.help():find(event.name, 1, true))
  end
  local subscription <close> = telemetry.attach(function(name) assert.is_true(known[name] or false, name) end)
  assert(train { checkpoint_every = 1 })
  assert.is_true(fake ~= nil)
end)
