-- Event files for TensorBoard: bytes beside those of TensorBoard's own writer (the fixture), and what a run
-- leaves in them. That TensorBoard reads them: scripts/check_tensorboard.
require("spec.support.fake_core").install()
local crc32c = require "crucible.tensorboard.crc32c"
local event_file = require "crucible.tensorboard.event_file"
local fs = require "crucible.fs"
local lora = require("crucible").lora
local protobuf = require "crucible.tensorboard.protobuf"
local records = require "spec.support.tfrecord"
local reporters = require "crucible.callbacks.tensorboard"
local telemetry = require "crucible.telemetry"
local temp = require "spec.support.temp"

local WALL_TIME = 1700000000.25

describe("CRC-32C", function()
  for text, sum in pairs { -- RFC 3720, B.4, and the check value of the algorithm
    [("\0"):rep(32)] = 0x8A9136AA, [("\xFF"):rep(32)] = 0x62A8AB43, ["123456789"] = 0xE3069283, [""] = 0,
  } do
    it(("of %q is %08x"):format(text:sub(1, 9), sum), function() assert.equal(sum, crc32c.of(text)) end)
  end

  it("goes on over pieces", function()
    local text = ("abcdefghij"):rep(500)
    local flipped = text:sub(1, 4000) .. "X" .. text:sub(4002)
    assert.not_equal(crc32c.of(text), crc32c.of(flipped))
  end)
end)

describe("Protocol Buffers fields", function()
  for _, case in ipairs { -- the encoding guide's own examples
    { protobuf.integer(1, 150), "08 96 01" }, { protobuf.bytes(2, "testing"), "12 07 74 65 73 74 69 6e 67" },
    { protobuf.integer(1, -2), "08 fe ff ff ff ff ff ff ff ff 01" }, { protobuf.integer(16, 1), "80 01 01" },
    { protobuf.float(2, 1), "15 00 00 80 3f" }, { protobuf.double(1, -2), "09 00 00 00 00 00 00 00 c0" },
  } do
    it("encode " .. case[2], function()
      local hex = case[1]:gsub(".", function(byte) return ("%02x "):format(byte:byte()) end)
      assert.equal(case[2] .. " ", hex)
    end)
  end
end)

