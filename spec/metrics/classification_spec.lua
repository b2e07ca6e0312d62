-- Precision, recall, F1 and the confusion matrix: values worked out by hand, as scikit-learn's
-- precision_recall_fscore_support gives them with labels and zero_division = 0.
local classification = require "crucible.metrics.classification"
local expect = require "spec.support.expect"

local function close(expected, found, what)
  assert.is_true(math.abs(expected - found) < 1e-12, ("%s: expected %g, found %g"):format(what, expected, found))
end

local function compare(expected, predicted, labels)
  local function split(text)
    local list = {}
    for word in text:gmatch("%S+") do list[#list + 1] = word == "-" and "" or word end
    return list
  end
  return classification.compare(split(expected), split(predicted), labels)
end

describe("classification", function()
  for _, case in ipairs {
    { "three classes", "a a b b c c", "a b b b c a", nil,
      { accuracy = 4 / 6, precision = (1 / 2 + 2 / 3 + 1) / 3, recall = (1 / 2 + 1 + 1 / 2) / 3,
        f1 = (1 / 2 + 4 / 5 + 2 / 3) / 3, f1_micro = 4 / 6 } },
    { "all right", "a b", "a b", nil, { accuracy = 1, precision = 1, recall = 1, f1 = 1 } },
    { "all wrong", "a b", "b a", nil, { accuracy = 0, precision = 0, recall = 0, f1 = 0, f1_micro = 0,
      f1_weighted = 0 } },
    { "the majority class", "a a b", "a a a", nil, { accuracy = 2 / 3, f1 = (4 / 5 + 0) / 2, recall = 0.5,
      precision = 1 / 3 } },
    { "one class", "a a", "a a", nil, { accuracy = 1, f1 = 1 } },
    { "a label nobody has", "a a", "a a", { "a", "b" }, { accuracy = 1, f1 = 0.5, f1_weighted = 1, f1_micro = 1 } },
    { "predictions that are no label", "a a b b", "a x y b", { "a", "b" },
      { accuracy = 0.5, precision = 1, recall = 0.5, f1 = 2 / 3, precision_micro = 1, recall_micro = 0.5 } },
    { "no prediction at all", "a b", "- -", nil, { accuracy = 0, f1 = 0 } },
    { "weights by support", "a a a b", "a a b b", nil,
      { precision_weighted = (3 * 1 + 1 * 0.5) / 4, recall_weighted = (3 * 2 / 3 + 1 * 1) / 4,
        f1_weighted = (3 * 0.8 + 2 / 3) / 4 } },
  } do
    it("measures " .. case[1], function()
      local found = compare(case[2], case[3], case[4])
      for name, value in pairs(case[5]) do close(value, classification.metrics[name](found), name) end
    end)
  end

  it("gives each class its own numbers and the confusion matrix", function()
    local found = compare("a a b b", "a x a b", { "a", "b" })
    assert.same({ label = "a", precision = 0.5, recall = 0.5, f1 = 0.5, support = 2, predicted = 2, hits = 1 },
      found.classes[1])
    assert.same({ { 1, 0 }, { 1, 1 } }, found.confusion.counts)
    assert.same({ 1, 0 }, found.confusion.other)
    assert.equal(2, found.correct)
  end)

  it("refuses to measure nothing, and lists of different lengths", function()
    expect.raises("at least one, got 0 and 0", classification.compare, {}, {})
    expect.raises("got 1 and 2", classification.compare, { "a", "b" }, { "a" })
  end)
end)
