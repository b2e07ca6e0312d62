-- crucible evaluate, over the stand-in.
local fake = require("spec.support.fake_core").install()
local cli = require "crucible.cli"
local crucible = require "crucible"
local json = require "crucible.json"
local jsonl = require "crucible.jsonl"
local streams = require "spec.support.streams"
local temp = require "spec.support.temp"

local folder, model, data

local function run(...)
  local out, err = streams.new(), streams.new()
  local code = cli.main({ "evaluate", ... }, { out = out, err = err })
  return code, out.text(), err.text()
end

local function train(seed)
  local session <close> = assert(crucible.lora.create_session {
    config = { base_model = model, lora_rank = 2 }, seed = seed, runs = folder .. "/runs",
  })
  return assert(crucible.lora.training_loop.run(session, data, { epochs = 2, checkpoint_every = 1 }))
end

local function expect_parts(text, parts)
  for _, part in ipairs(parts) do assert.truthy(text:find(part), part .. " in:\n" .. text) end
end

before_each(function()
  folder = temp.folder()
  model = temp.file(folder, "toy.gguf", "toy")
  data = temp.file(folder, "rows.jsonl", table.concat({
    '{"input":"one:","output":"yes"}', '{"input":"two:","output":"no"}', '{"input":"three:","output":"yes"}',
  }, "\n"))
  local key = { ["one:"] = "yes", ["two:"] = "no", ["three:"] = "yes" }
  fake.reply = function(prompt, base) return base and " yes" or " " .. key[prompt] end
  fake.likelihood = function(prompt, choice, base)
    return choice == (base and " no" or " " .. key[prompt]) and -1 or -2
  end
end)
after_each(temp.clean)

describe("crucible evaluate", function()
  it("puts base model, checkpoint and majority class beside each other", function()
    local results = train(0)
    local code, out, err = run(data, "--run", results.run_dir, "--json", folder .. "/figures.json", "--predictions",
      folder .. "/predictions.jsonl", "--max-tokens", "5")
    assert.equal(0, code, err)
    expect_parts(out, { "rows.jsonl, 3 rows, mode generate", "accuracy +f1", "base model +0.667 %[",
      "always yes +0.667 %[", "checkpoint +1.000 %[1.00, 1.00%]", "a = base model, b = checkpoint",
      "accuracy +0.667 +1.000 +%+0.333" })
    assert.is_true(assert(jsonl.read(folder .. "/predictions.jsonl"))[2].correct)
    local file <close> = assert(io.open(folder .. "/figures.json"))
    local figures = assert(json.decode(file:read "a"))
    assert.equal("checkpoint", figures.results[2].name)
    assert.equal(1, figures.results[2].result.metrics.accuracy)
    assert.is_nil(figures.results[2].result.predictions)
    assert.is_number(figures.differences.accuracy.p)
  end)

  it("takes a checkpoint by path, by name in a run, and one against another", function()
    local first, second = train(0), train(1)
    local code, out = run(data, "--checkpoint", first.checkpoints[1].path, "--against", second.checkpoints[1].path,
      "--no-base", "--mode", "likelihood")
    assert.equal(0, code)
    expect_parts(out, { "a = checkpoint, b = against", "against +1.000", "mode likelihood" })
    assert.is_nil(out:find "base model")
    assert.equal(0, (run(data, "--run", first.run_dir, "--checkpoint", "step_000001")))
  end)

  it("shows claims and relations with what the expected texts reach", function()
    local claims_data = temp.file(folder, "claims.jsonl", json.encode {
      input = "Document 1: t\n\nCells grow.\n\nTask: x\n",
      output = "CLAIM[c1]: Cells grow.\nCLAIM[c2] (Document 1): Cells grow.\nRELATION: c2 supports c1",
    } .. "\n")
    fake.reply = function() return "CLAIM[c1]: Cells rest." end
    local code, out = run(claims_data, "--model", model, "--max-tokens", "40")
    assert.equal(0, code)
    expect_parts(out, { " base model +always supports +expected texts\n",
      "schema_compliance +1.000 %[1.00, 1.00%] +%- +1.000",
      "citation_accuracy +0.000 %[0.00, 0.00%] +%- +1.000",
      "entailment by overlap, similarity by overlap; 1 issues" })
  end)

  it("measures a base model alone, both ways", function()
    local code, out = run(data, "--model", model, "--mode", "both", "--max-tokens", "4", "--metrics", "accuracy,bleu")
    assert.equal(0, code)
    expect_parts(out, { "accuracy +bleu", "base model, as written +0.667", "base model, by likelihood +0.333" })
  end)

  for _, case in ipairs {
    { "nothing to measure", function() return data end, 2, "give %-%-run, %-%-checkpoint or %-%-model" },
    { "a data set that is not there", function() return "scifcat", "--model", model end, 1, 'did you mean "scifact"' },
    { "a model that is not there", function() return data, "--model", folder .. "/no.gguf" end, 1, "no such file" },
    { "a checkpoint that is not there", function() return data, "--checkpoint", folder .. "/no" end, 1,
      "no such checkpoint" },
    { "a metric that does not exist", function() return data, "--model", model, "--metrics", "f2" end, 1,
      'unknown metric "f2"' },
    { "an option that does not exist", function() return data, "--modle", "x" end, 2, 'did you mean "%-%-model"' },
    { "an option of the wrong kind", function() return data, "--model", model, "--confidence", "2" end, 2,
      "confidence must be a number above 0 and below 1" },
    { "no data set", function() end, 2, "dataset missing" },
  } do
    it("refuses " .. case[1], function()
      local code, _, err = run(case[2]())
      assert.equal(case[3], code, err)
      expect_parts(err, { case[4] })
    end)
  end

  it("shows the options of evaluation as its own", function()
    local code, out = run "--help=all"
    assert.equal(0, code)
    expect_parts(out, { "%-%-resamples", "%-%-temperature", "%-%-judge", "%-%-entailment", "DATASET" })
    for _, part in ipairs { "--progress", "--transform" } do assert.is_nil(out:find(part, 1, true)) end
  end)
end)
