-- Text to ids and back, as Lua sees it. What the ids are is the text floor's business.

local expect = require "spec.support.expect"
local bind = require "spec.support.bind"

describe("Tokenizer", function()
  local model, tokenizer

  before_each(function()
    model = bind.model()
    tokenizer = model:tokenizer()
  end)

  after_each(function() model:close() end)

  it("decodes what it encoded, whatever the bytes", function()
    for _, text in ipairs({ "", "hello", "a\0b", "\xff\xfe\x80", ("the "):rep(500), "\r\n\t  x" }) do
      local ids = assert(tokenizer:encode(text))
      assert.equal(text, tokenizer:decode(ids))
    end
  end)

  it("gives ids of the vocabulary as integers", function()
    local size = tokenizer:info().size
    for _, id in ipairs(assert(tokenizer:encode("some text of its own"))) do
      assert.equal("integer", math.type(id))
      assert.truthy(id >= 0 and id < size)
    end
  end)

  it("encodes many texts as it encodes one", function()
    local texts = { "some", "", "text \xff" }
    local all = assert(tokenizer:encode_all(texts, false, 2))
    for i, text in ipairs(texts) do assert.same(tokenizer:encode(text), all[i]) end
    expect.raises("texts[1]: expected a string, got boolean", tokenizer.encode_all, tokenizer, { false, "x" })
  end)

  it("tells where tokens end", function()
    local text = "some text of its own"
    local ids, at = tokenizer:encode(text), 0
    local ends = assert(tokenizer:ends(ids))
    for i, id in ipairs(ids) do
      assert.equal(tokenizer:decode { id }, text:sub(at + 1, ends[i]))
      at = ends[i]
    end
    assert.equal(#text, at)
    assert.same({}, tokenizer:ends {})
    expect.fails("argument", "99999", tokenizer:ends { 99999 })
  end)

  it("describes itself", function()
    local info = tokenizer:info()
    assert.equal("gpt2", info.model)
    assert.equal("smollm", info.pretokenizer)
    assert.equal("boolean", type(info.add_bos))
    for _, name in ipairs({ "bos", "eos", "pad", "unknown" }) do
      assert.truthy(info[name] == nil or math.type(info[name]) == "integer", name)
    end
  end)

  it("finds a token by its exact text, or nothing", function()
    local eos = tokenizer:info().eos
    assert.equal(eos, tokenizer:find(tokenizer:decode({ eos })))
    assert.is_nil(tokenizer:find("no token has this text"))
  end)

  it("tells special tokens from others and from ids that are none", function()
    assert.is_true(tokenizer:is_special(tokenizer:info().eos))
    assert.is_false(tokenizer:is_special(tokenizer:encode("a")[1]))
    assert.is_false(tokenizer:is_special(-1))
    assert.is_false(tokenizer:is_special(1 << 40))
  end)

  it("takes special tokens for their ids on request alone", function()
    local eos = tokenizer:info().eos
    local text = tokenizer:decode({ eos })
    assert.same({ eos }, tokenizer:encode(text, true))
    assert.truthy(#tokenizer:encode(text) > 1)
    assert.equal("", tokenizer:decode({ eos }, true))
  end)

  it("returns argument for an id outside the vocabulary", function()
    expect.fails("argument", "99999", tokenizer:decode({ 0, 99999 }))
    expect.fails("argument", "-1", tokenizer:decode({ -1 }))
  end)

  it("refuses what is no text and no list of ids", function()
    expect.raises("string expected, got table", tokenizer.encode, tokenizer, {})
    expect.raises("ids: expected a list, got string", tokenizer.decode, tokenizer, "abc")
    expect.raises("ids[2]: expected an integer of 32 bits, got 1.5", tokenizer.decode, tokenizer, { 1, 1.5 })
    expect.raises("ids[1]: expected an integer of 32 bits, got string", tokenizer.decode, tokenizer, { "1" })
    expect.raises("ids[1]: expected an integer of 32 bits, got 4294967296", tokenizer.decode, tokenizer, { 1 << 32 })
    expect.raises("string expected", tokenizer.find, tokenizer)
    expect.raises("number expected", tokenizer.is_special, tokenizer, "x")
  end)
end)
