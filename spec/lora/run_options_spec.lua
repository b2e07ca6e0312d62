-- What a run may be asked for besides steps: evaluation, the best checkpoint, early stopping, pruning, time,
-- batches by tokens and by groups, and to bear what fails. Over the stand-in, to the byte.
local fake = require("spec.support.fake_core").install()
local crucible = require "crucible"
local expect = require "spec.support.expect"
local fs = require "crucible.fs"
local json = require "crucible.json"
local temp = require "spec.support.temp"

local lora = crucible.lora
local loop = lora.training_loop
local folder, path

local function rows(count)
  local list = {}
  for i = 1, count do list[i] = { input = ("row %d:"):format(i), output = ("answer %d"):format(i * i % 7) } end
  return list
end

local function open(config, options)
  config, options = config or {}, options or {}
  config.base_model, config.lora_rank, config.warmup_steps = path, 2, config.warmup_steps or 0
  config.learning_rate = config.learning_rate or 0.01
  options.config, options.runs = lora.config.new(config), folder .. "/runs"
  return assert(lora.create_session(options))
end

local function run(options, config, id)
  local session <close> = open(config, { experiment_id = id })
  return assert(loop.run(session, rows(8), options))
end

local function names(list)
  local found = {}
  for i, checkpoint in ipairs(list) do found[i] = checkpoint.name end
  return found
end

-- An evaluator that answers from a list, one value a call.
local function scripted(metric, values)
  local calls = 0
  return function()
    calls = calls + 1
    return { [metric] = values[calls] }
  end
end

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
end)
after_each(temp.clean)

describe("the loss of an evaluation", function()
  it("is the mean over supervised targets of all held-out rows, the last ones too", function()
    local session <close> = open { lora_dropout = 0 }
    local held_out = rows(21)
    held_out[21].output = ("long "):rep(40)
    local results = assert(loop.run(session, rows(4), { evaluate = { dataset = held_out } }))
    local formatted = lora.format_training_data(held_out)
    local list = assert(lora.datums.build(session.tokenizer, formatted))
    local sum, count = 0, 0
    for _, datum in ipairs(list) do
      local logprobs = assert(session:forward { datum }).logprobs[1]
      for i, weight in ipairs(datum.weights) do
        if weight ~= 0 then sum, count = sum - logprobs[i], count + 1 end
      end
    end
    local metrics = results.evaluations[1].metrics
    assert.is_true(math.abs(metrics.loss - sum / count) < 1e-12)
    assert.is_true(math.abs(metrics.perplexity - math.exp(metrics.loss)) < 1e-9)
    assert.is_nil(metrics.accuracy)
  end)

  it("comes beside generated metrics where those are asked for, and chooses the best", function()
    fake.reply = function() return " x" end
    local results = run { evaluate = { dataset = rows(3), metrics = { "accuracy" } } }
    local metrics = results.evaluations[1].metrics
    assert.truthy(metrics.accuracy and metrics.loss)
    assert.equal("loss", results.best.metric)
    assert.equal(metrics.loss, results.best.value)
  end)

  it("is left out on request, and unknown options are refused by name", function()
    fake.reply = function() return " x" end
    local results = run { evaluate = { dataset = rows(3), loss = false, metrics = { "accuracy" } } }
    assert.is_nil(results.evaluations[1].metrics.loss)
    expect.raises('unknown option "metrcs"', run, { evaluate = { dataset = rows(3), metrcs = {} } })
  end)
end)

