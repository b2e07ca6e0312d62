-- Texts of claims and relations, measured in stages: each case worked out by hand.
local chirality = require "crucible.metrics.chirality"
local claim_issues = require "crucible.metrics.claim_issues"
local claims = require "crucible.metrics.claims"
local dataset_integration = require "crucible.lora.dataset_integration"
local expect = require "spec.support.expect"
local fs = require "crucible.fs"
local jsonl = require "crucible.jsonl"
local parser = require "crucible.domain.parser"
local scorers = require "crucible.metrics.scorers"
local temp = require "spec.support.temp"

local prompt = [[
You are extracting atomic claims.

Passage:
Document 11: On cells

Cells grow in the dark. They rest by day.

Document 22: On proteins

Proteins fold at night.

Task:
1. Restate the passage.
]]

local gold = table.concat({
  "CLAIM[c1]: cells grow in the dark", "CLAIM[c2] (Document 11): cells grow in the dark", "RELATION: c2 supports c1",
}, "\n")

local row = { input = prompt, expected = gold, metadata = { doc_ids = { "11" } } }

local fixed = { -- scorers whose answers a case dictates
  entailment = { name = "fixed", score = function(list)
    local scores = {}
    for i, pair in ipairs(list) do scores[i] = pair.premise:find(pair.hypothesis, 1, true) and 1 or 0.5 end
    return scores
  end },
  similarity = { name = "fixed", score = function(list)
    local scores = {}
    for i, pair in ipairs(list) do scores[i] = pair[1] == pair[2] and 1 or 0.25 end
    return scores
  end },
}

local function assess(text, with)
  local assessment = claims.begin(text, claims.expectation(row))
  assert(claims.complete({ assessment }, with or fixed))
  return assessment
end

describe("the form", function()
  for _, case in ipairs {
    { gold }, { "CLAIM[c1]: a" }, { "claim[C1] : a\n\n  CLAIM[c2] (document 11): b\nRELATION - C2 REFUTES c1\n" },
    { "", "the text is empty" }, { " \n ", "the text is empty" }, { "CLAIM[c2]: a", "there is no claim c1" },
    { "CLAIM[c1]: a\nand so on", "line 2 is neither" }, { "CLAIM[c1]: a\nCLAIM[c1]: b", "the id c1 is used twice" },
    { "CLAIM[c1]: a\nRELATION: c2 supports c1", "line 2: a relation to c2, which is no claim" },
    { "CLAIM[c1]: a\nRELATION: c1 supp", "line 2: a relation reads" }, { "CLAIM[c1", "line 1: " },
  } do
    it(("of %q is %s"):format(case[1], case[2] and "wrong" or "right"), function()
      local problem = claims.schema_problem(parser.parse(case[1]))
      if not case[2] then return assert.is_nil(problem) end
      assert.truthy(problem and problem:find(case[2], 1, true), tostring(problem))
    end)
  end
end)

describe("the verdict", function()
  for _, case in ipairs {
    { gold, "supports" }, { "CLAIM[c1]: a" }, { "RELATION: c1 refutes c2" },
    { "RELATION: c1 refutes c2\nRELATION: c2 contrasts C1\nRELATION: c3 supports c1", "contrasts" },
  } do
    it(("of %q is %s"):format(case[1], tostring(case[2])), function()
      local verdict = claims.verdict(parser.parse(case[1]))
      assert.equal(case[2], verdict)
    end)
  end
end)

describe("a prompt", function()
  it("offers documents with their texts", function()
    local found = claims.documents(prompt)
    assert.equal("On cells Cells grow in the dark. They rest by day.", found["11"])
    assert.equal("On proteins Proteins fold at night.", found["22"])
    assert.is_nil(next(claims.documents "no documents: none"))
  end)
end)

