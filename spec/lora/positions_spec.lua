-- Stretches of an output as positions of tokens, on every tokenizer of the fixtures.
local datums = require "crucible.lora.datums"
local expect = require "spec.support.expect"
local tokenizer = require "crucible.tokenizer"
local tokenizers = require "spec.support.tokenizers"

local OUTPUT = "CLAIM[c1]: naïve \u{2003}Å 12\nCLAIM[c10] (Document 13734012): b\nRELATION: c10 refutes c1"

tokenizers.each(function(name, tok)
  describe("positions of spans with " .. name, function()
    local function datum_of(input, output) return assert(datums.row(tok, { input = input, output = output }, {})) end

    local function text_at(datum, position)
      return tok:decode(table.move(datum.tokens, position[1], position[2], 1, {}))
    end

    it("spell the span, with what else their first and last tokens hold", function()
      local datum = datum_of("Passage:", OUTPUT)
      for _, word in ipairs { "c1", "c10", "13734012", "refutes", "naïve", "\u{2003}", "Å" } do
        local first, last = OUTPUT:find(word, 1, true)
        local position = datums.positions(tok, datum, { { first, last } })[1]
        assert.truthy(text_at(datum, position):find(word, 1, true), word)
        for p = position[1], position[2] do assert.truthy(#text_at(datum, { p, p }) > 0) end
        local inner = text_at(datum, { position[1] + 1, position[2] - 1 })
        assert.truthy(#inner <= #word, word)
      end
    end)

    it("tile the output, wherever it is cut", function()
      for _, seam in ipairs { "Passage:", "Passage:\n", "" } do
        local datum = datum_of(seam, OUTPUT)
        for cut = 1, #OUTPUT - 1 do
          local both = datums.positions(tok, datum, { { 1, cut }, { cut + 1, #OUTPUT } })
          local before = text_at(datum, { datum.prompt_length + 1, both[1][1] - 1 })
          assert.truthy(#before <= datum.seam) -- the seam may be a token of its own
          assert.truthy(both[2][1] == both[1][2] or both[2][1] == both[1][2] + 1)
          assert.equal(#datum.tokens - (tok.eos and 1 or 0), both[2][2])
        end
      end
    end)

    it("stand bytes that are no text and that have no token", function()
      local output = "a\xff\xc0b\xed\xb0\x84c\x04d"
      local datum = datum_of("p", output)
      for at = 1, #output do
        local position = datums.positions(tok, datum, { { at, at } })[1]
        assert.truthy(position[1] <= position[2] and position[2] < #datum.tokens)
      end
      for _, letter in ipairs { "b", "c", "d" } do
        local at = output:find(letter, 1, true)
        assert.truthy(text_at(datum, datums.positions(tok, datum, { { at, at } })[1]):find(letter, 1, true))
      end
    end)

    it("are refused outside the output", function()
      local datum = datum_of("p", "abc")
      for _, span in ipairs { { 0, 1 }, { 2, 1 }, { 1, 999 }, { 1 } } do
        expect.raises("datums.positions: span 1 is", datums.positions, tok, datum, { span })
      end
    end)
  end)

  describe("encode_all with " .. name, function()
    local texts = { "", "one", OUTPUT, ("x "):rep(50000), "\xff\xfe", "", "last" }

    it("gives what encode gives, at any number of threads", function()
      for _, threads in ipairs { 1, 2, 3 } do
        local all = assert(tok:encode_all(texts, false, threads))
        assert.equal(#texts, #all)
        for i, text in ipairs(texts) do
          assert.equal(table.concat(tok:encode(text), " "), table.concat(all[i], " "))
        end
      end
    end)

    it("parses special tokens on request, and takes no texts", function()
      local eos = tok:decode { tok.eos }
      assert.same({ { tok.eos }, { tok.eos } }, tok:encode_all({ eos, eos }, true))
      assert.truthy(#tok:encode_all({ eos })[1] > 1)
      assert.same({}, tok:encode_all {})
    end)

    it("refuses what is no list of texts", function()
      expect.raises("texts[2]: expected a string, got number", tok.encode_all, tok, { "a", 5 })
      expect.raises("texts: expected a list, got string", tok.encode_all, tok, "a")
      expect.raises("threads: expected 0 to 1024", tok.encode_all, tok, {}, false, -1)
    end)
  end)
end)

describe("the tokenizers of the specs", function()
  it("are several", function() assert.truthy(tokenizers.count() >= 4) end)
  it("know the seam", function() assert.equal(" ", tokenizer.seam("a", "b")) end)
end)
