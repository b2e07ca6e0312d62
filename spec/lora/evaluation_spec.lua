-- Evaluation over the stand-in, whose answers the spec dictates: a model that always errs scores
-- 0, one that copies the key scores 1, and nothing is a constant.
local fake = require("spec.support.fake_core").install()
local crucible = require "crucible"
local expect = require "spec.support.expect"
local jsonl = require "crucible.jsonl"
local temp = require "spec.support.temp"

local lora = crucible.lora
local folder, path

local function open(config)
  config = config or {}
  config.base_model, config.lora_rank = path, 2
  return assert(lora.create_session { config = config, runs = folder .. "/runs" })
end

local rows = {
  { input = "one:", output = "yes", metadata = { id = 1 } }, { input = "two:", output = "no" },
  { input = "three:", output = "yes" }, { input = "four:", output = "no" },
}
local key = { ["one:"] = "yes", ["two:"] = "no", ["three:"] = "yes", ["four:"] = "no" }

local function evaluate(options, dataset)
  local session <close> = open()
  options.labels = options.labels or { "yes", "no" }
  return lora.evaluation.evaluate(session, dataset or rows, options)
end

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
  fake.reply = function(prompt) return " " .. key[prompt] end
  fake.likelihood = function(prompt, choice) return choice == " " .. key[prompt] and -1 or -2 end
end)
after_each(temp.clean)

