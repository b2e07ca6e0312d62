-- Rows to tokens and weights, and the gate before step 1.
local fake = require("spec.support.fake_core").install()
local crucible = require "crucible"
local datums = require "crucible.lora.datums"
local expect = require "spec.support.expect"
local gate = require "crucible.lora.gate"
local temp = require "spec.support.temp"
local tokenizer = require "crucible.tokenizer"

local function open(content)
  local model = assert(crucible.model(temp.file(temp.folder(), "toy.gguf", content or "toy")))
  return model.tokenizer
end

local function build(rows, options, content)
  local tok = open(content)
  local list, counts, code = datums.build(tok, rows, options)
  return list, counts, code, tok
end

local function texts(tok, datum)
  local supervised = {}
  for i, weight in ipairs(datum.weights) do
    if weight ~= 0 then supervised[#supervised + 1] = datum.tokens[i + 1] end
  end
  return tok:decode(datum.tokens), tok:decode(supervised)
end

describe("a datum", function()
  after_each(temp.clean)

  for _, case in ipairs {
    { "adds one space between words", "Verdict:", "SUPPORT", "Verdict: SUPPORT<eos>", " SUPPORT<eos>" },
    { "adds none after white space", "Verdict:\n", "SUPPORT", "Verdict:\nSUPPORT<eos>", "SUPPORT<eos>" },
    { "adds none before white space", "Verdict:", " SUPPORT", "Verdict: SUPPORT<eos>", " SUPPORT<eos>" },
    { "adds none to an empty prompt", "", "SUPPORT", "SUPPORT<eos>", "UPPORT<eos>" },
    { "takes text of special tokens as text", "a<eos>", "b", "a<eos> b<eos>", " b<eos>" },
  } do
    it(case[1], function()
      local list, _, _, tok = build({ { input = case[2], output = case[3] } })
      local whole, supervised = texts(tok, list[1])
      assert.equal(case[4], whole)
      assert.equal(case[5], supervised)
      assert.equal(#list[1].tokens - 1, #list[1].weights)
    end)
  end

  it("has the generation prompt as a prefix, with its BOS", function()
    local list, _, _, tok = build({ { input = "ask:", output = "yes" } }, nil, "bos")
    local prompt = tok:prompt("ask:")
    assert.equal(fake.BOS, prompt[1])
    assert.not_equal(fake.BOS, prompt[2])
    assert.equal(#prompt, list[1].prompt_length)
    for i, id in ipairs(prompt) do assert.equal(id, list[1].tokens[i]) end
  end)

  it("supervises the first token after a BOS when the prompt is empty", function()
    local list, _, _, tok = build({ { input = "", output = "yes" } }, nil, "bos")
    assert.equal("yes<eos>", select(2, texts(tok, list[1])))
  end)

  it("carries the row's weight, number and metadata", function()
    local list = build({ { input = "a", output = "b", weight = 0.25, metadata = { k = 1 } } })
    assert.same({ 0.25, 0.25, 0.25 }, list[1].weights)
    assert.equal(1, list[1].row)
    assert.same({ k = 1 }, list[1].metadata)
  end)
end)

describe("a row over the limit", function()
  after_each(temp.clean)

  it("loses the left of its prompt, never its answer, and is counted", function()
    local rows = { { input = "0123456789", output = "yes" }, { input = "a", output = "b" } }
    local list, counts, _, tok = build(rows, { max_length = 8 })
    assert.equal("789 yes<eos>", texts(tok, list[1]))
    assert.equal(" yes<eos>", select(2, texts(tok, list[1])))
    assert.same({ rows = 2, truncated = 1, dropped = 0 }, counts)
  end)

  it("keeps its BOS", function()
    local list, _, _, tok = build({ { input = "0123456789", output = "yes" } }, { max_length = 8 }, "bos")
    assert.equal("<bos>89 yes<eos>", texts(tok, list[1]))
  end)

  it("is dropped on request, and counted", function()
    local list, counts = build({ { input = "0123456789", output = "yes" } }, { max_length = 8, truncation = "drop" })
    assert.same({}, list)
    assert.same({ rows = 1, truncated = 0, dropped = 1 }, counts)
  end)

  it("is refused by number when its answer alone does not fit", function()
    local rows = { { input = "a", output = "b" }, { input = "a", output = "much too long" } }
    expect.fails("data", "row 2: its answer alone is longer than max_length 8", build(rows, { max_length = 8 }))
  end)
end)

describe("the gate", function()
  after_each(temp.clean)

  local function check(rows, change, content)
    local list, counts, _, tok = build(rows, nil, content)
    if change then change(list, tok) end
    return gate.check(list, counts, tok)
  end

  it("counts rows, tokens and supervised tokens", function()
    local report = assert(check { { input = "ask:", output = "yes" }, { input = "a", output = "b" } })
    assert.equal(2, report.rows)
    assert.equal(8 + 3, report.tokens)
    assert.equal(5 + 3, report.supervised)
    assert.equal(9, report.longest)
    assert.equal(6.5, report.mean_length)
    assert.same({ row = 1, prompt = "ask:", answer = " yes<eos>",
      pieces = { { text = "ask:", weight = 0 }, { text = " yes<eos>", weight = 1 } } }, report.sample)
  end)

  for _, case in ipairs {
    { "an empty data set", {}, "the dataset is empty" },
    { "an empty answer", { { input = "a", output = "b" }, { input = "a", output = "" } },
      "row 2 has no supervised token" },
    { "a weight of 0", { { input = "a", output = "b", weight = 0 } }, "row 1 has no supervised token" },
    { "an end that is not supervised", { { input = "a", output = "b" } },
      "row 1 does not end in a supervised end token",
      function(list) table.remove(list[1].tokens); table.remove(list[1].weights) end },
    { "a doubled BOS", { { input = "a", output = "b" } }, "row 1 begins with two BOS tokens",
      function(list) table.insert(list[1].tokens, 1, fake.BOS); table.insert(list[1].weights, 1, 0) end, "bos" },
  } do
    it("stops " .. case[1], function() expect.fails("data", case[3], check(case[2], case[4], case[5])) end)
  end

  it("names the first faulty rows and counts the others", function()
    local rows = {}
    for i = 1, 9 do rows[i] = { input = "a", output = "" } end
    local _, message = check(rows)
    assert.truthy(message:find("row 5 has no", 1, true))
    assert.truthy(message:find("and 4 more rows", 1, true))
  end)
end)

describe("the seam between prompt and answer", function()
  it("is one space where neither side has white space", function()
    assert.equal(" ", tokenizer.seam("a", "b"))
    assert.equal("", tokenizer.seam("a ", "b"))
    assert.equal("", tokenizer.seam("a", "\tb"))
    assert.equal("", tokenizer.seam("", "b"))
  end)
end)