describe("the gate of citations", function()
  for _, case in ipairs {
    { "what is expected", gold }, { "more than is expected", gold .. "\nCLAIM[c3] (Document 22): b" },
    { "elsewhere in the text", "CLAIM[c1]: as [11:0] says\nCLAIM[c2]: b" },
    { "nothing", "CLAIM[c1]: a", "nothing is cited" },
    { "a document that the prompt lacks", gold .. "\nCLAIM[c3] (Document 33): b", "documents of the prompt: 33" },
    { "another document", "CLAIM[c1]: a\nCLAIM[c2] (Document 22): b", "not cited: 11" },
  } do
    it((case[3] and "is shut for " or "is open for ") .. case[1], function()
      local assessment = assess(case[2])
      if not case[3] then return assert.is_nil(assessment.citation_problem) end
      assert.truthy(assessment.citation_problem:find(case[3], 1, true), assessment.citation_problem)
      assert.same({ 0, 0, false, false },
        { assessment.entailment, assessment.similarity, assessment.paraphrase, assessment.passed })
    end)
  end

  it("takes the pool from the row where it has one", function()
    local narrow = { input = prompt, expected = gold, metadata = { doc_ids = { 11 }, pool = { "11" } } }
    local text = gold .. "\nCLAIM[c3] (Document 22): b"
    assert.truthy(claims.begin(text, claims.expectation(narrow)).citation_problem)
    assert.is_nil(claims.begin(gold, claims.expectation(narrow)).citation_problem)
  end)
end)

describe("entailment", function()
  it("is the mean over the citing claims, c1 aside", function()
    local assessment = assess(table.concat({
      "CLAIM[c1] (Document 11): anything", "CLAIM[c2] (Document 11): They rest by day.",
      "CLAIM[c3] (Document 22): nowhere [ref: 11]", "CLAIM[c4]: without a source",
    }, "\n"))
    assert.same({ { claim = "c2", document = "11", score = 1 }, { claim = "c3", document = "22", score = 0.5 },
      { claim = "c3", document = "11", score = 0.5 } }, assessment.entailments)
    assert.is_true(math.abs(2 / 3 - assessment.entailment) < 1e-12)
    assert.same({ false, 0.25, false }, { assessment.paraphrase, assessment.similarity, assessment.passed })
  end)

  it("or similarity accepts a paraphrase, but only entailment passes", function()
    local entailed = assess "CLAIM[c1]: x\nCLAIM[c2] (Document 11): They rest by day."
    assert.same({ 1, 0.25, true, true },
      { entailed.entailment, entailed.similarity, entailed.paraphrase, entailed.passed })
    local similar = assess "CLAIM[c1]: cells grow in the dark\nCLAIM[c2] (Document 11): unlike"
    assert.same({ 0.5, 1, true, false },
      { similar.entailment, similar.similarity, similar.paraphrase, similar.passed })
  end)

  it("is nothing where no claim but c1 cites", function()
    local assessment = assess "CLAIM[c1] (Document 11): cells grow in the dark"
    assert.same({ 0, 1, true, false },
      { assessment.entailment, assessment.similarity, assessment.paraphrase, assessment.passed })
  end)
end)

describe("the graph", function()
  it("has cycles, conflicts and a distance from the expected labels", function()
    local assessment = assess(table.concat({
      "CLAIM[c1]: a", "CLAIM[c2] (Document 11): b", "CLAIM[c3]: c", "RELATION: c2 supports c1",
      "RELATION: c3 refutes c1", "RELATION: c2 supports c3",
    }, "\n"))
    assert.same({ 1, 1, 1 }, { assessment.betti_0, assessment.betti_1, assessment.polarity_conflicts })
    local distance = 2 * math.acos(math.sqrt(2 / 3))
    local score = 0.6 * distance / (distance + 1) + 0.25
    assert.is_true(math.abs(score - assessment.chirality) < 1e-12)
  end)

  it("without relations is as far as can be", function()
    local assessment = assess "CLAIM[c1]: a\nCLAIM[c2] (Document 11): b"
    assert.is_true(math.abs(0.6 * math.pi / (math.pi + 1) - assessment.chirality) < 1e-12)
    assert.is_true(math.abs(0.6 * math.pi / (math.pi + 1) + 0.2 - assess("").chirality) < 1e-12)
  end)

  it("of the expected text itself is at distance 0", function() assert.equal(0, assess(gold).chirality) end)
end)

describe("the expected texts of SciFact's dev split", function()
  it("pass every stage, with other abstracts in the prompt too", function()
    for _, distractors in ipairs { 0, 3 } do
      local rows = assert(dataset_integration.prepare_dataset("scifact_cns", { split = "dev", limit = 40,
        distractors = distractors }))
      local assessments = {}
      for i, given in ipairs(rows) do
        assessments[i] = claims.begin(given.output, claims.expectation { input = given.input, expected = given.output,
          metadata = given.metadata })
      end
      assert(claims.complete(assessments, { entailment = scorers.make("entailment", "overlap", nil, {}),
        similarity = fixed.similarity }))
      for i, assessment in ipairs(assessments) do
        assert.same({ passed = true, chirality = 0, conflicts = 0 }, { passed = assessment.passed,
          chirality = assessment.chirality, conflicts = assessment.polarity_conflicts }, "row " .. i)
        assert.is_nil(assessment.schema_problem)
      end
    end
  end)
end)

