-- Every metric beside scikit-learn, sacreBLEU, rouge_score and the published scripts, on random and
-- degenerate predictions: spec/fixtures/metrics.json, made by scripts/make_metric_fixtures.py.
local bleu = require "crucible.metrics.bleu"
local classification = require "crucible.metrics.classification"
local json = require "crucible.json"
local measure = require "crucible.metrics.measure"
local metrics = require "crucible.metrics"

local folder = debug.getinfo(1, "S").source:match "^@(.*)metrics/[^/]*$"

local function read_fixture()
  local file = assert(io.open(folder .. "fixtures/metrics.json"))
  local text = file:read "a"
  file:close()
  return assert(json.decode(text))
end

local fixture = read_fixture()

local function close(expected, found, what)
  local scale = math.max(1, math.abs(expected))
  assert.is_true(found ~= nil and math.abs(expected - found) < 1e-12 * scale,
    ("%s: expected %.17g, found %s"):format(what, expected, found))
end

local function predictions_of(case)
  local predictions = {}
  for i, expected in ipairs(case.expected) do
    predictions[i] = { expected = expected, predicted = case.predicted[i], correct = expected == case.predicted[i] }
  end
  return predictions
end

local function names_in(values)
  local names = {}
  for name in pairs(values) do names[#names + 1] = name end
  return names
end

describe("classification beside scikit-learn:", function()
  for _, case in ipairs(fixture.labels) do
    it(case.name, function()
      local context = { numbering = classification.numbering(case.labels) }
      local found = measure.values(predictions_of(case), names_in(case.metrics), context)
      assert.same({}, found.failures)
      for name, value in pairs(case.metrics) do close(value, found.values[name], name) end
      local compared = classification.compare(case.expected, case.predicted, case.labels)
      for i, class in ipairs(case.classes) do
        for field, value in pairs(class) do
          if field == "label" then
            assert.equal(value, compared.classes[i].label)
          else
            close(value, compared.classes[i][field], class.label .. " " .. field)
          end
        end
        local of_class = metrics.find("f1:" .. class.label).value(compared)
        close(class.f1, of_class, "f1:" .. class.label)
      end
      if case.confusion ~= json.null then assert.same(case.confusion, compared.confusion.counts) end
    end)
  end
end)

describe("texts beside rouge_score, sacreBLEU and SQuAD's script:", function()
  for _, case in ipairs(fixture.texts) do
    it(("%q and %q"):format(case.expected, case.predicted):sub(1, 100), function()
      local names = { "exact_match", "contains", "token_f1", "rouge_1", "rouge_2", "rouge_l", "bleu" }
      local found = measure.values({ { expected = case.expected, predicted = case.predicted } }, names, {})
      assert.same({}, found.failures)
      for _, name in ipairs(names) do close(case[name], found.values[name], name) end
    end)
  end

  it("BLEU of whole corpora", function()
    for c, case in ipairs(fixture.corpora) do
      local items = {}
      for i, pair in ipairs(case.pairs) do items[i] = bleu.item(pair[1], pair[2]) end
      close(case.bleu, bleu.score(items), "corpus " .. c)
    end
  end)
end)

describe("numeric answers", function()
  for _, case in ipairs(fixture.numbers) do
    it(("%q in %q"):format(case.expected, case.predicted), function()
      local names = { "gsm8k", "gsm8k_strict" }
      local found = measure.values({ { expected = case.expected, predicted = case.predicted } }, names, {})
      for _, name in ipairs(names) do close(case[name], found.values[name], name) end
    end)
  end
end)

describe("calibration error", function()
  it("equals the formula over ten bins", function()
    for c, case in ipairs(fixture.calibration) do
      local predictions = {}
      for i, scores in ipairs(case.scores) do predictions[i] = { scores = scores, correct = case.correct[i] } end
      local found = measure.values(predictions, { "calibration_error" }, {})
      close(case.calibration_error, found.values.calibration_error, "case " .. c)
    end
  end)

  it("takes labels that are all impossible for equally likely", function()
    local found = measure.values({ { scores = { -math.huge, -math.huge }, correct = true } }, { "calibration_error" },
      {})
    assert.equal(0.5, found.values.calibration_error)
  end)
end)

describe("perplexity", function()
  it("is over tokens, not over rows, and leaves out rows without a likelihood", function()
    local rows = { { nll = 3, nll_tokens = 1 }, {}, { nll = 6, nll_tokens = 5 } }
    local found = measure.values(rows, { "loss", "perplexity" }, {})
    close(1.5, found.values.loss, "loss")
    close(math.exp(1.5), found.values.perplexity, "perplexity")
  end)

  it("has no value where no row has a likelihood", function()
    local found = measure.values({ {} }, { "perplexity" }, {})
    assert.same({}, found.values)
    assert.same({}, found.failures)
  end)
end)
