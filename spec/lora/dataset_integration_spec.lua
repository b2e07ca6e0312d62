-- Named data sets, files, tables and formatters.
local dataset_integration = require("crucible").lora.dataset_integration
local expect = require "spec.support.expect"
local jsonl = require "crucible.jsonl"
local scifact = require "crucible.datasets.scifact"
local temp = require "spec.support.temp"

local prepare = dataset_integration.prepare_dataset

local function count(rows, field, value)
  local found = 0
  for _, row in ipairs(rows) do found = found + (row[field] == value and 1 or 0) end
  return found
end

describe("the data set scifact", function()
  after_each(temp.clean)

  for _, case in ipairs { { "train", 505, 332, 173 }, { "dev", 188, 124, 64 } } do
    it(("has %d rows in %s"):format(case[2], case[1]), function()
      local rows, info = assert(prepare("scifact", { split = case[1] }))
      assert.equal(case[2], #rows)
      assert.equal(case[3], count(rows, "output", "SUPPORT"))
      assert.equal(case[4], count(rows, "output", "CONTRADICT"))
      assert.same({ "SUPPORT", "CONTRADICT" }, info.labels)
      assert.equal(case[1], info.split)
    end)
  end

  it("reads as the reference formats it", function()
    local row = assert(prepare("scifact"))[1]
    assert.equal("Claim: 1 in 5 million in UK have abnormal PrP positivity.\nEvidence: RESULTS Of the 32,441 "
      .. "appendix samples 16 were positive for abnormal PrP, indicating an overall prevalence of 493 per million "
      .. "population (95% confidence interval 282 to 801 per million).\n\nVerdict:", row.input)
    assert.equal("CONTRADICT", row.output)
    assert.same({ claim_id = 2, evidence_ids = { 13734012 } }, row.metadata)
    assert.equal("integer", math.type(row.metadata.claim_id))
  end)

  it("has trimmed evidence and ascending document ids in every row", function()
    for _, split in ipairs(scifact.splits) do
      for _, row in ipairs(assert(jsonl.read("examples/data/scifact/verification_" .. split .. ".jsonl"))) do
        assert.is_true(#row.evidence > 0)
        for _, sentence in ipairs(row.evidence) do assert.equal(sentence:match("^%s*(.-)%s*$"), sentence) end
        for i = 2, #row.evidence_ids do assert.is_true(row.evidence_ids[i - 1] < row.evidence_ids[i]) end
      end
    end
  end)

  it("says which splits there are", function()
    expect.fails("not_found", 'scifact has no labelled split "test"; it has: train, dev', prepare("scifact",
      { split = "test" }))
  end)

  it("says what to put where when it is not there", function()
    local empty = temp.folder()
    expect.fails("not_found", "put verification_dev.jsonl, or claims_dev.jsonl and corpus.jsonl",
      prepare("scifact", { split = "dev", path = empty }))
  end)
end)

describe("scifact's released files", function()
  after_each(temp.clean)

  local corpus = [[
{"doc_id": 9, "title": "t", "abstract": ["nine a ", "nine b\n", "nine c"], "structured": false}
{"doc_id": 10, "title": "t", "abstract": ["ten a", "ten b"], "structured": false}
]]
  local claims = [[
{"id": 1, "claim": "one", "evidence": {"10": [{"sentences": [1], "label": "SUPPORT"}], "9": [RATIONALES]}}
{"id": 2, "claim": "two", "evidence": {}, "cited_doc_ids": [9]}
]]
  claims = claims:gsub("RATIONALES",
    '{"sentences": [2, 0], "label": "SUPPORT"}, {"sentences": [0], "label": "SUPPORT"}')

  it("become the union of rationale sentences in document order, ids ascending as numbers", function()
    local folder = temp.folder()
    temp.file(folder, "claims_dev.jsonl", claims)
    temp.file(folder, "corpus.jsonl", corpus)
    local rows = assert(prepare("scifact", { split = "dev", path = folder }))
    assert.equal(1, #rows)
    assert.equal("Claim: one\nEvidence: nine a nine c ten b\n\nVerdict:", rows[1].input)
    assert.same({ 9, 10 }, rows[1].metadata.evidence_ids)
  end)

  it("are refused when the corpus lacks a document or a sentence", function()
    local folder = temp.folder()
    temp.file(folder, "claims_dev.jsonl", claims)
    temp.file(folder, "corpus.jsonl", corpus:gsub('"doc_id": 10', '"doc_id": 11'))
    expect.fails("format", "claim 1: document 10 is not in the corpus", prepare("scifact", { split = "dev",
      path = folder }))
    temp.file(folder, "corpus.jsonl", corpus:gsub(', "ten b"', ""))
    expect.fails("format", "claim 1: document 10 has no sentence 1", prepare("scifact", { split = "dev",
      path = folder }))
  end)
end)

describe("formatters", function()
  for _, case in ipairs {
    { "scifact", { id = 7, claim = "c", evidence = { "a.", "b." }, evidence_ids = { 3 }, label = "SUPPORT" },
      { input = "Claim: c\nEvidence: a. b.\n\nVerdict:", output = "SUPPORT", metadata = { claim_id = 7,
        evidence_ids = { 3 } } } },
    { "fever", { id = 5, claim = "c", label = "REFUTES" },
      { input = "Claim: c\n\nVerify:", output = "REFUTES", metadata = { id = 5 } } },
    { "gsm8k", { question = "q", answer = "work\n#### 2" },
      { input = "Problem: q\n\nSolution:", output = "work\n#### 2", metadata = {} } },
    { "text", { text = "Once." }, { input = "", output = "Once.", metadata = {} } },
    { "alpaca", { instruction = "Add.", input = "1 2", output = "3" },
      { input = "Below is an instruction that describes a task, paired with an input that provides further context. "
        .. "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n"
        .. "### Response:\n", output = "3", metadata = {} } },
    { "alpaca", { instruction = "Sing.", input = "", output = "La." },
      { input = "Below is an instruction that describes a task. Write a response that appropriately completes the "
        .. "request.\n\n### Instruction:\nSing.\n\n### Response:\n", output = "La.", metadata = {} } },
    { "chat", { messages = { { role = "user", content = "Hi" } } },
      { messages = { { role = "user", content = "Hi" } }, metadata = {} } },
    { "chat", { conversations = { { from = "human", value = "Hi" }, { from = "gpt", value = "Ho" } } },
      { messages = { { role = "user", content = "Hi" }, { role = "assistant", content = "Ho" } }, metadata = {} } },
  } do
    it("have " .. case[1] .. " in its wording", function()
      assert.same(case[3], dataset_integration.formatter(case[1])(case[2]))
    end)
  end

  it("are listed and refused by name", function()
    assert.same({ "alpaca", "chat", "fever", "gsm8k", "preference", "scifact", "scifact_cns", "text" },
      dataset_integration.formatters())
    assert.same({ "fever", "gsm8k", "scifact", "scifact_cns" }, dataset_integration.datasets())
    expect.raises('unknown formatter "fevr"; did you mean "fever"?', dataset_integration.formatter, "fevr")
  end)

  it("can be registered, once", function()
    dataset_integration.register_formatter("upper", function(row) return { input = row.a:upper(), output = row.b } end)
    assert.equal("X", assert(prepare({ { a = "x", b = "y" } }, { formatter = "upper" }))[1].input)
    expect.raises('"upper" is registered already', dataset_integration.register_formatter, "upper", print)
    expect.raises("expected a function", dataset_integration.register_formatter, "lower", 5)
  end)
end)

describe("a formatter", function()
  it("may give several rows, which stay together in order", function()
    local function twice(row, number)
      return { { input = row.a, output = "x" }, { input = row.a, output = tostring(number) } }
    end
    local rows = assert(prepare({ { a = "p" }, { a = "q" } }, { formatter = twice, limit = 3 }))
    assert.same({ "x", "1", "x" }, { rows[1].output, rows[2].output, rows[3].output })
  end)

  it("preference gives two rows of one group", function()
    local rows = assert(prepare({ { prompt = "p", chosen = "c", rejected = "r" },
      { prompt = "q", chosen = { { role = "assistant", content = "c" } },
        rejected = { { role = "assistant", content = "r" } } } }, { formatter = "preference" }))
    assert.same({ input = "p", output = "c", metadata = { group = 1, choice = "chosen" } }, rows[1])
    assert.same({ input = "p", output = "r", metadata = { group = 1, choice = "rejected" } }, rows[2])
    assert.same({ group = 2, choice = "rejected" }, rows[4].metadata)
    assert.same({ { role = "user", content = "q" }, { role = "assistant", content = "r" } }, rows[4].messages)
  end)

  it("may give messages, whose prompt and last answer can be read", function()
    local row = assert(prepare({ { messages = { { role = "user", content = "Hi" },
      { role = "assistant", content = "Ho" } } } }, { formatter = "chat", train_on = "all" }))[1]
    assert.equal("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", row.input)
    assert.equal("Ho", row.output)
    assert.equal("all", row.train_on)
  end)

  for _, case in ipairs {
    { "messages that are none", { messages = {} }, '"messages" is no list of messages' },
    { "an unknown role", { messages = { { role = "asistant", content = "" } } },
      'message 1: unknown role "asistant"; did you mean "assistant"?' },
    { "a message without content", { messages = { { role = "user" } } }, 'message 1: "content" is not a string' },
    { "a speaker of no kind", { conversations = { { from = "cat", value = "" } } }, '"from" of turn 1 is "cat"' },
    { "no conversation", {}, '"messages" is missing, expected a list' },
  } do
    it("refuses " .. case[1], function()
      expect.fails("data", "row 1: " .. case[3], prepare({ case[2] }, { formatter = "chat" }))
    end)
  end

  it("says which of several rows is wrong", function()
    expect.fails("data", 'row 1: part 2: "output" is not a string', prepare({ {} }, {
      formatter = function() return { { input = "a", output = "b" }, { input = "a" } } end }))
  end)
end)

describe("rows of a file", function()
  after_each(temp.clean)

  local function file(text) return temp.file(temp.folder(), "rows.jsonl", text) end

  it("carry input and output, or are given a formatter", function()
    local path = file('{"input":"a","output":"b","weight":0.5}\n\n{"input":"c","output":"d","metadata":{"k":1}}\n')
    local rows, info = assert(prepare(path))
    assert.same({ { input = "a", output = "b", metadata = {}, weight = 0.5 },
      { input = "c", output = "d", metadata = { k = 1 } } }, rows)
    assert.equal(path, info.source)
    assert.equal("Problem: q\n\nSolution:", assert(prepare(file '{"question":"q","answer":"a"}',
      { formatter = "gsm8k" }))[1].input)
  end)

  it("may begin with a byte order mark and end lines as Windows does", function()
    assert.equal(2, #assert(prepare(file '\u{FEFF}{"input":"a","output":"b"}\r\n{"input":"c","output":"d"}\r\n')))
  end)

  for _, case in ipairs {
    { "a line that is not JSON", '{"input":"a","output":"b"}\n{"input":\n', {}, "format", "rows.jsonl:2: not JSON" },
    { "a number that is no JSON", '[NaN]', {}, "format", "rows.jsonl:1: not JSON" },
    { "a missing key", '{"claim":"x"}', { formatter = "fever" }, "data",
      'row 1: "label" is missing, expected a string' },
    { "a key of another type", '{"claim":"x","evidence":[1],"label":"y"}', { formatter = "scifact" }, "data",
      'row 1: "evidence" is a number, expected a list of strings' },
    { "a row that is no object", '5', {}, "data", "row 1: is a number, expected an object" },
    { "a row without output", '{"input":"x"}', {}, "data", 'row 1: "output" is not a string' },
    { "a transform that returns nothing", '{}', { transform = function() end }, "data",
      "row 1: gave a nil, expected { input, output, metadata }" },
    { "a transform that raises", '{}', { transform = function() error("boom", 0) end }, "data", "row 1: boom" },
    { "a filter that raises", '{}', { filter = function() error("bang", 0) end }, "data",
      "row 1: the filter failed: bang" },
  } do
    it("are refused: " .. case[1], function() expect.fails(case[4], case[5], prepare(file(case[2]), case[3])) end)
  end

  it("are missed by name: a file, a folder, a data set", function()
    expect.fails("not_found", "nowhere.jsonl", prepare("nowhere.jsonl"))
    expect.fails("io", "is a folder, expected a data file", prepare(temp.folder()))
    expect.fails("not_found", 'unknown dataset "scifacts"; did you mean "scifact"?', prepare("scifacts"))
    expect.raises("a dataset is a name, the path of a data file or a table of rows, got 5", prepare, 5)
    expect.raises('unknown option "splt"; did you mean "split"?', prepare, "scifact", { splt = "dev" })
  end)
end)

describe("choosing rows", function()
  local rows = {}
  for i = 1, 20 do rows[i] = { input = tostring(i), output = "x" } end

  local function inputs(options)
    local list = {}
    for i, row in ipairs(assert(prepare(rows, options))) do list[i] = row.input end
    return table.concat(list, " ")
  end

  it("limits and filters", function()
    assert.equal("1 2 3", inputs { limit = 3 })
    assert.equal("10 11", inputs { filter = function(row) return tonumber(row.input) >= 10 end, limit = 2 })
    assert.equal("", inputs { limit = 0 })
  end)

  it("shuffles by the seed alone, and limits afterwards", function()
    local first = inputs { shuffle = true, seed = 1 }
    assert.equal(first, inputs { shuffle = true, seed = 1 })
    assert.not_equal(first, inputs { shuffle = true, seed = 2 })
    assert.not_equal(inputs {}, first)
    assert.equal(first:match("^%S+ %S+"), inputs { shuffle = true, seed = 1, limit = 2 })
  end)

  it("prefers transform to formatter to the data set's own", function()
    local transform = function() return { input = "t", output = "t" } end
    assert.equal("t", assert(prepare("scifact", { transform = transform, formatter = "fever", limit = 1 }))[1].input)
    assert.truthy(assert(prepare("scifact", { formatter = "fever", limit = 1 }))[1].input:find("Verify:", 1, true))
  end)
end)

describe("a stream", function()
  after_each(temp.clean)

  it("gives batches of 8, the last one short", function()
    local sizes = {}
    for batch in assert(dataset_integration.stream_dataset("scifact", { limit = 20 })) do sizes[#sizes + 1] = #batch end
    assert.same({ 8, 8, 4 }, sizes)
  end)

  it("raises at a bad row, naming it, after the good batches", function()
    local path = temp.file(temp.folder(), "rows.jsonl", '{"input":"a","output":"b"}\n{"input":1,"output":"b"}\n')
    local next_batch = assert(dataset_integration.stream_dataset(path, { batch_size = 1 }))
    assert.equal(1, #next_batch())
    expect.raises('rows.jsonl: row 2: "input" is not a string', next_batch)
  end)

  it("fails at once when the source is not there", function()
    expect.fails("not_found", "nowhere.jsonl", dataset_integration.stream_dataset("nowhere.jsonl"))
  end)
end)

describe("a registered data set", function()
  it("is read by its own reader from the folders searched", function()
    dataset_integration.register_dataset("pairs", {
      splits = { "train", "dev" }, labels = { "y" },
      open = function(folder, split)
        if folder ~= "here" then return nil end
        local given = false
        return function()
          if given then return nil end
          given = true
          return { input = split, output = "y" }, 1
        end, folder
      end,
    })
    local rows, info = assert(prepare("pairs", { split = "dev", path = "here" }))
    assert.equal("dev", rows[1].input)
    assert.same({ "y" }, info.labels)
    expect.fails("not_found", "pairs (train) was not found in there", prepare("pairs", { path = "there" }))
    expect.raises("has neither open nor files", dataset_integration.register_dataset, "other", {})
  end)
end)
