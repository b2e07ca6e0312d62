-- The training loop over the stand-in: what a run promises, checked to the byte.
local fake = require("spec.support.fake_core").install()
local crucible = require "crucible"
local expect = require "spec.support.expect"
local fs = require "crucible.fs"
local json = require "crucible.json"
local jsonl = require "crucible.jsonl"
local temp = require "spec.support.temp"

local lora = crucible.lora
local loop = lora.training_loop

local folder, path

local function rows(count)
  local list = {}
  for i = 1, count do list[i] = { input = ("row %d:"):format(i), output = ("answer %d"):format(i * i % 7) } end
  return list
end

-- A row of NaN: its answer holds the byte that poisons the loss.
local function poisoned(count, ...)
  local list = rows(count)
  for _, i in ipairs { ... } do list[i].output = "x\0" end
  return list
end

local function open(config, options)
  options = options or {}
  config = config or {}
  config.base_model, config.lora_rank = path, config.lora_rank or 2
  config.learning_rate, config.warmup_steps = config.learning_rate or 0.01, config.warmup_steps or 0
  options.config, options.runs = lora.config.new(config), folder .. "/runs"
  return assert(lora.create_session(options))
end

local function run(session, dataset, options) return assert(loop.run(session, dataset, options)) end

local function weights(checkpoint_path)
  local lora_bytes = temp.read(checkpoint_path .. "/adapter_model.safetensors")
  return lora_bytes .. temp.read(checkpoint_path .. "/optimizer.safetensors")
end

