-- SentencePiece BPE: a small vocabulary beside the definition, and what must hold for any bytes.
local core = require "crucible.core"
local expect = require "support.expect"
local gguf = require "support.gguf_metadata"
local temp = require "support.temp"
local tiny_model = require "support.tiny_model"

local NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
local SPACE = "\u{2581}"

-- Pieces by falling score; tokens of characters come last, as in trained vocabularies.
local PIECES = {
  SPACE .. "t", "he", SPACE .. "the", "in", SPACE .. "a", "er", "an", "\u{E9}r", SPACE .. SPACE, "th",
  SPACE, "t", "h", "e", "i", "n", "a", "r", "\u{E9}", "\u{1F600}", "o",
}

local function add(list, token, kind, score)
  list.tokens[#list.tokens + 1], list.types[#list.types + 1] = token, kind
  list.scores[#list.scores + 1] = score
end

local function vocabulary()
  local list = { tokens = {}, types = {}, scores = {} }
  add(list, "<unk>", UNKNOWN, 0)
  add(list, "<s>", CONTROL, 0)
  add(list, "</s>", CONTROL, 0)
  for byte = 0, 255 do add(list, ("<0x%02X>"):format(byte), BYTE, 0) end
  add(list, "\n\n", USER_DEFINED, 0)
  add(list, SPACE:rep(3), USER_DEFINED, 0)
  for rank, piece in ipairs(PIECES) do add(list, piece, NORMAL, -rank) end
  return list
end

local function floats(values)
  return string.pack("<I4I4I8", 9, 6, #values) .. string.pack("<" .. ("f"):rep(#values), table.unpack(values))
end

local function keys_of(list, more)
  local keys = {
    model = gguf.text "llama", tokens = gguf.texts(list.tokens), token_type = gguf.i32s(list.types),
    scores = floats(list.scores), merges = false, pre = false, add_space_prefix = false, add_bos_token = false,
    bos_token_id = gguf.u32(1), eos_token_id = gguf.u32(2),
  }
  for key, value in pairs(more or {}) do keys[key] = value end
  local out = {}
  for key, value in pairs(keys) do out["tokenizer.ggml." .. key] = value end
  return out
end

local function open(list, more)
  local path = temp.folder() .. "/spaces.gguf"
  gguf.copy(tiny_model.path, path, keys_of(list, more))
  local model, message, code = core.open_model(path)
  if not model then return nil, message, code end
  return model:tokenizer()
end

-- The definition: of all neighbours whose texts together are a piece, the one of the highest
-- score, leftmost first; then characters without a token become their bytes.
local function plain_tokens(text)
  local scores, parts = {}, {}
  for rank, piece in ipairs(PIECES) do scores[piece:gsub(SPACE, " ")] = -rank end
  for character in text:gmatch(utf8.charpattern) do parts[#parts + 1] = character end
  while true do
    local best, at = -math.huge, nil
    for i = 1, #parts - 1 do
      local score = scores[parts[i] .. parts[i + 1]]
      if score and score > best then best, at = score, i end
    end
    if not at then return parts, scores end
    parts[at] = parts[at] .. table.remove(parts, at + 1)
  end
end

local function plain_ids(tokenizer, text)
  local ids = {}
  local parts, scores = plain_tokens(text)
  for _, part in ipairs(parts) do
    if scores[part] then
      ids[#ids + 1] = tokenizer:find(part)
    else
      for byte in part:gmatch "." do ids[#ids + 1] = 3 + byte:byte() end
    end
  end
  return ids
end

describe("A SentencePiece tokenizer", function()
  local tokenizer
  setup(function() tokenizer = assert(open(vocabulary())) end)
  teardown(temp.clean)

  it("describes itself: a BOS and a space before the text unless the file says otherwise", function()
    local info = tokenizer:info()
    assert.equal("llama", info.model)
    assert.is_true(info.add_bos)
    assert.is_true(info.space_prefix)
    info = assert(open(vocabulary(), { add_bos_token = gguf.bool(false), add_space_prefix = gguf.bool(false) })):info()
    assert.is_false(info.add_bos)
    assert.is_false(info.space_prefix)
  end)

  it("merges by score, leftmost first, as the definition does", function()
    math.randomseed(3)
    local letters = { "t", "h", "e", " ", "i", "n", "a", "r", "\u{E9}", "z", "\u{4F60}" }
    for _, length in ipairs { 0, 1, 2, 3, 10, 40, 95, 96, 97, 300 } do
      for _ = 1, 10 do
        local parts = {}
        for i = 1, length do parts[i] = letters[math.random(#letters)] end
        local text = table.concat(parts):gsub("   +", "  ") -- three are a token of their own
        assert.same(plain_ids(tokenizer, text), tokenizer:encode(text), text)
      end
    end
  end)

  it("does not cut at spaces where a piece goes across them", function()
    local list = vocabulary()
    add(list, "e" .. SPACE .. "t", NORMAL, 1)
    local across = assert(open(list))
    local ids = across:encode "he the"
    assert.same({ across:find "h", across:find "e t", across:find "he" }, ids)
  end)

  it("cuts user-defined tokens out of every text, control tokens only when asked", function()
    assert.same({ tokenizer:find "a", tokenizer:find "\n\n", tokenizer:find "   ", tokenizer:find "t",
      tokenizer:find "he" }, tokenizer:encode "a\n\n   the")
    assert.same({ 1 }, tokenizer:encode("<s>", true))
    assert.is_true(#tokenizer:encode "<s>" > 1)
  end)

  it("gives back any bytes", function()
    math.randomseed(5)
    local texts = { "", " ", "\0", "\xFF\xC3", SPACE, " \u{1F600}\u{200D}x", ("a "):rep(5000), (" "):rep(10000) }
    for _ = 1, 50 do
      local bytes = {}
      for i = 1, math.random(60) do bytes[i] = string.char(math.random(0, 255)) end
      texts[#texts + 1] = table.concat(bytes)
    end
    for _, text in ipairs(texts) do
      for _, parse_special in ipairs { false, true } do
        assert.equal(text, tokenizer:decode(tokenizer:encode(text, parse_special)))
      end
    end
  end)

  it("keeps U+2581 of a text apart from a space", function()
    assert.same({ 3 + 0xE2, 3 + 0x96, 3 + 0x81 }, tokenizer:encode(SPACE))
    assert.same({ tokenizer:find " " }, tokenizer:encode " ")
  end)

  it("puts the space of a prompt before its first word, and none before an answer", function()
    local wrapped = require("crucible.tokenizer").wrap(tokenizer)
    assert.same({ 1, tokenizer:find " the" }, wrapped:prompt "the")
    assert.same({ 1 }, wrapped:prompt "")
    assert.same({ tokenizer:find " the" }, wrapped:answer("a:", "the"))
    assert.same({ tokenizer:find "t", tokenizer:find "he" }, wrapped:answer("a ", "the"))
  end)
end)

describe("A SentencePiece vocabulary is refused", function()
  teardown(temp.clean)

  it("without a token for a byte", function()
    local list = vocabulary()
    list.tokens[3 + 0x41 + 1] = "<0x41" -- no longer what a byte looks like
    expect.fails("format", "has no token <0x41>: expected one for each of the 256 bytes", open(list))
  end)

  it("with a score that is not a number", function()
    local list = vocabulary()
    list.scores[7] = 0 / 0
    expect.fails("format", "tokenizer.ggml.scores[6] is not a number", open(list))
  end)

  it("with another number of scores than tokens", function()
    local list = vocabulary()
    local tokens = #list.tokens
    list.scores[#list.scores] = nil
    expect.fails("format", ("tokenizer.ggml.scores has %d entries: expected %d"):format(tokens - 1, tokens), open(list))
  end)
end)
