-- What a tokenizer.json does to text before it is split: composition (NFC), and the space before words.
local chat = require "crucible.chat"
local core = require "crucible.core"
local family_model = require "support.family_model"
local temp = require "support.temp"
local tokenizer = require "crucible.tokenizer"

local SPACE = "\u{2581}"

local function wrapped(document)
  local folder = temp.folder()
  family_model.write_folder("qwen2", folder, { tokenizer = document })
  return tokenizer.wrap(assert(core.open_model(folder)):tokenizer())
end

local function byte_level(normaliser)
  local document = family_model.tokenizer_json()
  document.normalizer = normaliser
  return wrapped(document)
end

describe("A tokenizer that composes", function()
  local composing, plain
  setup(function()
    composing, plain = byte_level { type = "NFC" }, byte_level(nil)
  end)
  teardown(temp.clean)

  it("says so", function()
    assert.is_true(composing:info().composes)
    assert.is_false(plain:info().composes)
  end)

  for title, pair in pairs {
    ["letters and accents"] = { "e\u{301}a\u{30A}", "\u{E9}\u{E5}" },
    ["accents in another order"] = { "a\u{307}\u{323}", "\u{1EA1}\u{307}" },
    ["syllables of Hangul"] = { "\u{1112}\u{1161}\u{11AB}", "\u{D55C}" },
    ["letters with a twin"] = { "\u{212B}\u{2126}", "\u{C5}\u{3A9}" },
    ["text between stray bytes"] = { "\xFFe\u{301}\xCC\xFEo\u{308}", "\xFF\u{E9}\xCC\xFE\u{F6}" },
    ["text that is composed"] = { "na\u{EF}ve \u{FB01} \u{1F600}", "na\u{EF}ve \u{FB01} \u{1F600}" },
  } do
    it("reads " .. title .. " as their composed form", function()
      assert.same(plain:encode(pair[2]), composing:encode(pair[1]))
      assert.equal(pair[2], composing:decode(composing:encode(pair[1])))
      assert.same({ plain:encode(pair[2]) }, composing:encode_all { pair[1] })
    end)
  end

  it("composes nothing across a special token", function()
    local ids = composing:encode("e<|im_end|>\u{301}", true)
    assert.equal("e<|im_end|>\u{301}", composing:decode(ids))
    assert.equal(composing:find "<|im_end|>", ids[#plain:encode "e" + 1])
  end)
end)

describe("The space before words", function()
  local size

  -- A SentencePiece vocabulary as large as the model's.
  local function pieces(document)
    local vocabulary, count = {}, 0
    local function add(token)
      vocabulary[token], count = count, count + 1
    end
    for _, token in ipairs { "<unk>", "<|im_start|>", "<|im_end|>" } do add(token) end
    for byte = 0, 255 do add(("<0x%02X>"):format(byte)) end
    for _, token in ipairs { SPACE, "a", "b", SPACE .. "a" } do add(token) end
    while count < size do add("filler" .. count) end
    document.model = { type = "BPE", byte_fallback = true, vocab = vocabulary, merges = { SPACE .. " a" } }
    document.added_tokens = {}
    for id, token in ipairs { "<unk>", "<|im_start|>", "<|im_end|>" } do
      document.added_tokens[id] = { id = id - 1, content = token, special = true }
    end
    return wrapped(document)
  end

  setup(function()
    size = 0
    for _ in pairs(family_model.tokenizer_json().model.vocab) do size = size + 1 end
    assert.truthy(size >= 263)
  end)
  teardown(temp.clean)

  local replace = { type = "Replace", pattern = { String = " " }, content = SPACE }
  local schemes = {
    -- how, the prompt of "a", that of " a", and of a template with special tokens before, and after: "a" and "b"
    ["of Llama 2's normaliser stands everywhere"] = { { normalizer = { type = "Sequence",
      normalizers = { { type = "Prepend", prepend = SPACE }, replace } } }, " a", "  a", " a<|im_end|> b" },
    ["of Metaspace stands where there is none"] = { { pre_tokenizer = { type = "Metaspace", replacement = SPACE,
      prepend_scheme = "always" } }, " a", " a", " a<|im_end|> b" },
    ["of Metaspace at the first stands at the beginning alone"] = { { pre_tokenizer = { type = "Metaspace",
      replacement = SPACE, prepend_scheme = "first" } }, " a", " a", "a<|im_end|>b" },
    ["of Gemma is none"] = { { normalizer = replace }, "a", " a", "a<|im_end|>b" },
  }
  for title, scheme in pairs(schemes) do
    it(title, function()
      local tok = pieces(scheme[1])
      assert.equal(scheme[2], tok:decode(tok:prompt "a"))
      assert.equal(scheme[3], tok:decode(tok:prompt " a"))
      tok.chat_template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}b"
      local ids = assert(chat.prompt_ids(tok, { { role = "user", content = "a" } }))
      assert.equal("<|im_start|>" .. scheme[4], tok:decode(ids))
    end)
  end
end)