describe("Fisher–Rao distances", function()
  it("of distributions run from 0 to π", function()
    assert.equal(0, chirality.of_distributions({ 0.5, 0.5 }, { 0.5, 0.5 }))
    assert.is_true(math.abs(math.pi - chirality.of_distributions({ 1, 0 }, { 0, 1 })) < 1e-12)
    expect.raises("got 1 and 2 values", chirality.of_distributions, { 1 }, { 0, 1 })
  end)

  it("of embeddings weigh by variance", function()
    assert.is_true(math.abs(5 - chirality.of_embeddings({ 3, 4 }, { 0, 0 }, { 1 - 1e-6, 1 - 1e-6 })) < 1e-12)
  end)

  it("give a score of at most 1", function()
    assert.equal(1, chirality.score(1e9, 0, true))
    assert.equal(0, chirality.score(0, 1, false))
  end)
end)

describe("scorers", function()
  it("by overlap know the same from the other", function()
    local entailment = scorers.make("entailment", "overlap", nil, {})
    local scores = entailment.score {
      { premise = "The cells grow, in the dark.", hypothesis = "Cells grow" },
      { premise = "Cells rest", hypothesis = "cells grow" }, { premise = "", hypothesis = "x" },
      { premise = "x", hypothesis = "" },
    }
    assert.same({ 1, 0.5, 0, 0 }, scores)
    local similarity = scorers.make("similarity", "overlap", nil, {})
    assert.same({ 1, 1 / 3, 0 }, similarity.score { { "A b", "a B" }, { "a b", "b c" }, { "", "" } })
  end)

  it("of one's own are checked", function()
    local mine = scorers.make("entailment", { name = "mine", score = function() return { 2 } end }, nil, {})
    expect.raises("the entailment scorer mine returned 2 for pair 1, expected a number from 0 to 1", mine.score, { {} })
    local silent = scorers.make("similarity", function() return nil end, nil, {})
    expect.fails("argument", "similarity scorer returned nothing", silent.score { {} })
  end)
end)

describe("the report of issues", function()
  after_each(temp.clean)

  local function issues_of(text, with)
    local list = {}
    for i, issue in ipairs(claim_issues.of(assess(text, with))) do list[i] = issue.issue .. " " .. issue.severity end
    return list
  end

  local function with_entailment(value)
    return { entailment = { score = function(list)
      local scores = {}
      for i = 1, #list do scores[i] = value end
      return scores
    end }, similarity = fixed.similarity }
  end

  it("names what is wrong and how badly", function()
    assert.same({}, issues_of(gold))
    assert.same({ "weak_entailment high" }, issues_of(gold, with_entailment(0.2999)))
    assert.same({ "moderate_entailment medium" }, issues_of(gold, with_entailment(0.30)))
    assert.same({}, issues_of(gold, with_entailment(0.50)))
    assert.same({ "schema_violation high", "citation_invalid critical" }, issues_of "nonsense")
    assert.same({ "low_similarity medium" }, issues_of "CLAIM[c1]: x\nCLAIM[c2] (Document 11): They rest by day.")
  end)

  it("is written as JSON lines and as a table", function()
    local folder = temp.folder()
    local list = claim_issues.list { { assessment = assess "a | b", metadata = { claim_id = 7 } },
      { assessment = assess(gold) } }
    assert(claim_issues.write(folder .. "/issues.jsonl", list, 2))
    local read = assert(jsonl.read(folder .. "/issues.jsonl"))
    assert.same({ "schema_violation", 7, 1 }, { read[1].issue, read[1].claim_id, read[1].row })
    local markdown = assert(fs.read_file(folder .. "/issues.md"))
    for _, part in ipairs { "2 issues in 2 texts.", "| critical | citation_invalid | 1 |", "| 1 | 7 | high |" } do
      assert.truthy(markdown:find(part, 1, true), part)
    end
    assert.truthy(claim_issues.markdown({}, 3):find("0 issues in 3 texts.", 1, true))
  end)
end)
