-- The gate on planted faults, over the whole way from raw rows, and how its findings read.
local crucible = require "crucible"
local dataset_integration = crucible.lora.dataset_integration
local expect = require "spec.support.expect"
local gate = require "crucible.lora.gate"
local gate_view = require "crucible.lora.gate_view"
local inspection = require "crucible.lora.inspection"
local temp = require "spec.support.temp"
local tokenizers = require "spec.support.tokenizers"

local tok, bos_tok = tokenizers.open("smollm", false), tokenizers.open("gpt2", true)
local bos_text = bos_tok:decode { bos_tok.bos }
local good = { input = "Ask:", output = "yes" }

describe("the gate stops", function()
  after_each(temp.clean)

  for _, case in ipairs {
    { "an empty answer", { good, { input = "Ask:", output = "" } }, {}, "row 2 has no supervised token" },
    { "a conversation of which nothing is trained", { { messages = { { role = "user", content = "a" },
      { role = "assistant", content = "b" } } } }, { train_on = "custom" },
      "row 1 has no supervised token: none of its messages is trained" },
    { "a conversation without an answer", { { messages = { { role = "user", content = "a" } } } }, {},
      "row 1 has no supervised token: none of its messages is trained" },
    { "a truncation that would cut the answer", { good, { input = "Ask:", output = ("long "):rep(50) } },
      { max_length = 20 }, "row 2: its answer alone is longer than max_length 20" },
    { "text that is not UTF-8", { good, { input = "Ask\xff:", output = "yes" } }, {},
      "row 2 input is not UTF-8 at byte 4" },
    { "a message that is not UTF-8", { { messages = { { role = "user", content = "a\xc3" },
      { role = "assistant", content = "b" } } } }, {}, "row 1 message 1 is not UTF-8 at byte 2" },
    { "a weight that is no number to learn by", { { input = "a", output = "b", weight = 0 / 0 } }, {},
      'row 1: "weight" is not a finite number' },
  } do
    it(case[1], function() expect.fails("data", case[4], inspection.run(tok, case[2], case[3])) end)
  end

  it("a BOS in the text, where the tokeniser step adds one", function()
    expect.fails("data", "row 1 begins with the text of BOS, " .. bos_text,
      inspection.run(bos_tok, { { input = bos_text .. "Ask:", output = "yes" } }))
  end)

  it("a row of another schema, naming key and row", function()
    local path = temp.file(temp.folder(), "rows.jsonl", '{"question":"q","answer":"a"}\n{"claim":"c"}\n')
    expect.fails("data", 'rows.jsonl: row 2: "question" is missing, expected a string',
      inspection.run(tok, path, { formatter = "gsm8k" }))
  end)

  it("every faulty row, the first of them by number", function()
    local rows = {}
    for i = 1, 8 do rows[i] = { input = "a", output = i % 2 == 0 and "" or "\xff" } end
    local _, message = inspection.run(tok, rows)
    assert.truthy(message:find("row 1 output is not UTF-8 at byte 1; row 2 has no", 1, true))
    assert.truthy(message:find("and 3 more rows", 1, true))
  end)
end)