describe("the best checkpoint by a metric", function()
  it("is saved when it is found, whatever checkpoint_every says", function()
    local results = run { batch_size = 1, checkpoint_every = 0, evaluate_every = 1, best = "accuracy",
      evaluate = scripted("accuracy", { 0.1, 0.5, 0.4, 0.6, 0.6, 0.2, 0.3, 0.1 }) }
    assert.same({ "step_000001", "step_000002", "step_000004", "step_000008" }, names(results.checkpoints))
    assert.same({ name = "step_000004", step = 4, metric = "accuracy", value = 0.6 }, results.best)
    assert.truthy(results.best_checkpoint:find "step_000004$")
    assert.equal(0.6, results.checkpoints[3].metrics.accuracy)
  end)

  it("takes the smaller of losses and rates of errors, unless told otherwise", function()
    local values = { 3, 2, 5, 4 }
    local function best(metric, asked)
      return run { batch_size = 2, evaluate_every = 1, best = asked or metric, evaluate = scripted(metric, values) }
        .best.step
    end
    assert.equal(2, best "loss")
    assert.equal(2, best "citation_loss")
    assert.equal(2, best "perplexity")
    assert.equal(2, best "citation_invalid_rate")
    assert.equal(3, best "f1")
    assert.equal(3, best("loss", { metric = "loss", direction = "max" }))
  end)

  it("is never one whose value is not a number", function()
    local results = run { batch_size = 2, evaluate_every = 1, best = "f1",
      evaluate = scripted("f1", { 0 / 0, 0.1, 0 / 0, 0 / 0 }) }
    assert.equal(2, results.best.step)
  end)

  it("is found again by an interrupted run, and by name", function()
    local values = { 0.1, 0.9, 0.3, 0.4 }
    local options = { batch_size = 2, evaluate_every = 1, best = "accuracy", evaluate = scripted("accuracy", values),
      callbacks = { on_step_end = function(event) if event.step == 3 then return "stop" end end } }
    run(options, nil, "cut")
    options.resume, options.callbacks, options.evaluate = true, {}, scripted("accuracy", { 0.4 })
    local results = run(options, nil, "cut")
    assert.equal(2, results.best.step)
    assert.equal(4, #results.evaluations)
    local session <close> = open(nil, { experiment_id = "cut" })
    assert.equal(2, assert(session:load_checkpoint "best").loop.step)
    assert.equal(4, assert(session:load_checkpoint "latest").loop.step)
  end)

  it("by a metric that nothing measures is refused before step 1, or at the first evaluation", function()
    expect.raises('best: nothing measures "accuracy"', run, { best = "accuracy" })
    local session <close> = open()
    local results, message, code = loop.run(session, rows(4), { best = "accuracy", evaluate = function()
      return { f1 = 1, recall = 1 }
    end })
    expect.fails("argument", 'did not measure "accuracy"; it measured: f1, recall', results, message, code)
  end)
end)

describe("early stopping", function()
  local function stopped(early_stopping, values, more)
    local options = { batch_size = 1, evaluate_every = 1, best = "accuracy", early_stopping = early_stopping,
      evaluate = scripted("accuracy", values) }
    for key, value in pairs(more or {}) do options[key] = value end
    return run(options)
  end

  it("ends the run when patience is at its end, and says why", function()
    local results = stopped(2, { 0.1, 0.5, 0.4, 0.45, 0.9, 1, 1, 1 })
    assert.equal(4, results.total_steps)
    assert.equal("stopped", results.status)
    assert.equal("early stopping: accuracy has not improved 2 times running, best 0.5 at step 2", results.reason)
    assert.equal(2, results.best.step)
  end)

  it("starts to count anew at a gain, of min_delta at least", function()
    assert.equal(8, stopped(2, { 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4 }).total_steps)
    assert.equal(3, stopped({ patience = 2, min_delta = 0.2 }, { 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8 }).total_steps)
  end)

  it("may watch another metric than the best checkpoint does", function()
    local calls = 0
    local results = run { batch_size = 1, evaluate_every = 1, best = "accuracy",
      early_stopping = { patience = 1, metric = "loss" }, evaluate = function()
        calls = calls + 1
        return { accuracy = calls, loss = calls == 1 and 1 or 2 }
      end }
    assert.equal(2, results.total_steps)
    assert.equal(2, results.best.step)
  end)

  it("of the training loss counts epochs", function()
    local results = run({ epochs = 9, batch_size = 8, early_stopping = { patience = 2, min_delta = 1e9 } },
      { lora_dropout = 0 })
    assert.equal(3, results.total_steps)
  end)

  it("counts on where an interrupted run stood", function()
    local options = { batch_size = 1, evaluate_every = 1, best = "accuracy", early_stopping = 3,
      evaluate = scripted("accuracy", { 0.5, 0.4, 0.4 }),
      callbacks = { on_step_end = function(event) if event.step == 3 then return "stop" end end } }
    run(options, nil, "patient")
    options.resume, options.callbacks, options.evaluate = true, {}, scripted("accuracy", { 0.4, 0.4, 0.4 })
    assert.equal(4, run(options, nil, "patient").total_steps)
  end)
end)

describe("pruning", function()
  local values = { 0.1, 0.9, 0.2, 0.8, 0.3, 0.4, 0.5, 0.6 }
  local function left(keep)
    local options = { batch_size = 1, checkpoint_every = 1, evaluate_every = 1, best = "accuracy",
      evaluate = scripted("accuracy", values) }
    for key, value in pairs(keep) do options[key] = value end
    return run(options)
  end

  it("keeps the newest and the best, and tells of those it removed", function()
    local removed = {}
    local results = left { keep_last = 2, callbacks = { on_event = function(name, _, metadata)
      if name == "checkpoint.pruned" then removed[#removed + 1] = metadata.step end
    end } }
    assert.same({ "step_000002", "step_000007", "step_000008" }, names(results.checkpoints))
    assert.same({ 1, 3, 4, 5, 6 }, removed)
  end)

  it("keeps the best few, and the newest", function()
    assert.same({ "step_000002", "step_000004", "step_000008" }, names(left({ keep_best = 2 }).checkpoints))
    assert.same({ "step_000002", "step_000004", "step_000007", "step_000008" },
      names(left({ keep_best = 2, keep_last = 2 }).checkpoints))
  end)

  it("leaves no half of a checkpoint behind a kill", function()
    local checkpoints = require "crucible.lora.checkpoints"
    local results = left {}
    local remove_tree = fs.remove_tree
    fs.remove_tree = function(place) -- luacheck: ignore
      if place:find(".pruned-", 1, true) then return nil, "killed", "io" end
      return remove_tree(place)
    end
    local inside = results.run_dir .. "/checkpoints"
    local removed, message, code = checkpoints.prune(inside, { keep_last = 2 })
    fs.remove_tree = remove_tree
    expect.fails("io", "killed", removed, message, code)
    assert.equal(7, #assert(checkpoints.list(inside)))
    assert(checkpoints.recover(inside))
    for _, name in ipairs(assert(fs.list(inside))) do assert.is_nil(name:find("pruned", 1, true)) end
  end)
end)

describe("max_time", function()
  it("stops after the step that passed it, with a checkpoint", function()
    local clock, now = fs.clock, 0
    fs.clock = function() return now end
    local results = run { batch_size = 1, max_time = 30, callbacks = { on_step_end = function() now = now + 10 end } }
    fs.clock = clock
    assert.equal(3, results.total_steps)
    assert.equal("stopped", results.status)
    assert.equal("max_time of 30 s", results.reason)
    assert.equal("step_000003", results.checkpoints[1].name)
  end)
end)

describe("batches", function()
  local function batches_of(options)
    local session <close> = open()
    local seen, inner = {}, session.forward_backward
    session.forward_backward = function(self, batch, ...)
      local numbers = {}
      for i, datum in ipairs(batch) do numbers[i] = datum.row end
      seen[#seen + 1] = table.concat(numbers, " ")
      return inner(self, batch, ...)
    end
    local list = options.list
    options.list = nil
    return seen, assert(loop.run(session, list, options))
  end

  local uneven = {}
  for i, length in ipairs { 1, 30, 2, 2, 2, 60, 1 } do uneven[i] = { input = "q:", output = ("w"):rep(length) } end

  it("by tokens hold as many rows as fit, and at least one", function()
    local seen, results = batches_of { list = uneven, batch_tokens = 12, shuffle = false }
    -- A row of n letters has n + 2 input positions: "q:" and n letters, of which the end token is a target.
    assert.same({ "1", "2", "3 4", "5", "6", "7" }, seen)
    assert.equal(6, results.total_steps)
  end)

  it("by tokens are counted for every epoch, whose orders differ", function()
    local steps = {}
    local _, results = batches_of { list = uneven, batch_tokens = 40, epochs = 5, callbacks = {
      on_step_end = function(event) steps[event.epoch] = (steps[event.epoch] or 0) + 1 end,
    } }
    local sum = 0
    for epoch = 1, 5 do sum = sum + steps[epoch] end
    assert.equal(sum, results.total_steps)
  end)

  it("never cut a group", function()
    local list = rows(9)
    for i = 1, 9 do list[i].metadata = { group = i <= 6 and (i - 1) // 2 or nil } end
    local function pass(example) return example end
    local seen = batches_of { list = list, batch_size = 3, shuffle = false, transform = pass }
    assert.same({ "1 2", "3 4", "5 6 7", "8 9" }, seen)
    for _, batch in ipairs((batches_of { list = list, batch_size = 2, epochs = 3, transform = pass })) do
      local counts = {}
      for number in batch:gmatch "%d+" do
        local group = list[tonumber(number)].metadata.group
        if group then counts[group] = (counts[group] or 0) + 1 end
      end
      for _, count in pairs(counts) do assert.equal(2, count) end
    end
  end)

  it("larger than the data are one batch", function()
    local seen = batches_of { list = rows(3), batch_tokens = 1000000, shuffle = false }
    assert.same({ "1 2 3" }, seen)
  end)
end)

describe("what cannot be written", function()
  -- Every rename fails from step `first` to `last`: no checkpoint can take its name.
  local function failing(first, last)
    local rename = fs.rename
    return { on_step_end = function(event)
      local broken = event.step >= first and event.step <= last
      fs.rename = broken and function() return nil, "the disk is full", "io" end or rename
    end }, function() fs.rename = rename end
  end

  it("is borne on request: the run goes on, says so, and the next checkpoint is whole", function()
    local failures = {}
    local callbacks, undo = failing(2, 5)
    callbacks.on_event = function(name, _, metadata)
      if name == "checkpoint.failed" then failures[#failures + 1] = metadata.name .. ": " .. metadata.message end
    end
    local results = run { batch_size = 1, checkpoint_every = 2, on_save_error = "continue", callbacks = callbacks }
    undo()
    assert.same({ "step_000002: the disk is full", "step_000004: the disk is full" }, failures)
    assert.same({ "step_000006", "step_000008" }, names(results.checkpoints))
    assert.equal("finished", results.status)
  end)

  it("ends the run all the same when it is the last checkpoint", function()
    local callbacks, undo = failing(8, 8)
    local session <close> = open()
    local results, message, code, partial = loop.run(session, rows(8), { batch_size = 1, checkpoint_every = 2,
      on_save_error = "continue", callbacks = callbacks })
    undo()
    expect.fails("io", "the disk is full; checkpoint step_000006 kept", results, message, code)
    assert.equal(1, partial.exit_code)
    assert.truthy(fs.stat(partial.best_checkpoint).folder)
    assert.same({ "step_000002", "step_000004", "step_000006" }, names(partial.checkpoints))
  end)

  it("does not make the best what was never saved", function()
    local callbacks, undo = failing(2, 3)
    local results = run { batch_size = 2, evaluate_every = 1, best = "f1", evaluate = scripted("f1", { 1, 5, 4, 2 }),
      on_save_error = "continue", checkpoint_every = 0, callbacks = callbacks }
    undo()
    assert.equal("f1", results.best.metric)
    assert.equal(4, results.best.step)
    assert.truthy(results.best_checkpoint:find "step_000004$")
  end)
end)

describe("resume", function()
  it('= "auto" starts anew where there is no checkpoint, in the same folder, and goes on where there is', function()
    local options = { batch_size = 1, checkpoint_every = 2, resume = "auto" }
    local first = run(options, nil, "auto")
    assert.equal(8, first.total_steps)
    assert.truthy(first.run_dir:find "/auto$")
    local manifest = assert(json.decode(temp.read(first.run_dir .. "/manifest.json")))
    local again = run(options, nil, "auto")
    assert.equal(first.run_dir, again.run_dir)
    assert.equal(8, again.total_steps)
    local later = assert(json.decode(temp.read(first.run_dir .. "/manifest.json")))
    assert.equal(manifest.started_at, later.started_at)
    assert.truthy(later.resumed_at)
  end)

  it("gives callbacks and hooks back what they kept", function()
    local function counting()
      local sum = 0
      return {
        on_step_end = function(event) sum = sum + event.step end,
        state = function() return { sum = sum } end, restore = function(kept) sum = kept.sum end,
      }, function() return sum end
    end
    local function hook()
      local total = 0
      return setmetatable({
        state = function() return total end, restore = function(kept) total = kept end,
      }, { __call = function(_, info)
        total = total + info.step
        return { total = total }
      end })
    end
    local function options(callback, stop)
      return { batch_size = 1, callbacks = { callback, { on_step_end = function(event)
        if event.step == stop then return "stop" end
      end } }, enable_gradient_hooks = true, gradient_hooks = { { "summing", hook() }, "norm" } }
    end
    run(options(counting(), 5), nil, "kept")
    local callback, sum = counting()
    local last
    local resumed = options(callback)
    resumed.resume, resumed.callbacks[3] = true, { on_step_end = function(event) last = event.total end }
    run(resumed, nil, "kept")
    assert.equal(36, sum())
    assert.equal(36, last)
  end)
end)

describe("what raises", function()
  it("in a loss is named with the step and its trace, and the step before is kept", function()
    local session <close> = open()
    local inner, calls = session.forward_backward, 0
    session.forward_backward = function(...)
      calls = calls + 1
      if calls == 4 then error "log of a negative number" end
      return inner(...)
    end
    local ok, message = pcall(loop.run, session, rows(8), { batch_size = 1 })
    assert.is_false(ok)
    for _, part in ipairs { 'loss "cross_entropy" failed at step 4', "checkpoint step_000003 kept",
      "log of a negative number", "stack traceback" } do
      assert.truthy(message:find(part, 1, true), part .. " in " .. message)
    end
  end)

  it("in a formatter at an evaluation is named with row, step and trace; mended, the run goes on exactly", function()
    local held_out, broken = rows(3), true
    local options = { batch_size = 1, evaluate_every = 3, evaluate = { dataset = held_out, transform = function(row)
      return broken and row.text:upper() or row
    end } }
    local session <close> = open({ schedule = "cosine" }, { experiment_id = "formatter" })
    local results, message, code = loop.run(session, rows(8), options)
    expect.fails("data", "row 1: ", results, message, code)
    for _, part in ipairs { "(field 'text')", "stack traceback", "checkpoint step_000003 kept" } do
      assert.truthy(message:find(part, 1, true), part .. " in " .. message)
    end
    broken, options.resume = false, true
    local again <close> = open({ schedule = "cosine" }, { experiment_id = "formatter" })
    local mended = assert(loop.run(again, rows(8), options))
    options.resume = nil
    local whole <close> = open({ schedule = "cosine" }, { experiment_id = "whole" })
    local expected = assert(loop.run(whole, rows(8), options))
    local function bytes(run_results)
      local last = run_results.checkpoints[#run_results.checkpoints].path
      return temp.read(last .. "/adapter_model.safetensors") .. temp.read(last .. "/optimizer.safetensors")
    end
    assert.equal(bytes(expected), bytes(mended))
    assert.same(expected.evaluations, mended.evaluations)
    assert.same(expected.best, mended.best)
  end)

  it("in an evaluator is named with the step and its trace; mended, the run goes on exactly", function()
    local session <close> = open(nil, { experiment_id = "evaluator" })
    local options = { batch_size = 1, evaluate_every = 3, evaluate = function(_, event)
      if event.step == 6 then error "no judge today" end
      return { f1 = 0 }
    end }
    local ok, message = pcall(loop.run, session, rows(8), options)
    assert.is_false(ok)
    for _, part in ipairs { "evaluate failed at step 6", "checkpoint step_000006 kept", "no judge today",
      "stack traceback" } do
      assert.truthy(message:find(part, 1, true), part .. " in " .. message)
    end
    options.evaluate, options.resume = function() return { f1 = 0 } end, true
    local again <close> = open(nil, { experiment_id = "evaluator" })
    assert.equal(8, assert(loop.run(again, rows(8), options)).total_steps)
  end)

  it("in the state of a callback is named", function()
    local session <close> = open()
    expect.raises("state failed at step 8", loop.run, session, rows(8), { batch_size = 1,
      callbacks = { state = function() error "no state" end } })
  end)
end)

describe("a run in a coroutine", function()
  it("yields from its callbacks, so that a host's loop stays alive", function()
    local session <close> = open()
    local turns = 0
    local co = coroutine.wrap(function()
      return "done", assert(loop.run(session, rows(4), { batch_size = 1, callbacks = {
        on_step_end = function(event) coroutine.yield(event.step) end,
      } }))
    end)
    local answer, results
    repeat
      answer, results = co()
      turns = turns + 1
    until answer == "done"
    assert.equal(5, turns)
    assert.equal(4, results.total_steps)
  end)
end)
