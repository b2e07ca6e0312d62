-- What people see of a run: lines of every width, plain lines, quiet; and a real terminal where tmux is there.
local fake = require("spec.support.fake_core").install()
local console = require "crucible.callbacks.console"
local crucible = require "crucible"
local expect = require "spec.support.expect"
local temp = require "spec.support.temp"

local lora = crucible.lora
local folder, path

local function rows(count)
  local list = {}
  for i = 1, count do list[i] = { input = ("row %d:"):format(i), output = ("answer %d"):format(i * i % 7) } end
  return list
end

-- What a run writes through a console of those options.
local function collect(options, more)
  local file = io.tmpfile()
  options.stream = file
  local session <close> = assert(lora.create_session {
    config = { base_model = path, lora_rank = 2, warmup_steps = 0 }, runs = folder .. "/runs",
  })
  local given = { batch_size = 1, callbacks = console.new(options) }
  for key, value in pairs(more or {}) do given[key] = value end
  assert(lora.training_loop.run(session, rows(4), given))
  file:seek("set")
  return file:read "a"
end

-- The line of a step on a terminal of that width.
local function bar_at(columns, change)
  local file = io.tmpfile()
  local report = console.new { stream = file, mode = "bar", columns = columns }
  report.on_event("training.start", { step = 0, total_steps = 900, steps_per_epoch = 180, epochs = 5 },
    { run = { run_dir = "x" } })
  local before = file:seek "end"
  local event = { step = 412, total_steps = 900, epoch = 3, loss = 0.81234, lr = 9.3e-5, grad_norm = 0.412,
    tokens_per_s = 604 }
  for key, value in pairs(change or {}) do event[key] = value end
  report.on_event("step.stop", { memory = 1.9e9 }, { event = event })
  file:seek("set", before)
  return (file:read "a")
end

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
end)
after_each(temp.clean)

describe("plain lines", function()
  it("tell of rows, steps, epochs, checkpoints and the end, without escape codes", function()
    local text = collect { mode = "plain", every = 2, sample = true }
    for _, part in ipairs { "4 rows, 60 tokens an epoch, 40 supervised, longest 16", "row 1:⟪ answer 1<eos>⟫",
      "4 steps, 4 an epoch", "step 2/4  epoch 1  loss ", "epoch 1: mean loss ", "checkpoint ",
      "finished after 4 steps in" } do
      assert.truthy(text:find(part, 1, true), part .. " in\n" .. text)
    end
    assert.is_nil(text:find("step 1/4", 1, true))
    assert.is_nil(text:find("\27", 1, true))
  end)

  it("are what there is where there is no terminal", function()
    assert.is_nil(collect({}):find("\27", 1, true))
  end)

  it("tell of evaluations and of what could not be written", function()
    local fs = require "crucible.fs"
    local rename = fs.rename
    local file = io.tmpfile()
    local text = collect({ mode = "plain" }, { evaluate = function() return { f1 = 0.25, note = "fine" } end,
      checkpoint_every = 2, on_save_error = "continue", callbacks = { console.new { stream = file }, {
        on_step_end = function(event)
          fs.rename = event.step == 2 and function() return nil, "the disk is full", "io" end or rename
        end,
      } } })
    fs.rename = rename
    assert.equal("", text)
    file:seek "set"
    text = file:read "a"
    assert.truthy(text:find("evaluated in 0 s: f1 0.25, note fine", 1, true), text)
    assert.truthy(text:find("checkpoint step_000002 was not written: the disk is full", 1, true), text)
  end)
end)

describe("quiet", function()
  it("is two lines: where it begins and how it ends", function()
    local text = collect { mode = "quiet" }
    assert.equal(2, select(2, text:gsub("\n", "\n")))
    assert.truthy(text:find("run folder", 1, true) and text:find("finished after 4 steps", 1, true))
  end)
end)

describe("the bar", function()
  it("holds loss, rate, norm, speed, memory, time left and epoch where there is room", function()
    local text = bar_at(140)
    for _, part in ipairs { "epoch 3/5  412/900 ", "loss 0.8123", "lr 9.30e-05", "norm 0.412", "604 tok/s", "1.9 GB",
      " left" } do
      assert.truthy(text:find(part, 1, true), part .. " in " .. text)
    end
  end)

  it("fits every width, leaving out what is needed least", function()
    for columns = 1, 200 do
      local text = bar_at(columns):gsub("\27%[%d*%a", ""):gsub("[\r\n]", "")
      assert.is_true(utf8.len(text) < columns or columns == 1, columns .. ": " .. text)
    end
    local narrow = bar_at(60)
    assert.truthy(narrow:find("loss 0.8123", 1, true) and narrow:find(" left", 1, true), narrow)
    assert.is_nil(narrow:find("GB", 1, true))
  end)

  it("says why a step was skipped", function()
    assert.truthy(bar_at(120, { skipped = true, loss = 0 / 0 }):find("skipped: not finite", 1, true))
    assert.truthy(bar_at(120, { skipped = true, skipped_by = "picky" }):find("skipped by hook picky", 1, true))
  end)

  it("is drawn over itself and gives way to lines", function()
    local text = collect { mode = "bar", columns = 90 }
    assert.truthy(text:find("epoch 1/1  4/4 ", 1, true))
    assert.truthy(text:find("\r\27[Jepoch 1: mean loss", 1, true))
  end)

  it("that a narrower terminal has wrapped is erased over all its rows", function()
    local fs = require "crucible.fs"
    local terminal_size, columns = fs.terminal_size, 100
    fs.terminal_size = function() return columns, 24 end
    local written = {}
    local stderr = io.stderr
    io.stderr = { write = function(_, ...) -- luacheck: ignore
      for _, piece in ipairs { ... } do written[#written + 1] = piece end
    end, flush = function() end }
    local report = console.new { mode = "bar" }
    io.stderr = stderr -- luacheck: ignore
    fs.terminal_size = function() return columns, 24 end
    report.on_event("training.start", { step = 0, total_steps = 9, steps_per_epoch = 9 }, { run = { run_dir = "x" } })
    report.on_event("step.stop", { memory = 1e9 }, { event = { step = 9, total_steps = 9, epoch = 1, loss = 1, lr = 1,
      grad_norm = 1, tokens_per_s = 1 } })
    columns, written = 40, {}
    report.on_event("epoch.stop", { mean_loss = 1 }, { epoch = 1 })
    fs.terminal_size = terminal_size
    assert.truthy(table.concat(written):find("\27[2A\r\27[Jepoch 1: mean loss 1.0000\n", 1, true))
  end)
end)

it("refuses an unknown mode", function()
  expect.raises('mode must be one of "auto", "bar", "plain", "quiet"', console.new, { mode = "loud" })
  assert.truthy(fake)
end)