describe("the gate warns", function()
  local function warnings(rows, options, evaluation)
    if evaluation then
      local name = ("gate_spec_%d"):format(#dataset_integration.datasets())
      local splits = { train = rows, test = evaluation }
      dataset_integration.register_dataset(name, { splits = { "train", "test" }, open = function(_, split)
        local at = 0
        return function()
          at = at + 1
          if splits[split][at] then return splits[split][at], at end
        end, name
      end })
      rows = name
    end
    local report = assert(inspection.run(tok, rows, options)).report
    return table.concat(report.warnings, "\n"), report
  end

  it("of training rows among the evaluation rows", function()
    local other = { input = "Ask:", output = "no" }
    local text, report = warnings({ other, good, other }, {}, { good, { input = "x", output = "y" } })
    assert.truthy(text:find("1 row stands among the evaluation rows too: 2", 1, true))
    assert.equal(1, report.overlap)
    assert.equal(0, select(2, warnings({ good }, {}, { other })).overlap)
    assert.is_nil(select(2, warnings { good }).overlap)
  end)

  it("of rows that repeat", function()
    local text, report = warnings { good, good, { input = "Ask", output = ":yes" }, good }
    assert.truthy(text:find("2 rows repeat an earlier one: 2, 4", 1, true))
    assert.equal(2, report.duplicates)
  end)

  it("of special tokens spelt in a text", function()
    local eos = tok:decode { tok.eos }
    local text = warnings { good, { input = "a", output = "b" .. eos } }
    assert.truthy(text:find("row 2 output holds the text of a special token, " .. eos, 1, true))
    local by_hand = warnings { { input = tok:decode { tok.bos } .. "user\nAsk", output = "yes" } }
    assert.truthy(by_hand:find("row 1 input holds the text of a special token", 1, true))
  end)

  it("of prompts that are cut and rows left out", function()
    local long = { input = ("word "):rep(100), output = "yes" }
    assert.truthy(warnings({ good, long }, { max_length = 40 }):find("1 row loses the left of the prompt", 1, true))
    assert.truthy(warnings({ good, long }, { max_length = 40, truncation = "drop" })
      :find("1 row is left out as too long", 1, true))
  end)

  it("of one row in SciFact, which stands twice in the released claims", function()
    for _, name in ipairs { "scifact", "scifact_cns" } do
      local found = assert(inspection.run(tok, name))
      assert.equal("1 row repeats an earlier one: 29", table.concat(found.report.warnings, "\n"))
      assert.equal(0, found.report.overlap)
      assert.equal(505, found.report.trained_rows)
    end
  end)
end)

describe("the gate counts", function()
  it("quantiles of lengths and the share of padding", function()
    local rows = {}
    for i = 1, 20 do rows[i] = { input = ("a"):rep(i), output = "b" } end
    local report = assert(inspection.run(tok, rows, { batch_size = 20 })).report
    local found = assert(inspection.run(tok, rows)).datums
    assert.equal(#found[20].tokens, report.lengths[#report.lengths].tokens)
    assert.equal(#found[1].tokens, report.lengths[1].tokens)
    local sum, longest = 0, 0
    for _, datum in ipairs(found) do sum, longest = sum + #datum.tokens, math.max(longest, #datum.tokens) end
    assert.near(1 - sum / (20 * longest), report.padding, 1e-12)
    assert.equal(0, gate.padding({ 5, 5, 5 }, 2))
    assert.near(1 / 4, gate.padding({ 4, 2 }, 2), 1e-12)
    assert.equal(0, gate.padding({}, 2))
  end)
end)

describe("the gate's findings", function()
  local report = assert(inspection.run(tok, { { input = "Ask\27[2J:", output = "yes" }, good, good })).report

  it("show row 1 with its mask, in colour or by brackets", function()
    local eos = tok:decode { tok.eos }
    assert.equal("row 1, trained between ⟪ and ⟫:\nAsk?[2J:⟪ yes" .. eos .. "⟫\n", gate_view.sample(report, false))
    assert.equal("row 1, trained in green:\n\27[2mAsk?[2J:\27[0m\27[32m yes" .. eos .. "\27[0m\n",
      gate_view.sample(report, true))
  end)

  it("show a long prompt without its middle", function()
    local long = assert(inspection.run(tok, { { input = ("é"):rep(5000), output = "yes" } })).report
    local text = gate_view.sample(long, false)
    assert.truthy(text:find("… 4200 characters more …", 1, true))
    assert.truthy(utf8.len(text) < 1300)
  end)

  it("name counts and warnings", function()
    local text = gate_view.text(report, false)
    for _, part in ipairs { "3, of which 3 are trained", "warning: 1 row repeats an earlier one: 3", "not compared" } do
      assert.truthy(text:find(part, 1, true), part)
    end
  end)
end)
