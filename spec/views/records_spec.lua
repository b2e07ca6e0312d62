-- What run folders keep for views: records of evaluations and samples, telemetry as CSV.
require("spec.support.fake_core").install()
local json = require "crucible.json"
local lora = require("crucible").lora
local run_records = require "crucible.lora.run_records"
local telemetry_csv = require "crucible.lora.telemetry_csv"
local temp = require "spec.support.temp"

after_each(temp.clean)

local function evaluation(count, text)
  local predictions = {}
  for i = 1, count do
    predictions[i] = { input = "q" .. i, expected = "yes", predicted = i % 2 == 0 and "yes" or "no", text = text,
      correct = i % 2 == 0 }
  end
  return { metrics = { accuracy = 0.5 }, samples = count, predictions = predictions, progress = print }
end

describe("records of a run", function()
  it("keep an evaluation with some of its answers", function()
    local folder = temp.folder()
    assert(run_records.add_evaluation(folder, evaluation(40, "no"), { step = 3, epoch = 1 }))
    local rows, problem = run_records.read(folder, "evaluations")
    assert.is_nil(problem)
    assert.equal(1, #rows)
    local row = rows[1]
    assert.same({ 3, "training", 0.5, 40 }, { row.step, row.moment, row.metrics.accuracy, row.samples })
    assert.equal(run_records.most_examples, #row.examples)
    assert.same({ input = "q2", expected = "yes", predicted = "yes", text = "no", correct = true }, row.examples[2])
    assert.is_nil(row.predictions)
  end)

  it("take a table of metrics as well", function()
    local folder = temp.folder()
    assert(run_records.add_evaluation(folder, { reward = 0.25 }, { step = 1 }))
    assert.same({ reward = 0.25 }, run_records.read(folder, "evaluations")[1].metrics)
  end)

  it("cut long texts at a whole character", function()
    local folder = temp.folder()
    assert(run_records.add_evaluation(folder, evaluation(1, ("ä"):rep(5000)), { step = 1 }))
    local text = run_records.read(folder, "evaluations")[1].examples[1].text
    assert.truthy(utf8.len(text))
    assert.is_true(#text < run_records.most_bytes + 8)
  end)

  it("have one row a place: the last", function()
    local folder = temp.folder()
    for i = 1, 3 do
      assert(run_records.add_samples(folder, { step = i // 2, moment = "training",
        samples = { { prompt = "p", text = tostring(i) } } }))
    end
    local texts = {}
    for i, row in ipairs(run_records.read(folder, "samples")) do texts[i] = row.samples[1].text end
    assert.same({ "1", "3" }, texts)
  end)

  it("say which line is damaged and keep those before it", function()
    local folder = temp.folder()
    assert(run_records.add_evaluation(folder, evaluation(1, "x"), { step = 1 }))
    local path = folder .. "/evaluations.jsonl"
    temp.file(folder, "evaluations.jsonl", temp.read(path) .. '{"step": 2, "met')
    local rows, problem = run_records.read(folder, "evaluations")
    assert.equal(1, #rows)
    assert.truthy(problem:find("evaluations.jsonl:2", 1, true), problem)
  end)

  it("are empty where there is no file", function() assert.same({}, (run_records.read(temp.folder(), "samples"))) end)
end)

describe("telemetry as CSV", function()
  it("has a header, a row a step and fields for spreadsheets", function()
    local text = telemetry_csv.text {
      { step = 1, epoch = 1, loss = 0.1, components = { b = 2, ["a,\"x"] = 1.5 }, skipped = false,
        hooks = { l = { 1 } } },
      { step = 2, epoch = 1, loss = json.null, note = "line\nbreak" },
    }
    local lines = {}
    for line in text:gmatch "(.-)\r\n" do lines[#lines + 1] = line end
    assert.equal('step,epoch,loss,lr,grad_norm,update_norm,skipped,tokens,supervised,seconds,tokens_per_s,timestamp,'
      .. '"components.a,""x",components.b,note', lines[1])
    assert.equal('1,1,0.1,,,,false,,,,,,1.5,2,', lines[2])
    assert.equal('2,1,,,,,,,,,,,,,"line\nbreak"', lines[3])
  end)

  it("is written at the end of a run that asks for it", function()
    local folder = temp.folder()
    local session <close> = assert(lora.create_session {
      config = { base_model = temp.file(folder, "toy.gguf", "toy"), lora_rank = 2 }, runs = folder,
    })
    local results = assert(lora.training_loop.run(session, { { input = "a", output = "b" } },
      { epochs = 3, csv = true }))
    local rows = select(2, temp.read(results.run_dir .. "/telemetry.csv"):gsub("\r\n", ""))
    assert.equal(4, rows)
  end)

  it("leaves out a line that a kill left half written, and needs a file", function()
    local folder = temp.folder()
    temp.file(folder, "telemetry.jsonl", '{"step": 1}\n{"step": 2, "lo')
    local path = assert(telemetry_csv.write(folder))
    assert.equal(2, select(2, temp.read(path):gsub("\r\n", "")))
    local _, message, code = telemetry_csv.write(folder .. "/none")
    assert.truthy(message:find("none/telemetry.jsonl: no such file", 1, true))
    assert.equal("not_found", code)
  end)
end)
