-- Every tokenizer that specs of text run on: the tiny model's vocabulary under each pre-tokenizer, with and
-- without a BOS, and SmolLM2's where it is present.
local core = require "crucible.core"
local gguf = require "spec.support.gguf_metadata"
local models = require "spec.support.models"
local tokenizer = require "crucible.tokenizer"

local tokenizers = {}

local TINY = "spec/fixtures/tiny/tiny.gguf"
local KEY = "tokenizer.ggml."

local list

--- Special tokens of chat templates that the tiny vocabulary has none of.
tokenizers.specials = {
  llama3 = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
  gemma = { "<start_of_turn>", "<end_of_turn>" },
}

-- Keys of the tiny vocabulary whose last ordinary tokens are special ones of these names.
local function with_specials(names)
  local tokens, kinds = gguf.list(TINY, KEY .. "tokens"), gguf.list(TINY, KEY .. "token_type")
  local gone, merges, at = {}, {}, #tokens
  for i = #names, 1, -1 do
    while kinds[at] ~= 1 do at = at - 1 end
    gone[tokens[at]] = true
    tokens[at], kinds[at] = names[i], 3
  end
  for _, merge in ipairs(gguf.list(TINY, KEY .. "merges")) do
    local left, right = merge:match "^(%S+) (%S+)$"
    if not (gone[left] or gone[right] or gone[left .. right]) then merges[#merges + 1] = merge end
  end
  return { [KEY .. "tokens"] = gguf.texts(tokens), [KEY .. "token_type"] = gguf.i32s(kinds),
    [KEY .. "merges"] = gguf.texts(merges) }
end

--- The tiny vocabulary under a pre-tokenizer, with special tokens in place of its last ordinary ones.
---@param pretokenizer string
---@param add_bos boolean
---@param specials string[]?
---@return crucible.Tokenizer
function tokenizers.open(pretokenizer, add_bos, specials)
  local path, keys = os.tmpname(), specials and with_specials(specials) or {}
  keys[KEY .. "pre"], keys[KEY .. "add_bos_token"] = gguf.text(pretokenizer), gguf.bool(add_bos)
  gguf.copy(TINY, path, keys)
  local model = assert(core.open_model(path))
  os.remove(path) -- the mapping stays
  return tokenizer.wrap(model:tokenizer())
end

local SPACE = "\u{2581}"

-- Keys of a SentencePiece vocabulary: special tokens, bytes, then pieces by falling score.
local function sentencepiece_keys(space_prefix)
  local tokens, kinds, scores = { "<unk>", "<s>", "</s>" }, { 2, 3, 3 }, { 0, 0, 0 }
  for byte = 0, 255 do tokens[#tokens + 1], kinds[#kinds + 1] = ("<0x%02X>"):format(byte), 6 end
  for _, piece in ipairs { SPACE .. "t", "he", SPACE .. "the", "in", SPACE .. "c", "er", "\u{EF}v", SPACE .. SPACE,
    SPACE, "t", "h", "e", "i", "n", "c", "r", "a", "\u{EF}", "v", "1" } do
    tokens[#tokens + 1], kinds[#kinds + 1] = piece, 1
  end
  for i = 4, #tokens do scores[i] = -i end
  return {
    [KEY .. "model"] = gguf.text "llama", [KEY .. "tokens"] = gguf.texts(tokens),
    [KEY .. "token_type"] = gguf.i32s(kinds),
    [KEY .. "scores"] = string.pack("<I4I4I8", 9, 6, #scores) .. string.pack("<" .. ("f"):rep(#scores),
      table.unpack(scores)),
    [KEY .. "merges"] = false, [KEY .. "pre"] = false, [KEY .. "bos_token_id"] = gguf.u32(1),
    [KEY .. "eos_token_id"] = gguf.u32(2), [KEY .. "add_bos_token"] = gguf.bool(true),
    [KEY .. "add_space_prefix"] = gguf.bool(space_prefix),
  }
end

local function open_sentencepiece(space_prefix)
  local path = os.tmpname()
  gguf.copy(TINY, path, sentencepiece_keys(space_prefix))
  local model = assert(core.open_model(path))
  os.remove(path)
  return tokenizer.wrap(model:tokenizer())
end

local function open_all()
  list = {}
  for _, pretokenizer in ipairs { "gpt2", "smollm", "llama-bpe", "qwen2" } do
    for _, add_bos in ipairs { false, true } do
      list[#list + 1] = { pretokenizer .. (add_bos and " with a BOS" or ""), tokenizers.open(pretokenizer, add_bos) }
    end
  end
  for name, tokens in pairs(tokenizers.specials) do
    list[#list + 1] = { "the tokens of " .. name, tokenizers.open("llama-bpe", true, tokens) }
  end
  list[#list + 1] = { "SentencePiece", open_sentencepiece(false) }
  list[#list + 1] = { "SentencePiece with a space before the text", open_sentencepiece(true) }
  local smollm2 = models.smollm2()
  if smollm2 then list[#list + 1] = { "SmolLM2", tokenizer.wrap(assert(core.open_model(smollm2)):tokenizer()) } end
end

--- Calls visit(name, tokenizer) for each; they stay open to the end of the suite.
---@param visit fun(name: string, tokenizer: crucible.Tokenizer)
function tokenizers.each(visit)
  if not list then open_all() end
  for _, pair in ipairs(list) do visit(pair[1], pair[2]) end
end

---@return integer
function tokenizers.count()
  if not list then open_all() end
  return #list
end

return tokenizers
