-- Sweeps over configs, and the index of run folders: over the stand-in.
local fake = require("spec.support.fake_core").install()
local crucible = require "crucible"
local expect = require "spec.support.expect"
local fs = require "crucible.fs"
local temp = require "spec.support.temp"

local lora = crucible.lora
local folder, path

local function rows(count)
  local list = {}
  for i = 1, count do list[i] = { input = ("row %d:"):format(i), output = ("answer %d"):format(i * i % 7) } end
  return list
end

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
  assert.is_table(fake)
end)
after_each(temp.clean)

local function sweep(more)
  local given = { folder = folder .. "/sweep", config = { base_model = path, warmup_steps = 0 }, dataset = rows(6),
    over = { lora_rank = { 2, 4 }, learning_rate = { 0.001, 0.1 } }, options = { batch_size = 2 } }
  for name, value in pairs(more or {}) do given[name] = value end
  return crucible.sweep(given)
end

describe("a sweep", function()
  it("runs every combination and seed, in an order of its own, and tells the best", function()
    local result = assert(sweep { seeds = { 0, 1 } })
    assert.equal(8, #result.points)
    assert.equal("finished", result.status)
    local seen = {}
    for i, point in ipairs(result.points) do
      assert.equal("finished", point.status)
      assert.truthy(fs.stat(point.best_checkpoint).folder)
      assert.equal(("%s/sweep/%03d"):format(folder, i), point.run_dir)
      seen[("%g %d %d"):format(point.changes.learning_rate, point.changes.lora_rank, point.seed)] = true
      assert.is_true(result.best.value <= point.value)
    end
    local count = 0
    for _ in pairs(seen) do count = count + 1 end
    assert.equal(8, count)
    assert.equal("mean_loss", result.best.metric)
    assert.truthy(result.text:find("*" .. result.best.id, 1, true), result.text)
    for _, part in ipairs { "learning_rate", "lora_rank", "seed", "mean_loss", "status" } do
      assert.truthy(result.text:find(part, 1, true), part)
    end
  end)

  it("takes a list of points, and a metric with its direction", function()
    local values = { 0.3, 0.9, 0.5 }
    local call = 0
    local result = assert(sweep { over = { { lora_rank = 2 }, { lora_rank = 4 }, { lora_rank = 2, lora_alpha = 4 } },
      metric = "accuracy", options = { batch_size = 6, evaluate = function()
        call = call + 1
        return { accuracy = values[call] }
      end } })
    assert.equal("002", result.best.id)
    assert.equal(0.9, result.best.value)
  end)

  it("goes on where it was: what is finished is left alone, what was cut goes on", function()
    local trained = {}
    local function train(cut)
      return function(session, point, options)
        trained[#trained + 1] = point.id
        options.checkpoint_every = 1
        options.callbacks = { on_step_end = function(event)
          if cut == point.id and event.step == 2 then session:cancel() end
        end }
        return lora.training_loop.run(session, rows(6), options)
      end
    end
    local first = assert(sweep { train = train "003" })
    assert.equal("interrupted", first.status)
    assert.equal(130, first.exit_code)
    assert.same({ "001", "002", "003" }, trained)
    trained = {}
    local second = assert(sweep { train = train "none" })
    assert.same({ "003", "004" }, trained)
    assert.equal("finished", second.status)
    for _, point in ipairs(second.points) do assert.equal("finished", point.status) end
    assert.is_nil(fs.stat(folder .. "/sweep/003-2"))
    trained = {}
    assert(sweep { train = train "none" })
    assert.same({}, trained)
  end)

  it("notes a run that fails and begins the next", function()
    local result = assert(sweep { train = function(session, point, options)
      if point.id == "002" then error "no such luck" end
      if point.id == "003" then return nil, "the disk is full", "io" end
      return lora.training_loop.run(session, rows(2), options)
    end })
    assert.equal("failed", result.points[2].status)
    assert.truthy(result.points[2].message:find("no such luck", 1, true))
    assert.equal("the disk is full", result.points[3].message)
    assert.equal("finished", result.points[4].status)
  end)

  it("refuses bad points before the first run, and another sweep's folder", function()
    expect.raises('unknown option "lora_rnk"', sweep, { over = { lora_rnk = { 1 } } })
    expect.raises("over.lora_rank must be a list", sweep, { over = { lora_rank = 4 } })
    assert.is_nil(fs.stat(folder .. "/sweep"))
    assert(sweep { over = { lora_rank = { 2 } } })
    expect.fails("data", "holds a sweep over other points", sweep { over = { lora_rank = { 4 } } })
    expect.raises("give dataset, or train", crucible.sweep, { folder = folder })
  end)
end)

describe("the index of runs", function()
  local function run(id, config, options)
    config.base_model, config.warmup_steps, config.lora_rank = path, 0, config.lora_rank or 2
    local session <close> = assert(lora.create_session {
      config = config, experiment_id = id, runs = folder .. "/runs",
    })
    return assert(lora.training_loop.run(session, rows(6), options or {}))
  end

  it("lists what is there, with status, experiment, steps, metrics and the best", function()
    local record = assert(lora.create_experiment { name = "first try", tags = { "toy", "quick" } })
    run("aaa", {}, { experiment = record, batch_size = 2 })
    run("bbb", {}, { max_steps = 1, batch_size = 2, evaluate = function() return { f1 = 0.5 } end, evaluate_every = 1,
      best = "f1" })
    temp.file(folder .. "/runs", "notes/readme.txt", "not a run")
    local list = assert(lora.runs.list(folder .. "/runs"))
    assert.equal(2, #list)
    local first, second = list[1], list[2]
    if first.id == "bbb" then first, second = second, first end
    assert.equal("first try", first.name)
    assert.equal("finished", first.status)
    assert.equal(3, first.steps)
    assert.equal(3, first.total_steps)
    assert.is_number(first.metrics.mean_loss)
    assert.equal(0.5, second.metrics.f1)
    assert.equal(0.5, second.best.value)
    assert.equal(1, #assert(lora.runs.list(folder .. "/runs", { tag = "quick" })))
    assert.equal(0, #assert(lora.runs.list(folder .. "/runs", { status = "failed" })))
    assert.same({}, lora.runs.list(folder .. "/nowhere"))
    local text = lora.runs.text(list)
    assert.truthy(text:find("aaa", 1, true) and text:find("first try", 1, true) and text:find("f1 0.5 at 1", 1, true))
  end)

  it("finds a run by the beginning of its id, if only one has it", function()
    run("abc1", {})
    run("abd2", {})
    assert.equal("abc1", assert(lora.runs.find("abc", folder .. "/runs")).id)
    expect.fails("argument", "2 runs begin like that", lora.runs.find("ab", folder .. "/runs"))
    expect.fails("not_found", "no run begins like that", lora.runs.find("zz", folder .. "/runs"))
  end)

  it("compares runs by what differs", function()
    run("one", { learning_rate = 0.001 })
    run("two", { learning_rate = 0.1 }, { batch_size = 3 })
    local found = assert(lora.runs.compare({ "one", "two" }, folder .. "/runs"))
    local names = {}
    for i, option in ipairs(found.options) do names[i] = option.name end
    assert.same({ "learning_rate", "plan.batch_size", "plan.steps_per_epoch", "plan.total_steps" }, names)
    assert.same({ 0.001, 0.1 }, found.options[1].values)
    assert.truthy(found.text:find("mean_loss", 1, true), found.text)
    expect.raises("expected at least two runs", lora.runs.compare, { "one" })
  end)

  it("deletes a run, and one that may be running only when told to", function()
    local results = run("gone", {})
    assert.equal(results.run_dir, assert(lora.runs.delete("gone", { folder = folder .. "/runs" })))
    assert.same({}, assert(fs.list(folder .. "/runs")))
    results = run("busy", {})
    local manifest = temp.read(results.run_dir .. "/manifest.json"):gsub('"status": "finished"', '"status": "running"')
    assert(fs.write_file(results.run_dir .. "/manifest.json", manifest))
    expect.fails("argument", "says it is running", lora.runs.delete("busy", { folder = folder .. "/runs" }))
    assert(lora.runs.delete("busy", { folder = folder .. "/runs", running = true }))
    expect.fails("not_found", "busy", lora.runs.delete("busy", { folder = folder .. "/runs" }))
  end)
end)