describe("an event file", function()
  after_each(temp.clean)

  it("has the bytes of TensorBoard's own writer", function()
    local file = assert(event_file.create(temp.folder(), { resumed_at = 301, now = function() return WALL_TIME end }))
    file:scalars(301, { ["train/loss"] = 0.1, ["loss/ä"] = 0 / 0 })
    file:histogram(70000, "gradients", { min = -3, max = 1, num = 7, sum = -8.5, sum_squares = 20.25,
      limits = { -2, -1, 0, 1 }, counts = { 1, 2, 3, 1 } })
    file:text(0, "config", "a\nb")
    file:text(1 << 40, "samples", { "", ("x"):rep(300) })
    assert(file:close())
    local wanted, found = temp.read "spec/fixtures/tensorboard/events.bin", temp.read(file.path)
    -- 0/0 has its sign bit set on x86; the fixture's NaN has not.
    wanted, found = records.events(wanted), records.events(found)
    assert.equal(#wanted, #found)
    for i, event in ipairs(wanted) do
      local plain = found[i].bytes:gsub("\x15\0\0\xC0\xFF", "\x15\0\0\xC0\x7F")
      assert.is_true(event.bytes == plain, "event " .. i)
    end
  end)

  it("does not overwrite another and sorts behind it", function()
    local folder, list = temp.folder(), {}
    for i = 1, 12 do list[i] = assert(event_file.create(folder, { now = function() return WALL_TIME end })).path end
    local sorted = table.move(list, 1, 9, 1, {})
    table.sort(sorted)
    assert.same(table.move(list, 1, 9, 1, {}), sorted)
    assert.equal(12, #fs.list(folder))
  end)

  it("that cannot be written says so", function()
    local folder = temp.folder()
    local blocked = temp.file(folder, "blocked", "a file")
    local file, message, code = event_file.create(blocked .. "/tensorboard")
    assert.is_nil(file)
    assert.truthy(message:find("blocked", 1, true), message)
    assert.equal("io", code)
  end)
end)

describe("a run with tensorboard = true", function()
  local folder, path
  before_each(function()
    folder = temp.folder()
    path = temp.file(folder, "toy.gguf", "toy")
  end)
  after_each(temp.clean)

  local function rows(count)
    local list = {}
    for i = 1, count do list[i] = { input = "claim " .. i, output = i % 2 == 0 and "yes" or "no" } end
    return list
  end

  local function train(options)
    local session <close> = assert(lora.create_session {
      config = { base_model = path, lora_rank = 2, warmup_steps = 0 }, experiment_id = "watched",
      runs = folder .. "/runs",
    })
    options.tensorboard = true
    return assert(lora.training_loop.run(session, rows(8), options))
  end

  -- Scalars of all files by tag: { step = value }, as a reader that honours restarts sees them.
  local function read(run_dir)
    local scalars, texts = {}, {}
    for _, name in ipairs(fs.list(run_dir .. "/tensorboard")) do
      for _, event in ipairs(records.events(temp.read(run_dir .. "/tensorboard/" .. name))) do
        records.take(scalars, texts, event)
      end
    end
    return scalars, texts
  end

  it("has every step's figures, evaluations and texts", function()
    local losses = {}
    local results = train { epochs = 2, batch_size = 4, evaluate_every = 2,
      evaluate = function() return { metrics = { accuracy = 0.5, f1 = 0.25, note = "x" } } end,
      callbacks = { on_step_end = function(event) losses[event.step] = event.loss end } }
    local scalars, texts = read(results.run_dir)
    for step, loss in ipairs(losses) do assert.near(loss, scalars["train/loss"][step], 1e-6) end
    assert.equal(4, #scalars["train/loss"])
    assert.same({ [2] = 0.5, [4] = 0.5 }, scalars["evaluation/accuracy"])
    for _, tag in ipairs { "train/learning_rate", "train/grad_norm", "train/update_norm", "train/tokens_per_s",
      "train/epoch", "loss/cross_entropy" } do
      assert.equal(4, scalars[tag] and #scalars[tag], tag)
    end
    assert.truthy(texts.config:find("lora_rank", 1, true))
    assert.truthy(texts.data:find("supervised", 1, true))
  end)

  it("that is resumed says from which step on", function()
    train { epochs = 2, batch_size = 4, max_steps = 4, checkpoint_every = 1, callbacks = {
      on_step_end = function(event) if event.step == 2 then return "stop" end end } }
    local results = train { epochs = 2, batch_size = 4, max_steps = 4, checkpoint_every = 1, resume = true }
    local names = fs.list(results.run_dir .. "/tensorboard")
    assert.equal(2, #names)
    table.sort(names)
    local events = records.events(temp.read(results.run_dir .. "/tensorboard/" .. names[2]))
    assert.equal(3, events[2].step)
    assert.is_true(events[2].restart)
    assert.equal(4, #read(results.run_dir)["train/loss"])
  end)

  it("that was killed after its checkpoint shows what came of the resumed steps", function()
    local function report_steps(done, first, last, loss)
      local reporter, run = reporters.new(), { run_dir = folder, experiment_id = "killed" }
      reporter.on_event("training.start", { step = done }, { run = run, manifest = {} })
      for step = first, last do
        reporter.on_event("step.stop", { loss = loss }, { run = run, step = step, epoch = 1, components = {} })
      end
      reporter.on_event("training.stop", {}, { run = run })
    end
    report_steps(0, 1, 5, 1)
    report_steps(3, 4, 4, 2)
    assert.same({ 1, 1, 1, 2 }, read(folder)["train/loss"])
  end)

  it("goes on when its files cannot be written, and says so", function()
    local told
    local _ <close> = telemetry.attach(function(_, _, metadata) told = metadata end,
      { events = "telemetry.failed" })
    local results = train { epochs = 1, batch_size = 4, callbacks = { on_step_end = function(event)
      if event.step ~= 1 then return end
      assert(fs.remove_tree(folder .. "/runs/watched/tensorboard"))
      assert(fs.write_file(folder .. "/runs/watched/tensorboard", "in the way"))
    end } }
    assert.equal("finished", results.status)
    assert.truthy(told.message:find("tensorboard", 1, true), told.message)
  end)
end)