for _, mode in ipairs { "generate", "likelihood" } do
  describe("evaluation by " .. mode, function()
    it("gives 1 to a model that copies the key", function()
      local result = assert(evaluate { mode = mode })
      assert.same({ accuracy = 1, f1 = 1, precision = 1, recall = 1 }, result.metrics)
    end)

    it("gives 0 to a model that always errs", function()
      fake.reply = function(prompt) return key[prompt] == "yes" and " no" or " yes" end
      fake.likelihood = function(prompt, choice) return choice == " " .. key[prompt] and -2 or -1 end
      local result = assert(evaluate { mode = mode })
      assert.same({ accuracy = 0, f1 = 0, precision = 0, recall = 0 }, result.metrics)
      assert.equal(0, result.correct)
    end)

    it("measures what lies between", function()
      fake.reply = function() return " yes" end
      fake.likelihood = function(_, choice) return choice == " yes" and -1 or -2 end
      local result = assert(evaluate { mode = mode, metrics = { "accuracy", "f1", "f1_weighted", "recall_micro" } })
      assert.equal(0.5, result.metrics.accuracy)
      assert.is_true(math.abs(result.metrics.f1 - 1 / 3) < 1e-12)
      assert.equal(2, result.confusion.counts[2][1])
      assert.equal(2, result.classes[1].support)
    end)

    it("leaves the lora out on request", function()
      fake.reply = function(prompt, base) return base and " no" or " " .. key[prompt] end
      fake.likelihood = function(prompt, choice, base)
        return choice == (base and " no" or " " .. key[prompt]) and -1 or -2
      end
      local result = assert(evaluate { mode = mode, base = true })
      assert.equal(0.5, result.metrics.accuracy)
      assert.is_true(result.base)
    end)

    it("keeps predictions in order, and writes them", function()
      local file = folder .. "/predictions.jsonl"
      local result = assert(evaluate { mode = mode, predictions = file, limit = 3 })
      assert.equal(3, result.samples)
      local first = result.predictions[1]
      assert.equal("one:", first.input)
      assert.equal("yes", first.expected)
      assert.equal("yes", first.predicted)
      assert.is_true(first.correct)
      assert.same({ id = 1 }, first.metadata)
      local written = assert(jsonl.read(file))
      assert.equal(3, #written)
      assert.equal("three:", written[3].input)
      assert.equal(file, result.predictions_path)
    end)

    it("reports its progress", function()
      local done = {}
      assert(evaluate { mode = mode, progress = function(count, total) done[#done + 1] = count .. "/" .. total end })
      assert.equal("4/4", done[#done])
    end)

    it("cuts a prompt that is too long from its left, and counts it", function()
      local long = ("x"):rep(600) .. "one:"
      fake.reply = function(prompt) return prompt:sub(-4) == "one:" and #prompt < 512 and " yes" or "" end
      fake.likelihood = function(prompt, choice) return #prompt < 512 and choice == " yes" and -1 or -2 end
      local result = assert(evaluate({ mode = mode }, { { input = long, output = "yes" } }))
      assert.equal(1, result.truncated)
      assert.equal(1, result.metrics.accuracy)
      assert.equal(long, result.predictions[1].input)
    end)

    it("refuses a split without rows", function()
      expect.fails("data", "no rows to evaluate", evaluate({ mode = mode }, {}))
    end)
  end)
end

describe("a generated answer", function()
  local function predicted(reply, options)
    fake.reply = function() return reply end
    options = options or {}
    options.max_tokens = options.max_tokens or 30
    return assert(evaluate(options)).predictions[1]
  end

  for _, case in ipairs {
    { " yes", "yes" }, { "yes", "yes" }, { "\n\nyes\nand more", "yes" }, { " yes  ", "yes" }, { "", "" },
      { " yes, I think", "yes, I think" },
  } do
    it(("reads %q as %q"):format(case[1], case[2]), function() assert.equal(case[2], predicted(case[1]).predicted) end)
  end

  it("keeps its text as written, and all lines where answers have several", function()
    assert.equal(" yes\nno", predicted(" yes\nno").text)
    fake.reply = function() return " 2\n#### 2" end
    local result = assert(evaluate({ max_tokens = 20, metrics = { "exact_match" } }, { { input = "q",
      output = "2\n#### 2" } }))
    assert.equal(1, result.metrics.exact_match)
  end)

  it("is no longer than the longest label and its end", function()
    assert(evaluate {})
    local params = fake.generations[#fake.generations].params
    assert.equal(#" yes" + 1, params.max_tokens)
    assert.equal(0, params.temperature)
    assert.same({ fake.EOS }, params.stop_ids)
  end)

  it("follows the sampling options given", function()
    assert(evaluate { temperature = 0.5, top_k = 3, seed = 8, max_tokens = 9 })
    local params = fake.generations[#fake.generations].params
    assert.same({ 0.5, 3, 8, 9 }, { params.temperature, params.top_k, params.seed, params.max_tokens })
  end)

  it("ends at a stop text", function()
    assert.equal("yes", predicted(" yes END no", { stop_sequences = { " END" } }).predicted)
  end)
end)

describe("likelihood", function()
  it("takes the first of equals, and shows the scores", function()
    fake.likelihood = function() return -3 end
    local result = assert(evaluate { mode = "likelihood" })
    assert.equal("yes", result.predictions[2].predicted)
    assert.same({ -3, -3 }, result.predictions[2].scores)
  end)

  it("takes the labels that occur when none are given", function()
    local session <close> = open()
    local result = assert(lora.evaluation.evaluate(session, rows, { mode = "likelihood" }))
    assert.same({ "no", "yes" }, result.confusion.labels)
  end)
end)

describe("the result", function()
  it("says what was evaluated", function()
    local session <close> = open()
    fake.likelihood = function(_, choice) return choice == " SUPPORT" and -1 or -2 end
    local result = assert(lora.evaluation.evaluate(session, "scifact", { mode = "likelihood" }))
    assert.equal(188, result.samples)
    assert.equal("test", result.split_asked)
    assert.equal("dev", result.split)
    assert.equal(124 / 188, result.metrics.accuracy)
    assert.equal(session.experiment_id, result.experiment_id)
    assert.equal("default", result.adapter_name)
    assert.truthy(result.evaluated_at:match("Z$"))
    local majority = lora.evaluation.majority_class(assert(lora.dataset_integration.prepare_dataset("scifact",
      { split = "dev" })),
      { "SUPPORT", "CONTRADICT" })
    assert.equal("SUPPORT", majority.label)
    assert.equal(result.metrics.accuracy, majority.accuracy)
    assert.equal(result.metrics.f1, majority.f1)
  end)

  it("can be of a checkpoint, which leaves the session as it is", function()
    local session <close> = open()
    local saved = assert(session:save_checkpoint "mine")
    local made = #fake.sessions
    local result = assert(lora.evaluation.evaluate(session, rows, { checkpoint = "mine" }))
    assert.equal(made + 1, #fake.sessions)
    assert.equal("mine", result.checkpoint)
    assert(lora.evaluation.evaluate(session, rows, { checkpoint = saved.path }))
    expect.fails("not_found", "no such checkpoint", lora.evaluation.evaluate(session, rows, { checkpoint = "other" }))
    expect.raises("checkpoint has no meaning", lora.evaluation.evaluate, session, rows, { checkpoint = "mine",
      base = true })
  end)
end)

describe("evaluation both ways at once", function()
  it("gives what the two modes give apart, and runs the prompts once", function()
    fake.reply = function(prompt) return prompt == "two:" and " yes" or " " .. key[prompt] end
    fake.likelihood = function(prompt, choice)
      return choice == (prompt == "one:" and " no" or " " .. key[prompt]) and -1 or -2
    end
    local begun = #fake.generations
    local both = assert(evaluate { mode = "both" })
    assert.equal(begun + 1, #fake.generations)
    assert.same(assert(evaluate { mode = "generate" }).metrics, both.metrics)
    local apart = assert(evaluate { mode = "likelihood" })
    assert.same(apart.metrics, both.likelihood.metrics)
    assert.same(apart.confusion, both.likelihood.confusion)
    assert.equal("no", both.likelihood.predictions[1].predicted)
    assert.equal("yes", both.predictions[1].predicted)
  end)
end)

describe("evaluation refuses", function()
  for _, case in ipairs {
    { { metrics = { "f2" } }, 'unknown metric "f2"; did you mean "f1"?' },
    { { metrics = { "schema_complience" } }, 'unknown metric "schema_complience"; did you mean "schema_compliance"?' },
    { { entailment = "guess" }, 'unknown scorer "guess"; known: ' },
    { { mode = "guess" }, 'mode must be one of "generate", "likelihood", "both"' },
    { { labls = {} }, 'unknown option "labls"; did you mean "labels"?' },
    { { temperature = -1 }, "temperature must be a number of at least 0" },
    { { labels = {} }, "labels must be a list" },
    { { labels = { "yes", "no" }, aliases = { y = "maybe" } }, 'aliases: "y" stands for "maybe", which is no label' },
    { { truncation = "right" }, 'truncation must be one of "left", "drop", "refuse"' },
  } do
    it(case[2], function()
      local session <close> = open()
      expect.raises(case[2], lora.evaluation.evaluate, session, rows, case[1])
    end)
  end
end)

describe("labels", function()
  it("are read without regard to case and full stops, by aliases too", function()
    fake.reply = function(prompt) return prompt == "one:" and " Yes." or prompt == "two:" and " nope" or " no" end
    local result = assert(evaluate { aliases = { nope = "no" }, max_tokens = 9 })
    assert.equal("yes", result.predictions[1].predicted)
    assert.equal(" Yes.", result.predictions[1].text)
    assert.equal("no", result.predictions[2].predicted)
    assert.equal(3, result.correct)
    assert.equal(1, assert(evaluate { normalise = "exact", max_tokens = 9 }).correct)
  end)

  it("can be read by a function", function()
    fake.reply = function() return " the answer is yes" end
    local function last_word(text) return text:match "(%S+)$" end
    assert.equal(2, assert(evaluate { normalise = last_word, max_tokens = 30 }).correct)
    local session <close> = open()
    expect.raises('normalise failed on "yes": ', lora.evaluation.evaluate, session, rows,
      { normalise = function() error "no luck" end })
    expect.raises('normalise failed on "yes": it returned 3, expected a string', lora.evaluation.evaluate, session,
      rows, { normalise = function() return 3 end })
  end)

  it("may be missing where outputs are texts", function()
    local texts = {}
    for i = 1, 101 do texts[i] = { input = "q" .. i, output = "answer " .. i } end
    fake.reply = function(prompt) return " answer " .. prompt:sub(2) end
    local session <close> = open()
    local result = assert(lora.evaluation.evaluate(session, texts))
    assert.same({ exact_match = 1, token_f1 = 1 }, result.metrics)
    assert.is_nil(result.confusion)
    expect.fails("data", 'metric "f1" needs labels, but the outputs are 101 different texts',
      lora.evaluation.evaluate(session, texts, { metrics = { "accuracy", "f1" } }))
    expect.fails("data", 'mode "likelihood" chooses among labels',
      lora.evaluation.evaluate(session, texts, { mode = "likelihood", metrics = { "accuracy" } }))
  end)

  it("must be there to be asked for one by one", function()
    local result = assert(evaluate { metrics = { "f1:yes", "recall:no" } })
    assert.same({ ["f1:yes"] = 1, ["recall:no"] = 1 }, result.metrics)
    expect.fails("data", 'no label is "maybe"; the labels are: yes, no', evaluate { metrics = { "f1:maybe" } })
  end)
end)

describe("rows that cannot be evaluated", function()
  it("hold no claims and relations where metrics of these are asked for", function()
    expect.fails("data", 'metric "mean_entailment" needs outputs of claims and relations', evaluate {
      metrics = { "accuracy", "mean_entailment" } })
  end)

  it("have no expected output", function()
    local unlabelled = { rows[1], { input = "five:", output = " " }, { input = "six:", output = "" } }
    expect.fails("data", "2 of 3 rows have no expected output (the first is row 2)", evaluate({}, unlabelled))
  end)

  it("have a prompt that is too long, by policy", function()
    local long = { rows[1], { input = ("x"):rep(600) .. ":", output = "yes" } }
    local dropped = assert(evaluate({ truncation = "drop" }, long))
    assert.same({ 1, 1, 0 }, { dropped.samples, dropped.dropped, dropped.truncated })
    expect.fails("context_overflow", "row 2: its prompt has 601 tokens and 507 fit", evaluate({ truncation = "refuse" },
      long))
    expect.fails("data", "every prompt is longer than the 507 tokens that fit", evaluate({ truncation = "drop" },
      { long[2] }))
  end)
end)

describe("metrics of the probabilities", function()
  it("need the mode that gives them", function()
    expect.fails("data", 'metric "calibration_error" needs scores of labels: use mode = "likelihood"', evaluate {
      metrics = { "calibration_error" } })
    local result = assert(evaluate { metrics = { "calibration_error" }, mode = "likelihood" })
    local confidence = 1 / (1 + math.exp(-1))
    assert.is_true(math.abs(1 - confidence - result.metrics.calibration_error) < 1e-12)
  end)

  it("are of the expected outputs with their end token", function()
    local session <close> = open()
    local result = assert(lora.evaluation.evaluate(session, rows, { metrics = { "perplexity", "loss" }, base = true }))
    assert.is_true(math.abs(1 - result.metrics.loss) < 1e-12) -- the stand-in's base gives each token 1/e
    assert.equal(#" yes" + 1, result.predictions[1].nll_tokens)
  end)
end)

describe("a metric that raises", function()
  before_each(function() lora.evaluation.register_metric("broken", function() error "no luck" end) end)
  after_each(function() lora.evaluation.unregister_metric "broken" end)

  it("is named, after the predictions were written", function()
    local file = folder .. "/kept.jsonl"
    local session <close> = open()
    expect.raises('metric "broken" failed', lora.evaluation.evaluate, session, rows, { metrics = { "broken" },
      predictions = file })
    assert.equal(4, #assert(jsonl.read(file)))
  end)

  it("does not stop the others when it need not", function()
    local result = assert(evaluate { metrics = { "broken", "accuracy" }, on_metric_error = "continue" })
    assert.same({ accuracy = 1 }, result.metrics)
    assert.truthy(result.failed_metrics.broken:find("no luck", 1, true))
  end)
end)

describe("results beside each other", function()
  local function results()
    fake.reply = function(prompt, base) return base and " yes" or " " .. (key[prompt] or "no") end
    return assert(evaluate { base = true, max_tokens = 9 }), assert(evaluate { max_tokens = 9 })
  end

  it("have intervals", function()
    local base, tuned = results()
    assert.same({ low = 1, high = 1 }, tuned.intervals.accuracy)
    assert.is_true(base.intervals.accuracy.low < 0.5 and base.intervals.accuracy.high > 0.5)
    assert.same({}, assert(evaluate { resamples = 0 }).intervals)
  end)

  it("are compared on the same rows", function()
    local base, tuned = results()
    local found = lora.evaluation.compare(base, tuned)
    assert.same({ 0.5, 1, 0.5 }, { found.accuracy.a, found.accuracy.b, found.accuracy.difference })
    assert.truthy(lora.evaluation.difference_table(found):find("accuracy +0.500 +1.000 +%+0.500"))
    local fewer = assert(evaluate { limit = 3 })
    expect.raises("the results have 4 and 3 rows", lora.evaluation.compare, base, fewer)
    fewer = assert(evaluate({}, { rows[1], rows[2], rows[3], { input = "other:", output = "no" } }))
    expect.raises("row 4 is not the same", lora.evaluation.compare, base, fewer)
  end)

  it("make a table with the majority class", function()
    local base, tuned = results()
    local majority = assert(lora.evaluation.majority(rows, { labels = { "yes", "no" } }))
    assert.same({ "no", 0.5 }, { majority.label, majority.metrics.accuracy })
    local text = lora.evaluation.table { { name = "base", result = base }, { name = "tuned", result = tuned },
      { name = "always no", result = majority } }
    assert.truthy(text:find "tuned +1.000 %[1.00, 1.00%]")
    assert.truthy(text:find "always no +0.500 %[0.%d%d, 1.00%]")
    assert.truthy(lora.evaluation.table({ { name = "tuned", result = tuned } }, { metrics = { "f1" } }):find "^ +f1\n")
    local many = { "accuracy", "f1", "precision", "recall", "f1:yes" }
    local lines = lora.evaluation.table({ { name = "base", result = base }, { name = "tuned", result = tuned } },
      { metrics = many })
    assert.truthy(lines:find "^ +base +tuned\n")
    assert.truthy(lines:find "\naccuracy +0.500 %[0.%d+, 1.00%] +1.000 %[1.00, 1.00%]\n.*\nf1:yes +%- +%-\n")
  end)
end)

describe("the best checkpoint", function()
  after_each(function() lora.evaluation.unregister_metric "tick" end)

  for _, case in ipairs { { lower = true, best = "step_000001" }, { lower = false, best = "step_000003" } } do
    it("is chosen by any metric, " .. (case.lower and "the lower" or "the higher") .. " the better", function()
      local count = 0
      lora.evaluation.register_metric("tick", { lower = case.lower, reduce = function()
        count = count + 1
        return count
      end })
      local session <close> = open()
      local results = assert(lora.training_loop.run(session, rows, { epochs = 3, checkpoint_every = 1, best = "tick",
        evaluate = { dataset = rows, metrics = { "tick" }, resamples = 0 } }))
      assert.equal(case.best, results.best_checkpoint:match "[^/]+$")
    end)
  end
end)

describe("quality targets", function()
  it("are least values, or most where less is better", function()
    local found = lora.validate_quality({ accuracy = 0.7, perplexity = 12, chirality = 0.1 }, {
      quality_targets = { accuracy = 0.6, perplexity = 10, chirality = 0.2, f1 = 0.5 },
    })
    assert.is_false(found.passed)
    assert.equal("2/4 quality targets met; failed: f1 not measured, perplexity 12 > 10", found.summary)
    assert.equal(2, found.assessments[4].delta)
  end)
end)
