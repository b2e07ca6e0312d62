-- Encoders beside transformers: ids, vectors and logits of two small random models, and of all-MiniLM-L6-v2
-- where it was fetched (scripts/make_encoder_fixtures.py); what a broken folder is told.
local core = require "crucible.core"
local expect = require "spec.support.expect"
local json = require "crucible.json"
local models = require "spec.support.models"
local temp = require "spec.support.temp"

local FOLDER = "spec/fixtures/encoder"
local golden = json.decode(temp.read(FOLDER .. "/golden.json"))

local function largest_difference(expected, found)
  local largest = 0
  assert.equal(#expected, #found)
  for i, row in ipairs(expected) do
    for c, value in ipairs(row) do largest = math.max(largest, math.abs(value - found[i][c])) end
  end
  return largest
end

for _, name in ipairs { "bert", "roberta" } do
  describe("a random " .. name, function()
    local encoder

    before_each(function() encoder = assert(core.open_encoder(FOLDER .. "/" .. name, { threads = 2 })) end)
    after_each(function() encoder:close() end)

    it("says what it is", function()
      local info = encoder:info()
      assert.same({ name, name == "bert" and "wordpiece" or "bpe", "mean", true, 2, 24, 3, 40, 40 },
        { info.family, info.tokenizer, info.pooling, info.normalises, info.layers, info.width, info.heads,
          info.ffn_width, info.context })
      assert.same(golden.labels, info.labels)
      assert.matches("^crucible%.encoder%(" .. name .. "; 2 layers of 24, 3 labels%)$", tostring(encoder))
    end)

    it("has transformers' ids, cut at the same place", function()
      for i, text in ipairs(golden.texts) do assert.same(golden[name].ids[i], (encoder:tokens(text))) end
      for i, pair in ipairs(golden.pairs) do
        assert.same(golden[name].pair_ids[i], (encoder:tokens(pair[1], pair[2])))
      end
      local ids, cut = encoder:tokens(("."):rep(100))
      assert.equal(40, #ids)
      assert.equal(100 + 2 - 40, cut)
    end)

    it("has transformers' vectors and logits", function()
      assert.is_true(largest_difference(golden[name].vectors, assert(encoder:embed(golden.texts))) < 5e-6)
      assert.is_true(largest_difference(golden[name].logits, assert(encoder:classify(golden.pairs))) < 2e-4)
    end)

    it("gives a text the same bytes whatever stands beside it, at any threads", function()
      local all = assert(encoder:embed(golden.texts))
      local other <close> = assert(core.open_encoder(FOLDER .. "/" .. name, { threads = 1 }))
      for i, text in ipairs(golden.texts) do
        assert.same(all[i], assert(encoder:embed { text })[1])
        assert.same(all[i], assert(other:embed { text })[1])
      end
      local many = {}
      for i = 1, 150 do many[i] = golden.texts[i % #golden.texts + 1] end
      for i, vector in ipairs(assert(encoder:embed(many))) do assert.same(all[i % #golden.texts + 1], vector) end
    end)

    it("takes the text of special tokens for text", function()
      for _, special in ipairs { "[SEP]", "</s>" } do
        for _, id in ipairs(assert(encoder:tokens(special))) do assert.is_true(id < 160 or id ~= 2) end
        assert.is_true(#assert(encoder:tokens(special)) > 3)
      end
    end)

    it("takes any bytes and no texts at all", function()
      assert.same({}, assert(encoder:embed {}))
      for _, bytes in ipairs { "\0", "\xFF\xFE", "a\xC3", ("\xF0\x9F"):rep(40), ("x"):rep(5000) } do
        assert.equal(24, #assert(encoder:embed { bytes })[1])
      end
    end)
  end)
end

describe("all-MiniLM-L6-v2", function()
  local path = models.minilm()
  if not path then
    pending "its folder was not fetched: scripts/fetch_encoder all-minilm-l6-v2"
    return
  end

  it("has transformers' ids and vectors within 1e-5", function()
    local encoder <close> = assert(core.open_encoder(path))
    assert.equal(256, encoder:info().context)
    for i, text in ipairs(golden.texts) do assert.same(golden.minilm.ids[i], (encoder:tokens(text))) end
    assert.is_true(largest_difference(golden.minilm.vectors, assert(encoder:embed(golden.texts))) < 1e-5)
  end)
end)

describe("an encoder's folder", function()
  after_each(temp.clean)

  -- A copy of the BERT fixture with files changed: text in place of a file's, or a function of its text.
  local function folder(changes, name)
    local at = temp.folder()
    for _, file in ipairs { "config.json", "tokenizer.json", "model.safetensors", "vocab.txt" } do
      local from = ("%s/%s/%s"):format(FOLDER, name or "bert", file)
      local known = core.fs.stat(from)
      local text, change = known and temp.read(from), changes[file]
      if type(change) == "function" then text = change(text) elseif change ~= nil then text = change end
      if text then temp.file(at, file, text) end
    end
    for file, text in pairs(changes) do
      if file:find("/", 1, true) or file:find("modules", 1, true) or file:find("sentence", 1, true) then
        temp.file(at, file, text)
      end
    end
    return at
  end

  local function replace(pattern, with)
    return function(text)
      local out, count = text:gsub(pattern, with)
      assert.is_true(count > 0, pattern)
      return out
    end
  end

  it("may have a vocab.txt in place of tokenizer.json", function()
    local encoder <close> = assert(core.open_encoder(folder { ["tokenizer.json"] = false }))
    for i, text in ipairs(golden.texts) do assert.same(golden.bert.ids[i], (encoder:tokens(text))) end
  end)

  it("says itself how a vector is made", function()
    local changes = {
      ["modules.json"] = '[{"type": "sentence_transformers.models.Transformer"}, {"type": "a.Pooling"}]',
      ["1_Pooling/config.json"] = '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}',
      ["sentence_bert_config.json"] = '{"max_seq_length": 9}',
    }
    local first <close> = assert(core.open_encoder(folder(changes)))
    local info = first:info()
    assert.same({ "cls", false, 9 }, { info.pooling, info.normalises, info.context })
    changes["1_Pooling/config.json"] = '{"pooling_mode_max_tokens": true}'
    local largest <close> = assert(core.open_encoder(folder(changes)))
    local one, other = assert(first:embed { "cells" })[1], assert(largest:embed { "cells" })[1]
    for c = 1, 24 do assert.is_true(one[c] <= other[c]) end
    assert.not_same(one, other)
  end)

  local refused = {
    { "without a config", { ["config.json"] = false }, "not_found", "config.json" },
    { "without weights", { ["model.safetensors"] = false }, "not_found", "model.safetensors" },
    { "without a tokenizer", { ["tokenizer.json"] = false, ["vocab.txt"] = false }, "not_found",
      "expected a tokenizer.json or a vocab.txt" },
    { "of another family", { ["config.json"] = replace('"bert"', '"gpt2"') }, "unsupported",
      "config.json: model_type is 'gpt2': supported is bert or roberta" },
    { "with a size that cannot be",
      { ["config.json"] = replace('"num_hidden_layers": 2', '"num_hidden_layers": -1') },
      "format", "num_hidden_layers is -1: expected an integer from 1 to 1024" },
    { "with heads that do not divide",
      { ["config.json"] = replace('"num_attention_heads": 3', '"num_attention_heads": 5') },
      "format", "hidden_size 24 is no multiple of num_attention_heads 5" },
    { "with another activation", { ["config.json"] = replace('"gelu"', '"silu"') }, "unsupported",
      "hidden_act is 'silu': supported is gelu, gelu_new, gelu_pytorch_tanh or relu" },
    { "with layers that are not there",
      { ["config.json"] = replace('"num_hidden_layers": 2', '"num_hidden_layers": 3') },
      "format", "model.safetensors: tensor bert.encoder.layer.2.attention.self.query.weight is missing" },
    { "of another width", { ["config.json"] = replace('"hidden_size": 24', '"hidden_size": 27') }, "format",
      "tensor bert.embeddings.word_embeddings.weight has 2 dimensions" },
    { "with more labels than outputs", { ["config.json"] = replace('"2": "neutral"', '"2": "neutral", "3": "x"') },
      "format", "the classifier has 3 outputs, id2label in config.json has 4" },
    { "with a config that is no JSON", { ["config.json"] = "{" }, "format", "config.json: " },
    { "with another kind of tokenizer", { ["tokenizer.json"] = replace('"WordPiece"', '"Unigram"') }, "unsupported",
      "tokenizer.json: model.type is 'Unigram': supported is WordPiece or BPE" },
    { "with another normaliser", { ["tokenizer.json"] = replace('"BertNormalizer"', '"NFKC"') }, "unsupported",
      "normalizer is 'NFKC': supported is BertNormalizer" },
    { "with a hole in its vocabulary", { ["tokenizer.json"] = replace('"adults": %d+', '"adults": 5000') }, "format",
      "token 'adults' has the id 5000: expected 0 to" },
    { "whose tokenizer has more tokens than rows",
      { ["config.json"] = replace('"vocab_size": %d+', '"vocab_size": 7') },
      "format", "tokens, config.json a vocab_size of 7" },
    { "with an unknown token that is none",
      { ["tokenizer.json"] = replace('"unk_token": "%[UNK%]"', '"unk_token": "zzz"') },
      "format", "the vocabulary has no token 'zzz'" },
    { "with another pooling", { ["1_Pooling/config.json"] = '{"pooling_mode_lasttoken": true}' }, "unsupported",
      "pooling_mode_lasttoken: supported is the mean, cls or max of tokens" },
    { "with another module", { ["modules.json"] = '[{"type": "sentence_transformers.models.Dense"}]' }, "unsupported",
      "module 'Dense': supported is Transformer, Pooling and Normalize" },
    { "with rows too short", { ["sentence_bert_config.json"] = '{"max_seq_length": 3}' }, "format",
      "rows of 3 tokens leave no room for text" },
  }
  for _, case in ipairs(refused) do
    it("is refused " .. case[1], function() expect.fails(case[3], case[4], core.open_encoder(folder(case[2]))) end)
  end

  it("is refused for every truncation of its tokenizer and its config", function()
    for _, file in ipairs { "tokenizer.json", "config.json" } do
      for _, share in ipairs { 0, 0.1, 0.5, 0.9, 0.99 } do
        local cut = function(text) return text:sub(1, #text * share // 1) end
        local encoder, message, code = core.open_encoder(folder { [file] = cut })
        assert.is_nil(encoder)
        assert.equal("format", code, message)
      end
    end
  end)

  it("keeps a merge that cannot be out", function()
    expect.fails("format", "model.merges[0]", core.open_encoder(folder({
      ["tokenizer.json"] = replace('"merges": %[.-%]', '"merges": [["a", "zz"]') }, "roberta")))
  end)
end)