local function last(results) return results.checkpoints[#results.checkpoints] end

-- Lora values of a session, rounded so that the order of summation does not show.
local function rounded(session)
  local list = {}
  for _, p in ipairs(session.core:parameters()) do
    for _, value in ipairs(session.core:read(p.name)) do list[#list + 1] = ("%.9f"):format(value) end
  end
  return table.concat(list, " ")
end

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
end)
after_each(temp.clean)

describe("a run", function()
  it("returns what happened and leaves it in its folder", function()
    local session <close> = open(nil, { experiment_id = "first" })
    local results = run(session, rows(10), { epochs = 2, batch_size = 4, checkpoint_every = 2 })
    assert.equal(6, results.total_steps)
    assert.equal("finished", results.status)
    assert.equal(0, results.skipped_steps)
    assert.equal(6, results.metrics.total_steps)
    assert.equal(2, #results.epochs)
    assert.is_true(results.epochs[2].mean_loss < results.epochs[1].mean_loss)
    assert.equal(folder .. "/runs/first", results.run_dir)
    local names = {}
    for i, checkpoint in ipairs(results.checkpoints) do names[i] = checkpoint.name end
    assert.same({ "step_000002", "step_000004", "step_000006" }, names)
    assert.equal(results.checkpoints[3].path, results.best_checkpoint)
    for _, name in ipairs { "adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors",
      "trainer_state.json" } do
      assert.truthy(temp.read(results.best_checkpoint .. "/" .. name))
    end
  end)

  it("writes a manifest with every resolved value", function()
    local session <close> = open({ lora_alpha = 8 }, { seed = 4 })
    local results = run(session, rows(4), { batch_size = 2 })
    local manifest = assert(json.decode(temp.read(results.run_dir .. "/manifest.json")))
    assert.equal("finished", manifest.status)
    assert.equal(8, manifest.config.lora_alpha)
    assert.equal(0.999, manifest.config.adam_beta2)
    assert.equal(4, manifest.seed)
    assert.equal(64, #manifest.engine.model.sha256)
    assert.equal(64, #manifest.dataset.sha256)
    assert.equal(2, manifest.plan.total_steps)
    assert.equal("toy", manifest.engine.kernels)
    assert.equal(2, manifest.results.total_steps)
    assert.equal(4, manifest.dataset.gate.rows)
    assert.truthy(manifest.versions.crucible and manifest.started_at and manifest.finished_at)
  end)

  it("writes one object a step to the telemetry", function()
    local session <close> = open()
    local results = run(session, rows(6), { batch_size = 2 })
    local lines = assert(jsonl.read(results.run_dir .. "/telemetry.jsonl"))
    assert.equal(3, #lines)
    for i, line in ipairs(lines) do
      assert.equal(i, line.step)
      assert.equal(1, line.epoch)
      for _, field in ipairs { "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "supervised", "seconds" } do
        assert.equal("number", type(line[field]), field)
      end
      assert.equal(line.loss, line.components.cross_entropy)
      assert.is_false(line.skipped)
    end
  end)

  it("has the reference's defaults: one epoch, batches of 8, a checkpoint every 100 steps", function()
    local session <close> = open()
    local results = run(session, rows(17))
    assert.equal(3, results.total_steps)
    assert.equal(1, #results.checkpoints)
  end)

  it("steps what is left at the end of an epoch with its true count", function()
    local session <close> = open()
    local supervised = {}
    run(session, rows(5), { batch_size = 2,
      callbacks = { on_step_end = function(event) supervised[event.step] = event.supervised end } })
    assert.same({ 20, 20, 10 }, supervised) -- " answer N" and the end token: ten targets a row
  end)

  it("stops at max_steps, and takes as many epochs as that needs", function()
    local session <close> = open()
    assert.equal(3, run(session, rows(20), { max_steps = 3, batch_size = 2 }).total_steps)
    assert.equal(7, run(session, rows(4), { max_steps = 7, batch_size = 2 }).total_steps)
    assert.equal(2, run(session, rows(4), { max_steps = 7, epochs = 1, batch_size = 2 }).total_steps)
  end)

  it("keeps a second run of a session beside the first", function()
    local session <close> = open(nil, { experiment_id = "twice" })
    local first, second = run(session, rows(4)), run(session, rows(4), { run_dir = folder .. "/runs/twice" })
    assert.equal(first.run_dir .. "-2", second.run_dir)
  end)

  it("prints nothing of its own", function()
    local script = ([[
      local fake = require("spec.support.fake_core").install()
      local lora = require("crucible").lora
      local s = assert(lora.create_session { config = { base_model = %q, lora_rank = 2 }, runs = %q })
      assert(lora.training_loop.run(s, { { input = "a", output = "b" } }))
    ]]):format(path, folder .. "/runs")
    local file = temp.file(folder, "quiet.lua", script)
    local pipe = assert(io.popen(("lua5.4 %s 2>&1"):format(file)))
    assert.equal("", pipe:read "a")
    assert.is_true(pipe:close())
  end)
end)

describe("gradient accumulation", function()
  local function train(batch_size, accumulation)
    local session <close> = open { grad_accumulation = accumulation, lora_dropout = 0 }
    local losses = {}
    run(session, rows(40), { batch_size = batch_size, epochs = 2, callbacks = {
      on_step_end = function(event) losses[event.step] = ("%.9f"):format(event.loss) end,
    } })
    return losses, rounded(session)
  end

  local whole, whole_weights = nil, nil
  for _, split in ipairs { { 16, 1 }, { 1, 16 }, { 2, 8 }, { 5, 4 }, { 3, 16 // 3 } } do
    if split[1] * split[2] == 16 then
      it(("of %d x %d rows is the same as one batch of 16"):format(split[1], split[2]), function()
        if not whole then whole, whole_weights = train(16, 1) end
        local losses, values = train(split[1], split[2])
        assert.same(whole, losses)
        assert.equal(whole_weights, values)
      end)
    end
  end

  it("weighs tokens, not batches: one long row and one short", function()
    local uneven = { { input = "a:", output = ("long "):rep(30) }, { input = "b:", output = "s" } }
    local function first_loss(batch_size, accumulation)
      local session <close> = open { grad_accumulation = accumulation, lora_dropout = 0 }
      local loss
      run(session, uneven, { batch_size = batch_size,
        callbacks = { on_step_end = function(event) loss = event.loss end } })
      return loss
    end
    assert.is_true(math.abs(first_loss(2, 1) - first_loss(1, 2)) < 1e-12)
  end)
end)

describe("the order of rows", function()
  local function order(options, seed)
    local session <close> = open(nil, { seed = seed or 0 })
    local seen, inner = {}, session.forward_backward
    session.forward_backward = function(self, batch, ...)
      for _, datum in ipairs(batch) do seen[#seen + 1] = datum.row end
      return inner(self, batch, ...)
    end
    run(session, rows(6), options)
    return table.concat(seen, " ")
  end

  it("is a function of seed and epoch, another in each", function()
    local first = order { epochs = 2, batch_size = 4 }
    assert.equal(first, order { epochs = 2, batch_size = 1 })
    assert.not_equal(first, order({ epochs = 2, batch_size = 4 }, 1))
    assert.equal(order({ batch_size = 4 }, 1), order { batch_size = 4, seed = 1 })
    local one, two = first:match("^(%d %d %d %d %d %d) (.*)$")
    assert.not_equal(one, two)
  end)

  it("is the given one on request", function()
    assert.equal("1 2 3 4 5 6 1 2 3 4 5 6", order { epochs = 2, shuffle = false })
  end)
end)

describe("resuming", function()
  local options = { epochs = 3, batch_size = 2, checkpoint_every = 4 }
  local config = { schedule = "cosine", grad_accumulation = 2, warmup_steps = 3 }

  local function with(more)
    local merged = {}
    for key, value in pairs(options) do merged[key] = value end
    for key, value in pairs(more) do merged[key] = value end
    return merged
  end

  local function copy(from)
    local made = {}
    for key, value in pairs(from) do made[key] = value end
    return made
  end

  it("reaches the very bytes of the uninterrupted run from every checkpoint", function()
    local whole <close> = open(copy(config), { experiment_id = "whole" })
    local expected = run(whole, rows(13), options)
    assert.equal(12, expected.total_steps)
    for step = 1, 11 do
      local cut <close> = open(copy(config), { experiment_id = "cut" .. step })
      run(cut, rows(13),
        with { callbacks = { on_step_end = function(event) if event.step == step then return "stop" end end } })
      local again <close> = open(copy(config), { experiment_id = "cut" .. step })
      local results = run(again, rows(13), with { resume = true })
      assert.equal(12, results.total_steps)
      assert.equal(weights(last(expected).path), weights(last(results).path), "stopped at step " .. step)
      assert.equal(expected.metrics.mean_loss, results.metrics.mean_loss)
      assert.same(expected.epochs, results.epochs)
      assert.equal(12, #assert(jsonl.read(results.run_dir .. "/telemetry.jsonl")))
    end
  end)

  it("goes on from a checkpoint by path, in its folder, and forgets the telemetry behind it", function()
    local session <close> = open(copy(config))
    local results = run(session, rows(13), options)
    local other <close> = open(copy(config))
    local again = run(other, rows(13), with { resume = results.checkpoints[1].path })
    assert.equal(results.run_dir, again.run_dir)
    assert.equal(weights(last(results).path), weights(last(again).path))
    assert.equal(12, #assert(jsonl.read(results.run_dir .. "/telemetry.jsonl")))
  end)

  it("survives telemetry cut off in the middle of a line, and drafts of a killed save", function()
    local session <close> = open(copy(config), { experiment_id = "killed" })
    local results = run(session, rows(13), options)
    local telemetry = temp.read(results.run_dir .. "/telemetry.jsonl")
    temp.file(results.run_dir, "telemetry.jsonl", telemetry:sub(1, #telemetry - 30))
    temp.file(results.run_dir, "checkpoints/.writing-step_000016/adapter_model.safetensors", "half")
    os.rename(results.run_dir .. "/checkpoints/step_000008", results.run_dir .. "/checkpoints/.replaced-step_000008")
    fs.remove_tree(results.run_dir .. "/checkpoints/step_000012")
    local other <close> = open(copy(config), { experiment_id = "killed" })
    local again = run(other, rows(13), with { resume = true })
    assert.equal(weights(last(results).path), weights(last(again).path))
    assert.is_nil(fs.stat(results.run_dir .. "/checkpoints/.writing-step_000016"))
    assert.equal(3, #again.checkpoints)
  end)

  for _, case in ipairs {
    { "another batch size", { batch_size = 4 }, nil, "batch_size was 2, now it is 4" },
    { "another order", { seed = 9 }, nil, "seed was 0, now it is 9" },
    { "other rows", {}, 12, "data_sha256 was" },
  } do
    it("refuses " .. case[1], function()
      local session <close> = open(copy(config), { experiment_id = "one" })
      run(session, rows(13), options)
      local more = copy(case[2])
      more.resume = true
      expect.fails("data", case[4], loop.run(session, rows(case[3] or 13), with(more)))
    end)
  end

  it("refuses a folder without a checkpoint, and a checkpoint saved by hand", function()
    local session <close> = open()
    expect.fails("not_found", "has no complete checkpoint to resume from", loop.run(session, rows(4),
      { resume = true }))
    assert(session:save_checkpoint "mine")
    expect.fails("format", "was not saved by a training loop", loop.run(session, rows(4), { resume = "mine" }))
  end)
end)

describe("steps that are not finite", function()
  it("are skipped, counted and reported, and leave the weights as they are", function()
    local session <close> = open()
    local skipped = {}
    local results = run(session, poisoned(6, 3), { batch_size = 1, shuffle = false, epochs = 2, callbacks = {
      on_step_end = function(event) skipped[event.step] = event.skipped end,
    } })
    assert.equal(2, results.skipped_steps)
    assert.same({ [1] = false, [2] = false, [3] = true, [4] = false, [5] = false, [6] = false, [7] = false, [8] = false,
      [9] = true, [10] = false, [11] = false, [12] = false }, skipped)
    assert.equal(12, results.total_steps)
    assert.is_true(results.metrics.mean_loss == results.metrics.mean_loss)
    assert.is_true(results.epochs[1].mean_loss == results.epochs[1].mean_loss)
    assert.equal(10, session.core:step())
    local line = assert(jsonl.read(results.run_dir .. "/telemetry.jsonl"))[3]
    assert.equal(json.null, line.loss)
    assert.is_true(line.skipped)
  end)

  it("spoil nothing that their batch added before", function()
    local session <close> = open { grad_accumulation = 2 }
    run(session, poisoned(4, 2), { batch_size = 1, shuffle = false })
    for _, p in ipairs(session.core:parameters()) do
      for _, value in ipairs(session.core:read(p.name)) do assert.equal(value, value) end
    end
  end)

  it("end the run at three in a row, with the checkpoint kept", function()
    local session <close> = open()
    local results, message, code, partial = loop.run(session, poisoned(9, 4, 5, 6), { batch_size = 1, shuffle = false })
    expect.fails("nonfinite", "3 steps in a row had a loss or gradient that is not finite (the last was step 6)",
      results,
      message, code)
    assert.truthy(message:find("checkpoint step_000006 kept in " .. folder, 1, true))
    assert.equal("stopped", partial.status)
    assert.equal(3, partial.skipped_steps)
    assert.equal(1, #partial.checkpoints)
    assert.equal("stopped", json.decode(temp.read(partial.run_dir .. "/manifest.json")).status)
    assert(session:load_checkpoint(partial.checkpoints[1].path))
  end)

  it("in two rows of two do not end it", function()
    local session <close> = open()
    assert.equal(4, run(session, poisoned(8, 2, 3, 5, 6), { batch_size = 1, shuffle = false }).skipped_steps)
  end)
end)

describe("callbacks", function()
  it("hear of everything in order", function()
    local session <close> = open()
    local heard = {}
    local callbacks = {}
    for _, name in ipairs(loop.events) do
      callbacks[name] = function(event)
        heard[#heard + 1] = name:gsub("^on_", "") .. ":" .. tostring(event.step or event.total_steps)
      end
    end
    run(session, rows(4), { batch_size = 2, checkpoint_every = 1, callbacks = callbacks,
      evaluate = function() return { accuracy = 1 } end })
    assert.same({ "train_begin:0", "step_end:1", "checkpoint:1", "step_end:2", "epoch_end:2", "evaluate:2",
      "checkpoint:2",
      "train_end:2" }, heard)
  end)

  it("may come as a list", function()
    local session <close> = open()
    local count = 0
    local counter = { on_step_end = function() count = count + 1 end }
    run(session, rows(4), { batch_size = 2, callbacks = { counter, { counter },
      on_epoch_end = function() count = count + 100 end } })
    assert.equal(104, count)
  end)

  it("receive what the reference promises", function()
    local session <close> = open()
    local step, epoch, checkpoint
    run(session, rows(4), { batch_size = 2, callbacks = {
      on_step_end = function(event) step = event end, on_epoch_end = function(event) epoch = event end,
      on_checkpoint = function(event) checkpoint = event end,
    } })
    for _, field in ipairs { "step", "epoch", "loss", "components", "grad_norm", "timestamp" } do
      assert.is_not_nil(step[field], field)
    end
    assert.truthy(step.timestamp:match("Z$"))
    for _, field in ipairs { "epoch", "step", "mean_loss", "metrics" } do assert.is_not_nil(epoch[field], field) end
    for _, field in ipairs { "name", "path", "step", "epoch", "metrics" } do
      assert.is_not_nil(checkpoint[field], field)
    end
  end)

  it("stop the run or ask for a checkpoint by what they return", function()
    local session <close> = open()
    local results = run(session, rows(8), { batch_size = 1, callbacks = { on_step_end = function(event)
      if event.step == 2 then return "checkpoint" end
      if event.step == 5 then return "stop" end
    end } })
    assert.equal("stopped", results.status)
    assert.equal(5, results.total_steps)
    assert.same({ 2, 5 }, { results.checkpoints[1].step, results.checkpoints[2].step })
  end)

  it("that raise are named, with the step and a traceback, and the step is saved", function()
    local session <close> = open(nil, { experiment_id = "mended" })
    local options = { batch_size = 1,
      callbacks = { on_step_end = function(event) if event.step == 3 then error "boom" end end } }
    local ok, message = pcall(loop.run, session, rows(6), options)
    assert.is_false(ok)
    for _, part in ipairs { "on_step_end failed at step 3", "checkpoint step_000003 kept", "boom",
      "stack traceback" } do
      assert.truthy(message:find(part, 1, true), part)
    end
    local whole <close> = open()
    local expected = run(whole, rows(6), { batch_size = 1 })
    local again <close> = open(nil, { experiment_id = "mended" })
    local results = run(again, rows(6), { batch_size = 1, resume = true })
    assert.equal(weights(last(expected).path), weights(last(results).path))
  end)

  it("are refused when no such event exists or they are no function", function()
    local session <close> = open()
    expect.raises('unknown event "on_stepend"; did you mean "on_step_end"?', loop.run, session, rows(2),
      { callbacks = { on_stepend = print } })
    expect.raises("on_step_end must be a function, got 5", loop.run, session, rows(2),
      { callbacks = { on_step_end = 5 } })
  end)
end)

describe("evaluation inside a run", function()
  it("happens each epoch, or every so many steps, and is kept", function()
    local session <close> = open()
    local steps = {}
    local function evaluate(_, event) steps[#steps + 1] = event.step return { accuracy = event.step } end
    local results = run(session, rows(8), { batch_size = 2, epochs = 2, evaluate = evaluate })
    assert.same({ 4, 8 }, steps)
    assert.same({ step = 8, epoch = 2, metrics = { accuracy = 8 } }, results.evaluations[2])
    steps = {}
    run(session, rows(8), { batch_size = 2, epochs = 2, evaluate = evaluate, evaluate_every = 3 })
    assert.same({ 3, 6 }, steps)
  end)

  it("takes the options of evaluation.evaluate", function()
    local session <close> = open()
    fake.reply = function(prompt) return " answer " .. (tonumber(prompt:match "%d+")) ^ 2 // 1 % 7 // 1 end
    local results = run(session, rows(4), { evaluate = { dataset = rows(3), metrics = { "accuracy" } } })
    assert.equal("number", type(results.evaluations[1].metrics.accuracy))
  end)

  it("with options that do not exist is refused before step 1", function()
    local session <close> = open()
    expect.raises('unknown metric "f2"; did you mean "f1"?', loop.run, session, rows(4),
      { evaluate = { metrics = { "f2" } } })
    assert.is_nil(fs.stat(session.run_dir))
  end)

  it("that fails ends the run with the state saved", function()
    local session <close> = open()
    local results, message, code, partial = loop.run(session, rows(4), { evaluate = { dataset = "nowhere.jsonl" } })
    expect.fails("not_found", "nowhere.jsonl", results, message, code)
    assert.equal(1, #partial.checkpoints)
    expect.raises("evaluate failed at step 1", loop.run, session, rows(4), { evaluate = function() error "bad" end })
  end)
end)

describe("a checkpoint that cannot be written", function()
  it("ends the run with the reason, and the one before is kept", function()
    local session <close> = open(nil, { experiment_id = "full" })
    local rename = fs.rename
    local function fill_disk(event)
      if event.step == 4 then fs.rename = function() return nil, "the disk is full", "io" end end
    end
    local results, message, code, partial = loop.run(session, rows(8), {
      batch_size = 1, checkpoint_every = 2, callbacks = { on_step_end = fill_disk },
    })
    fs.rename = rename
    expect.fails("io", "the disk is full; checkpoint step_000002 kept in " .. folder, results, message, code)
    assert.equal("failed", partial.status)
    assert.same({ "step_000002" }, fs.list(folder .. "/runs/full/checkpoints"))
    assert.equal(partial.checkpoints[1].path, partial.best_checkpoint)
    assert(session:load_checkpoint "step_000002")
  end)
end)

describe("the best checkpoint", function()
  it("is the one with the lowest mean loss since the checkpoint before", function()
    local session <close> = open { learning_rate = 0.05 }
    local list = {}
    for i = 1, 4 do list[i] = { input = "same:", output = "same" } end
    for i = 5, 6 do list[i] = { input = "x" .. i, output = "QXZ" .. i } end
    local results = run(session, list, { batch_size = 1, shuffle = false, checkpoint_every = 2 })
    local best, lowest
    for _, checkpoint in ipairs(results.checkpoints) do
      if not lowest or checkpoint.mean_loss < lowest then best, lowest = checkpoint, checkpoint.mean_loss end
    end
    assert.equal(best.path, results.best_checkpoint)
    assert.not_equal(last(results).path, results.best_checkpoint)
  end)
end)

describe("steps", function()
  it("iterate over the run", function()
    local session <close> = open(nil, { experiment_id = "iterated" })
    local losses = {}
    for step in assert(loop.steps(session, rows(6), { batch_size = 2 })) do losses[#losses + 1] = step.loss end
    assert.equal(3, #losses)
    assert.equal("finished", json.decode(temp.read(folder .. "/runs/iterated/manifest.json")).status)
    assert.equal(1, #assert(session:checkpoints()))
  end)

  it("save and close the run when left early", function()
    local session <close> = open(nil, { experiment_id = "left" })
    for step in loop.steps(session, rows(6), { batch_size = 1 }) do
      if step.step == 2 then break end
    end
    assert.equal(2, assert(session:checkpoints())[1].step)
  end)

  it("raise what would stop run", function()
    local session <close> = open()
    expect.raises("3 steps in a row", function()
      for _ in loop.steps(session, poisoned(4, 1, 2, 3), { batch_size = 1, shuffle = false }) do end -- luacheck: ignore
    end)
  end)
end)

describe("a run is refused before step 1", function()
  for _, case in ipairs {
    { "an empty data set", {}, {}, "data", "the dataset is empty" },
    { "a data set without supervision", { { input = "a", output = "" } }, {}, "data", "row 1 has no supervised token" },
    { "a data set that is not there", "nowhere.jsonl", {}, "not_found", "nowhere.jsonl" },
  } do
    it("for " .. case[1], function()
      local session <close> = open()
      expect.fails(case[4], case[5], loop.run(session, case[2], case[3]))
      assert.is_nil(fs.stat(session.run_dir))
    end)
  end

  for _, case in ipairs {
    { { epoch = 2 }, 'unknown option "epoch"; did you mean "epochs"?' },
    { { enable_gradient_hooks = true, gradient_hooks = { "nrm" } }, 'no hook is named "nrm"; did you mean "norm"?' },
    { { loss_fn = "topological" }, 'loss "topological" is not registered: call' },
    { { batch_size = 0 }, "batch_size must be an integer of at least 1, got 0" },
    { { config = { lora_rank = 8 } }, "config.lora_rank is 8, but the session was made with 2" },
    { { config = { lora_rnk = 8 } }, 'unknown option "lora_rnk"; did you mean "lora_rank"?' },
  } do
    it("for options: " .. case[2], function()
      local session <close> = open()
      expect.raises(case[2], loop.run, session, rows(2), case[1])
    end)
  end

  it("but not for a config that differs in training fields", function()
    local session <close> = open()
    local lrs = {}
    run(session, rows(4), { batch_size = 2, config = { learning_rate = 0.5, warmup_steps = 2 },
      callbacks = { on_step_end = function(event) lrs[event.step] = event.lr end } })
    assert.same({ 0.25, 0.5 }, lrs)
  end)

  it("unless the gate is off", function()
    local session <close> = open()
    assert.equal(1, run(session, { { input = "a", output = "" }, { input = "a", output = "b" } },
      { gate = false }).total_steps)
    expect.fails("data", "the dataset is empty", loop.run(session, {}, { gate = false }))
  end)
end)
