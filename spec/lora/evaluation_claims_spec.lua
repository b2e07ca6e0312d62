-- Evaluation of claims and relations over the stand-in: verdicts, stages, scorers, ceiling, issues.
local fake = require("spec.support.fake_core").install()
local checkpoints = require "crucible.lora.checkpoints"
local crucible = require "crucible"
local expect = require "spec.support.expect"
local judge = require "crucible.lora.judge"
local jsonl = require "crucible.jsonl"
local temp = require "spec.support.temp"

local lora = crucible.lora
local folder, path

local function open(config)
  config = config or {}
  config.base_model, config.lora_rank = path, config.lora_rank or 2
  return assert(lora.create_session { config = config, runs = folder .. "/runs" })
end

local function prompt_of(id, text) return ("Document %s: title\n\n%s\n\nTask: claims\n"):format(id, text) end

local function completion(id, text, label)
  return ("CLAIM[c1]: %s\nCLAIM[c2] (Document %s): %s\nRELATION: c2 %s c1"):format(text, id, text, label)
end

local rows = {
  { input = prompt_of("1", "Cells grow."), output = completion("1", "Cells grow.", "supports"),
    metadata = { claim_id = 71 } },
  { input = prompt_of("2", "Cells rest."), output = completion("2", "Cells rest.", "refutes") },
  { input = prompt_of("3", "Cells die."), output = completion("3", "Cells die.", "supports") },
}

local replies

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
  replies = {}
  for _, row in ipairs(rows) do replies[row.input] = row.output end
  fake.reply = function(prompt) return replies[prompt] end
end)
after_each(temp.clean)

local function evaluate(options)
  local session <close> = open()
  return lora.evaluation.evaluate(session, rows, options)
end

describe("evaluation of claims and relations", function()
  it("gives 1 to a model that copies the expected texts", function()
    local result = assert(evaluate())
    assert.same({ accuracy = 1, f1 = 1, precision = 1, recall = 1, schema_compliance = 1, citation_accuracy = 1,
      mean_entailment = 1, overall_pass_rate = 1 }, result.metrics)
    assert.same({ "refutes", "supports" }, result.labels)
    assert.same({}, result.issues)
    assert.equal("overlap", result.scorers.entailment.name)
    assert.equal("supports", result.predictions[1].predicted_label)
  end)

  it("scores the verdict, where none is wrong", function()
    replies[rows[1].input] = "CLAIM[c1]: Cells grow."
    replies[rows[2].input] = completion("2", "Cells rest.", "supports")
    local result = assert(evaluate { metrics = { "accuracy", "recall:supports", "chirality", "betti_1" } })
    assert.is_true(math.abs(1 / 3 - result.metrics.accuracy) < 1e-12)
    assert.equal(0.5, result.metrics["recall:supports"])
    assert.equal(1, result.correct)
    assert.same({ 0, 1 }, result.confusion.counts[1])
    assert.same({ 0, 1 }, result.confusion.other)
  end)

  it("gates by citations, lists issues and keeps the ceiling", function()
    replies[rows[1].input] = completion("9", "Cells grow.", "supports")
    replies[rows[2].input] = "no claims"
    local file = folder .. "/issues.jsonl"
    local result = assert(evaluate { metrics = { "citation_accuracy", "mean_entailment", "schema_compliance" },
      issues = file, predictions = folder .. "/predictions.jsonl" })
    assert.is_true(math.abs(1 / 3 - result.metrics.mean_entailment) < 1e-12)
    assert.is_true(math.abs(2 / 3 - result.metrics.schema_compliance) < 1e-12)
    assert.same({ citation_accuracy = 1, mean_entailment = 1, schema_compliance = 1 }, result.ceiling.metrics)
    local issues = assert(jsonl.read(file))
    assert.same({ "citation_invalid", "schema_violation", "citation_invalid" },
      { issues[1].issue, issues[2].issue, issues[3].issue })
    assert.equal(71, issues[1].claim_id)
    assert.equal(0, assert(jsonl.read(folder .. "/predictions.jsonl"))[1].assessment.entailment)
    assert.is_nil(assert(evaluate { ceiling = false }).ceiling)
  end)

  it("has a majority verdict", function()
    local majority = assert(lora.evaluation.majority(rows))
    assert.equal("supports", majority.label)
    assert.is_true(math.abs(2 / 3 - majority.metrics.accuracy) < 1e-12)
    assert.is_nil(majority.metrics.schema_compliance)
  end)

  it("cannot choose by likelihood", function()
    expect.fails("data", 'use mode = "generate"', evaluate { mode = "likelihood" })
  end)
end)

