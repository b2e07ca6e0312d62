-- What holds for every formatter and every tokenizer: the prompt is a prefix, the end is supervised, one BOS,
-- and the mask covers the answer alone.
local chat = require "crucible.chat"
local dataset_integration = require("crucible").lora.dataset_integration
local datums = require "crucible.lora.datums"
local tokenizers = require "spec.support.tokenizers"

local dialogue = {
  { role = "user", content = "What is 2+2?" }, { role = "assistant", content = "4, naïvely." },
  { role = "user", content = "\nAnd 3+3?\n" }, { role = "assistant", content = "  It's 6" },
}

-- Raw rows by formatter, with what is hard: seams, white space, no letters, bytes that are no text.
local raw = {
  scifact = { { id = 1, claim = "It's so.", evidence = { "a 12.", "\u{2003}b" }, evidence_ids = { 3 },
    label = "SUPPORT" } },
  fever = { { id = 5, claim = "c", label = "NOT ENOUGH INFO" } },
  gsm8k = { { question = "q 48/2?", answer = "48/2=<<48/2=24>>24\n#### 24" }, { question = "", answer = "\n\n7" } },
  scifact_cns = { { id = 2, claim = "So?", documents = { { id = 9, title = "T", abstract = "a b." } },
    evidence = { { document = 9, text = "a b.", label = "CONTRADICT" } }, evidence_ids = { 9 },
    label = "CONTRADICT" } },
  alpaca = { { instruction = "Add\t", input = "1  2", output = "3" }, { instruction = "x", output = " y" } },
  chat = { { messages = dialogue } },
  preference = { { prompt = "p", chosen = "yes!", rejected = "\tno" },
    { prompt = "p\xff\xfe", chosen = { { role = "assistant", content = "c" } },
      rejected = { { role = "assistant", content = "d" } } } },
  text = { { text = "Zażółć gęślą jaźń, 12345 'twas" }, { text = "   " } },
}

local function rows_of(name, options)
  local given = { formatter = name }
  for key, value in pairs(options or {}) do given[key] = value end
  return assert(dataset_integration.prepare_dataset(raw[name], given))
end

local function ids(list, first, last) return table.concat(table.move(list, first, last, 1, {}), " ") end

local function bos_at_front(tok, tokens)
  local count = 0
  while tokens[count + 1] == tok.bos do count = count + 1 end
  return count
end

-- Supervised and other tokens as text, special tokens left out.
local function texts(tok, datum)
  local supervised, rest = {}, { datum.tokens[1] }
  for i, weight in ipairs(datum.weights) do
    local list = weight ~= 0 and supervised or rest
    list[#list + 1] = datum.tokens[i + 1]
  end
  return tok:decode(supervised, true), tok:decode(rest, true)
end

local function end_token(tok, row)
  if not row.messages then return tok.eos end
  local renderer = chat.choose(tok, row.template)
  return renderer.close and tok:find(renderer.close) or tok.eos
end

local function check(tok, row, datum)
  local prompt = datums.prompt(tok, row)
  assert.equal(ids(prompt, 1, #prompt), ids(datum.tokens, 1, datum.prompt_length))
  assert.equal(end_token(tok, row), datum.tokens[#datum.tokens])
  assert.not_equal(0, datum.weights[#datum.weights])
  if tok.add_bos then assert.equal(1, bos_at_front(tok, datum.tokens)) end
  assert.equal(#datum.tokens - 1, #datum.weights)
end

it("every formatter has raw rows here", function()
  for _, name in ipairs(dataset_integration.formatters()) do
    if not name:find "^upper$" then assert.is_table(raw[name], name) end
  end
end)

tokenizers.each(function(tokenizer_name, tok)
  describe("with " .. tokenizer_name, function()
    for name in pairs(raw) do
      it(name .. " has the prompt as prefix, a supervised end and one BOS", function()
        local rows = rows_of(name)
        for i, datum in ipairs((assert(datums.build(tok, rows)))) do check(tok, rows[i], datum) end
      end)

      it(name .. " is masked on all but the answer", function()
        local rows = rows_of(name)
        for i, datum in ipairs((assert(datums.build(tok, rows)))) do
          local row = rows[i]
          if not row.messages and (row.input ~= "" or tok.add_bos) then
            local supervised, rest = texts(tok, datum)
            assert.equal(row.output, supervised:sub(datum.seam + 1))
            assert.equal((tok.space_prefix and row.input ~= "" and " " or "") .. row.input, rest)
          end
        end
      end)

      it(name .. " keeps its answer when its prompt is cut", function()
        local rows = rows_of(name)
        for i, whole in ipairs((assert(datums.build(tok, rows)))) do
          for _, less in ipairs { 1, 3 } do
            local limit = #whole.tokens - less
            local datum, why, truncated = datums.row(tok, rows[i], { max_length = limit, truncation = "left" })
            if datum then
              assert.is_true(truncated)
              assert.equal(limit, #datum.tokens)
              local answer = #whole.tokens - whole.prompt_length
              assert.equal(ids(whole.tokens, whole.prompt_length + 1, #whole.tokens),
                ids(datum.tokens, limit - answer + 1, limit))
              assert.equal(ids(whole.weights, #whole.weights - answer + 1, #whole.weights),
                ids(datum.weights, #datum.weights - answer + 1, #datum.weights))
              if tok.add_bos then assert.equal(1, bos_at_front(tok, datum.tokens)) end
            else
              assert.equal("answer", why)
            end
          end
        end
      end)
    end

    for _, template in ipairs(chat.renderers()) do
      it("a conversation as " .. template .. " has all of it, and comes back", function()
        if not chat.choose(tok, template) then return end
        local row = rows_of("chat", { template = template })[1]
        local datum = assert(datums.row(tok, row, {}))
        check(tok, row, datum)
        local answer = tok:decode(table.move(datum.tokens, datum.prompt_length + 1, #datum.tokens, 1, {}))
        local message, finished = chat.parse(chat.renderer(template), answer, tok:decode { tok.eos })
        local expected = dialogue[4].content
        assert.is_true(finished)
        assert.equal(chat.renderer(template).trim and expected:match "^%s*(.-)$" or expected, message.content)
        for _, mode in ipairs { "last_assistant", "all_assistants", "all" } do
          local weighed = assert(datums.row(tok, row, { train_on = mode }))
          assert.equal(ids(datum.tokens, 1, #datum.tokens), ids(weighed.tokens, 1, #weighed.tokens))
        end
      end)
    end
  end)
end)
