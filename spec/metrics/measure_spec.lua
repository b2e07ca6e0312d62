-- Metrics of one's own, intervals, and the paired test.
local classification = require "crucible.metrics.classification"
local expect = require "spec.support.expect"
local measure = require "crucible.metrics.measure"
local metrics = require "crucible.metrics"
local selection = require "crucible.lora.selection"

local context = { numbering = classification.numbering { "a", "b" } }

-- Predictions out of a text such as "aa ab bb": expected and predicted, letter by letter.
local function rows_of(text)
  local rows = {}
  for expected, predicted in text:gmatch "(%S)(%S)" do
    rows[#rows + 1] = { expected = expected, predicted = predicted, correct = expected == predicted }
  end
  return rows
end

local options = { resamples = 2000, confidence = 0.95, seed = 0 }

local function register(name, metric)
  metrics.register(name, metric)
  finally(function() metrics.unregister(name) end)
end

describe("a metric of one's own", function()
  it("is a function of the predictions", function()
    register("share_of_b", function(predictions)
      local count = 0
      for _, prediction in ipairs(predictions) do count = count + (prediction.predicted == "b" and 1 or 0) end
      return count / #predictions
    end)
    local found = measure.values(rows_of "aa ab bb", { "share_of_b", "accuracy" }, context)
    assert.equal(2 / 3, found.values.share_of_b)
    assert.equal(2 / 3, found.values.accuracy)
    local intervals = measure.intervals(found, { "share_of_b" }, context, options)
    assert.is_true(intervals.share_of_b.low < 2 / 3 and intervals.share_of_b.high > 2 / 3)
  end)

  it("or looks at each row once and reduces", function()
    local looked = 0
    register("right_of_a", {
      observe = function(prediction)
        looked = looked + 1
        if prediction.expected == "a" then return prediction.correct and 1 or 0 end
      end,
      reduce = function(items)
        local sum = 0
        for _, item in ipairs(items) do sum = sum + item end
        return sum / #items
      end,
    })
    local found = measure.values(rows_of "aa ab bb", { "right_of_a" }, context)
    assert.equal(0.5, found.values.right_of_a)
    measure.intervals(found, { "right_of_a" }, context, options)
    assert.equal(3, looked)
  end)

  for _, case in ipairs {
    { "that raises", function() error("no luck") end, "no luck" },
    { "that raises at a row", { observe = function(p) return p.nothing.at_all end, reduce = print }, "at row 1: " },
    { "that returns no number", function() return "high" end, "returned a string, expected a number" },
  } do
    it(case[1] .. " fails alone", function()
      register("mine", case[2])
      local found = measure.values(rows_of "aa", { "mine", "accuracy" }, context)
      assert.same({ accuracy = 1 }, found.values)
      assert.truthy(found.failures.mine:find(case[3], 1, true), found.failures.mine)
    end)
  end

  it("has no interval where it fails on drawn rows", function()
    register("picky", function(predictions)
      if #predictions == 2 and predictions[1] == predictions[2] then error("twice the same") end
      return 1
    end)
    local found = measure.values(rows_of "aa bb", { "picky" }, context)
    assert.equal(1, found.values.picky)
    assert.same({}, measure.intervals(found, { "picky" }, context, options))
  end)

  it("needs a name of its own", function()
    register("taken", print)
    expect.raises('"taken" is registered already', metrics.register, "taken", print)
    expect.raises('"accuracy" is registered already', metrics.register, "accuracy", print)
    expect.raises("letters, digits and '_'", metrics.register, "f1:x", print)
    expect.raises('unknown option "redcue"; did you mean "reduce"?', metrics.register, "x", { redcue = print })
    expect.raises('"accuracy" is the library\'s own', metrics.unregister, "accuracy")
  end)
end)

describe("names of metrics", function()
  it("are refused with the nearest", function()
    expect.raises('unknown metric "f2"; did you mean "f1"?', metrics.check_names, { "accuracy", "f2" })
  end)

  it("know which way is better", function()
    assert.is_true(metrics.better("accuracy", 0.6, 0.5))
    assert.is_false(metrics.better("accuracy", 0.5, 0.5))
    assert.is_true(metrics.better("perplexity", 2, 3))
    assert.is_true(metrics.better("perplexity", 2, nil))
    assert.is_false(metrics.better("perplexity", 0 / 0, 3))
    assert.is_true(metrics.better("perplexity", 3, 0 / 0))
    assert.is_false(metrics.better("f1", nil, nil))
  end)

  it("choose checkpoints the right way round", function()
    for name, direction in pairs { f1 = "max", ["f1:a"] = "max", polarity_conflicts = "min", perplexity = "min",
      chirality = "min", mean_loss = "min", invalid_rate = "min", skill = "max" } do
      assert.equal(direction, selection.direction(name), name)
    end
    assert.is_nil(metrics.direction "skill")
    register("waste", { reduce = function() return 1 end, lower = true })
    assert.equal("min", selection.direction "waste")
  end)

  it("come with a line each", function()
    for _, name in ipairs(metrics.names()) do
      assert.truthy(metrics.help():find("  " .. name .. " +%S"), name)
    end
  end)
end)

describe("an interval", function()
  -- 40 rows, 30 right: a share's bootstrap is a binomial over 40 draws.
  local rows = rows_of(("aa "):rep(30) .. ("ab "):rep(10))

  it("of accuracy is the binomial's", function()
    local found = measure.values(rows, { "accuracy" }, context)
    local interval = measure.intervals(found, { "accuracy" }, context, options).accuracy
    -- Quantiles of Binomial(40, 0.75) / 40 at 0.025 and 0.975 are 0.6 and 0.875 or 0.9: draws may fall either way.
    assert.is_true(math.abs(interval.low - 0.6) <= 0.025 + 1e-12, "low " .. interval.low)
    assert.is_true(math.abs(interval.high - 0.8875) <= 0.0125 + 1e-12, "high " .. interval.high)
  end)

  it("is the same for the same seed, and none for no draws", function()
    local found = measure.values(rows, { "accuracy", "f1" }, context)
    local first = measure.intervals(found, { "accuracy", "f1" }, context, options)
    assert.same(first, measure.intervals(found, { "accuracy", "f1" }, context, options))
    assert.same({}, measure.intervals(found, { "accuracy" }, context, { resamples = 0, confidence = 0.95, seed = 0 }))
  end)

  it("of one row, and of rows all alike, is a point", function()
    for _, text in ipairs { "aa", "aa aa aa" } do
      local found = measure.values(rows_of(text), { "accuracy", "bleu" }, context)
      local intervals = measure.intervals(found, { "accuracy" }, context, options)
      assert.same({ low = 1, high = 1 }, intervals.accuracy)
    end
  end)
end)

describe("the paired test", function()
  local function compare(a, b, name)
    name = name or "accuracy"
    local left, right = measure.values(rows_of(a), { name }, context), measure.values(rows_of(b), { name }, context)
    return measure.compare(name, left, right, context, { resamples = 4000, confidence = 0.95, seed = 1 })
  end

  it("finds nothing between equals", function()
    local found = compare("aa ab bb", "aa ab bb")
    assert.same({ 0, 0, 0, 1 }, { found.difference, found.low, found.high, found.p })
  end)

  -- Of accuracy it is McNemar's exact test: the sign test on rows where the two disagree.
  for _, case in ipairs {
    { 9, 1, 0.021484375 }, { 5, 5, 1 }, { 8, 0, 0.0078125 }, { 3, 1, 0.625 },
  } do
    it(("is McNemar's on %d against %d"):format(case[1], case[2]), function()
      local a = ("ab "):rep(case[1]) .. ("aa "):rep(case[2]) .. ("bb "):rep(10)
      local b = ("aa "):rep(case[1]) .. ("ab "):rep(case[2]) .. ("bb "):rep(10)
      local found = compare(a, b)
      local error_of_draws = 4 * math.sqrt(case[3] * (1 - case[3]) / 4000) + 1 / 4000
      assert.is_true(math.abs(found.p - case[3]) <= error_of_draws + 1e-9, "p " .. found.p)
      assert.is_true(math.abs(found.difference - (case[1] - case[2]) / (case[1] + case[2] + 10)) < 1e-12)
    end)
  end

  it("knows the direction, and works on any metric", function()
    local found = compare("ab ab ba bb", "aa aa bb bb", "f1")
    assert.is_true(found.difference > 0 and found.a < found.b)
    assert.equal(4, found.rows)
  end)
end)