describe("entailment by a language model", function()
  local function likes_growth(prompt, choice)
    local grows = prompt:find("Claim: Cells grow.\nEvidence: title Cells grow.\n\nVerdict:", 1, true)
    return choice == (grows and " SUPPORT" or " CONTRADICT") and -1 or -3
  end
  local yes, no = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))

  it("is the share of the supporting verdict under the base model", function()
    local bases = {}
    fake.likelihood = function(prompt, choice, base)
      bases[#bases + 1] = base
      return likes_growth(prompt, choice)
    end
    local result = assert(evaluate { metrics = { "mean_entailment" }, entailment = "lm" })
    assert.is_true(math.abs((yes + 2 * no) / 3 - result.metrics.mean_entailment) < 1e-12)
    assert.same({ "lm", true }, { result.scorers.entailment.name, bases[1] })
  end)

  it("or under a judge of any rank, with what is known of it", function()
    local trained <close> = open { lora_rank = 3 }
    local saved = assert(trained:save_checkpoint "step_1")
    assert(judge.write(trained.run_dir, { checkpoint = "checkpoints/step_1", labels = { "yes", "no" },
      held_out = { accuracy = 0.7 } }))
    fake.likelihood = function(_, choice, base) return not base and choice == " yes" and -1 or -3 end
    local result = assert(evaluate { metrics = { "mean_entailment" }, judge = trained.run_dir })
    assert.is_true(math.abs(yes - result.metrics.mean_entailment) < 1e-12)
    assert.equal(0.7, result.scorers.entailment.about.held_out.accuracy)
    fake.likelihood = likes_growth
    result = assert(evaluate { metrics = { "mean_entailment" }, judge = saved.path })
    assert.is_true(math.abs((yes + 2 * no) / 3 - result.metrics.mean_entailment) < 1e-12)
    assert.equal("not known", result.scorers.entailment.about.held_out)
  end)

  it("refuses a judge that is not there, is damaged, or is of another model, before the model runs", function()
    local begun = #fake.generations
    expect.fails("not_found", "no such checkpoint", evaluate { judge = folder .. "/nothing" })
    temp.file(folder, "judge.json", '{ "labels": ["yes"] }')
    expect.fails("format", "an object with `checkpoint` and at least two `labels`", evaluate { judge = folder })
    local session <close> = open()
    local saved = assert(session:save_checkpoint "mine")
    path = temp.file(folder, "other.gguf", "another toy")
    expect.fails("format", "was made on another base model", evaluate { judge = saved.path })
    local checkpoint = lora.evaluation.evaluate(session, rows, { checkpoint = saved.path })
    assert.equal(3, checkpoint.samples)
    local other <close> = open()
    expect.fails("format", "was made on another base model", lora.evaluation.evaluate(other, rows,
      { checkpoint = saved.path }))
    assert.equal(begun + 1, #fake.generations)
    assert.truthy(checkpoints.read(saved.path))
  end)

  it("has no place beside another scorer", function()
    local session <close> = open()
    for _, case in ipairs {
      { { judge = folder, entailment = "overlap" }, 'judge is for entailment = "lm", which is "overlap"' },
      { { judge = folder, entailment_encoder = folder }, 'entailment_encoder is for entailment = "encoder"' },
      { { similarity = "hidden", similarity_encoder = folder }, 'similarity_encoder is for similarity = "encoder"' },
      { { entailment = "encoder" }, "needs entailment_encoder, the folder of a cross-encoder" },
    } do
      expect.raises(case[2], lora.evaluation.evaluate, session, rows, case[1])
    end
  end)

  it("cuts evidence that is too long, not the claim", function()
    local seen
    fake.likelihood = function(prompt)
      seen = prompt
      return -1
    end
    local scorers = require "crucible.metrics.scorers"
    local session <close> = open()
    local scores = assert(scorers.by_session(session, { "SUPPORT", "CONTRADICT" }, true,
      { { premise = ("long "):rep(200), hypothesis = "Cells grow." } }))
    assert.same({ 0.5 }, scores)
    assert.is_true(#seen <= 512 and seen:find("^Claim: Cells grow.\nEvidence: long ") ~= nil)
    assert.truthy(seen:find "Verdict:$")
  end)
end)

describe("scores by an encoder", function()
  local opened, closed

  before_each(function()
    opened, closed = {}, 0
    package.loaded["crucible.encoder"] = { open = function(name)
      if name == "nothing" then return nil, "nothing: no folder", "not_found" end
      opened[#opened + 1] = name
      return {
        entailment = function(_, pairs_of_texts)
          if name == "no labels" then return nil, "has no label for entailment", "argument" end
          local scores = {}
          for i, pair in ipairs(pairs_of_texts) do scores[i] = pair[1]:find(pair[2], 1, true) and 0.9 or 0.1 end
          return scores
        end,
        similarity = function(_, left, right)
          local scores = {}
          for i, text in ipairs(left) do scores[i] = text == right[i] and 1 or -0.5 end
          return scores
        end,
        close = function() closed = closed + 1 end,
      }
    end }
  end)
  after_each(function() package.loaded["crucible.encoder"] = nil end)

  it("are asked of the encoders that options name", function()
    replies[rows[1].input] = completion("1", "Cells shrink.", "supports")
    local result = assert(evaluate { metrics = { "mean_entailment", "mean_similarity", "overall_pass_rate" },
      entailment_encoder = "nli", similarity = "encoder" })
    assert.is_true(math.abs((0.1 + 0.9 + 0.9) / 3 - result.metrics.mean_entailment) < 1e-12)
    assert.is_true(math.abs(2 / 3 - result.metrics.mean_similarity) < 1e-12)
    assert.same({ "nli", "all-minilm-l6-v2" }, opened)
    assert.equal("nli", result.scorers.entailment.about.encoder)
    assert.equal(2, closed)
  end)

  it("are refused before the model runs when an encoder is not there or cannot tell", function()
    local begun = #fake.generations
    expect.fails("not_found", "nothing: no folder", evaluate { similarity_encoder = "nothing",
      entailment_encoder = "nli" })
    assert.equal(1, closed)
    expect.fails("argument", "no label for entailment", evaluate { entailment_encoder = "no labels" })
    assert.same({ 2, begun }, { closed, #fake.generations })
  end)
end)
