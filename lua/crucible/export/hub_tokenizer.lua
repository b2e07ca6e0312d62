-- tokenizer.json, tokenizer_config.json and generation_config.json of a model that lies in a GGUF file.
--
-- Exact as far as GGUF tells: tokens, merges, the published pre-tokenizer, special tokens, BOS. It does not tell what
-- added tokens do with white space beside them (lstrip, rstrip) nor how they are normalised; both are written as
-- false. SentencePiece files have scores and no merges: these are made as transformers makes them, every split of a
-- piece into two pieces, by the score of the piece.
local json = require "crucible.json"

local hub_tokenizer = {}

local NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
local SPACE = "\u{2581}"

local function digits_of(count)
  return "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" .. count
    .. "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
end

local function byte_level(use_regex)
  return { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = use_regex }
end

local function split(pattern)
  return { type = "Split", pattern = { Regex = pattern }, behavior = "Isolated", invert = false }
end

local function sequence(name, steps) return { type = "Sequence", [name] = json.array(steps) } end

-- By the core's name of the pre-tokenizer: what stands in tokenizer.json.
local byte_steps = {
  gpt2 = { pre_tokenizer = byte_level(true) },
  smollm = { pre_tokenizer = sequence("pretokenizers", { { type = "Digits", individual_digits = true },
    byte_level(true) }) },
  ["llama-bpe"] = { pre_tokenizer = sequence("pretokenizers", { split(digits_of "{1,3}"), byte_level(false) }),
    ignore_merges = true },
  qwen2 = { pre_tokenizer = sequence("pretokenizers", { split(digits_of ""), byte_level(false) }),
    normalizer = { type = "NFC" } },
}

-- ---- parts -----------------------------------------------------------------------------------------------

local function added_tokens(tokens, kinds)
  local list = json.array {}
  for i, kind in ipairs(kinds) do
    if kind == CONTROL or kind == UNKNOWN or kind == USER_DEFINED then
      list[#list + 1] = {
        id = i - 1, content = tokens[i], single_word = false, lstrip = false, rstrip = false, normalized = false,
        special = kind ~= USER_DEFINED,
      }
    end
  end
  return list
end

-- The BOS before every text, or nil.
local function template(tokens, roles)
  if not roles.add_bos then return nil end
  local bos = tokens[roles.bos + 1]
  local function sequence_of(id, type) return { Sequence = { id = id, type_id = type } } end
  local function bos_of(type) return { SpecialToken = { id = bos, type_id = type } } end
  return {
    type = "TemplateProcessing", single = json.array { bos_of(0), sequence_of("A", 0) },
    pair = json.array { bos_of(0), sequence_of("A", 0), bos_of(1), sequence_of("B", 1) },
    special_tokens = { [bos] = { id = bos, ids = json.array { roles.bos }, tokens = json.array { bos } } },
  }
end

-- Places between the characters of a piece.
local function borders(piece)
  local list = {}
  for at in utf8.codes(piece) do
    if at > 1 then list[#list + 1] = at end
  end
  return list
end

-- Every way to make a piece of two others, the longest left half first.
local function add_splits(merges, piece, ids)
  local places = borders(piece)
  for i = #places, 1, -1 do
    local left, right = piece:sub(1, places[i] - 1), piece:sub(places[i])
    if ids[left] and ids[right] then merges[#merges + 1] = { left, right } end
  end
end

--- Merges by score of a SentencePiece vocabulary.
---@param tokens string[]
---@param kinds integer[]
---@param scores number[]
---@return { [1]: string, [2]: string }[]
function hub_tokenizer.merges(tokens, kinds, scores)
  local ids, order, merges = {}, {}, json.array {}
  for i, token in ipairs(tokens) do
    if kinds[i] == NORMAL then
      ids[token] = ids[token] or i
      order[#order + 1] = i
    end
  end
  table.sort(order, function(a, b)
    if scores[a] ~= scores[b] then return scores[a] > scores[b] end
    return a < b
  end)
  for _, i in ipairs(order) do
    if utf8.len(tokens[i]) then add_splits(merges, tokens[i], ids) end
  end
  return merges
end

local function spaces_normalizer(prefix)
  local replace = { type = "Replace", pattern = { String = " " }, content = SPACE }
  if not prefix then return replace end
  return sequence("normalizers", { { type = "Prepend", prepend = SPACE }, replace })
end

local function spaces_decoder(prefix)
  local steps = {
    { type = "Replace", pattern = { String = SPACE }, content = " " }, { type = "ByteFallback" }, { type = "Fuse" },
  }
  if prefix then steps[4] = { type = "Strip", content = " ", start = 1, stop = 0 } end
  return sequence("decoders", steps)
end

-- ---- the file --------------------------------------------------------------------------------------------

-- Ids in order, which the JSON writer's sorted keys would lose.
local function vocabulary_text(tokens)
  local parts = {}
  for i, token in ipairs(tokens) do parts[i] = ("%s:%d"):format(json.encode(token), i - 1) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function merges_text(merges)
  local parts = {}
  for i, merge in ipairs(merges) do
    parts[i] = json.encode(type(merge) == "string" and merge or merge[1] .. " " .. merge[2])
  end
  return "[" .. table.concat(parts, ",") .. "]"
end

-- Tokens that carry spaces cannot stand in "left right".
local function pairs_text(merges)
  local parts = {}
  for i, merge in ipairs(merges) do
    parts[i] = ("[%s,%s]"):format(json.encode(merge[1]), json.encode(merge[2]))
  end
  return "[" .. table.concat(parts, ",") .. "]"
end

local function encoded(value) return value == nil and "null" or json.encode(value) end

local function assemble(parts, vocabulary, merges)
  local model = json.encode(parts.model):sub(1, -2)
  return table.concat {
    '{"version":"1.0","truncation":null,"padding":null,"added_tokens":', encoded(parts.added_tokens),
    ',"normalizer":', encoded(parts.normalizer), ',"pre_tokenizer":', encoded(parts.pre_tokenizer),
    ',"post_processor":', encoded(parts.post_processor), ',"decoder":', encoded(parts.decoder),
    ',"model":', model, ',"vocab":', vocabulary, ',"merges":', merges, "}}\n",
  }
end

local function byte_json(keys, roles)
  local tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
  local steps = byte_steps[roles.pretokenizer]
  local unknown = roles.unknown and tokens[roles.unknown + 1] or json.null
  return assemble({
    added_tokens = added_tokens(tokens, kinds), normalizer = steps.normalizer, pre_tokenizer = steps.pre_tokenizer,
    post_processor = template(tokens, roles) or byte_level(true), decoder = byte_level(true),
    model = {
      type = "BPE", dropout = json.null, unk_token = unknown, continuing_subword_prefix = json.null,
      end_of_word_suffix = json.null, fuse_unk = false, byte_fallback = false,
      ignore_merges = steps.ignore_merges or false,
    },
  }, vocabulary_text(tokens), merges_text(keys["tokenizer.ggml.merges"]))
end

local function spaces_json(keys, roles)
  local tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
  local merges = hub_tokenizer.merges(tokens, kinds, keys["tokenizer.ggml.scores"])
  local unknown = roles.unknown and tokens[roles.unknown + 1] or json.null
  return assemble({
    added_tokens = added_tokens(tokens, kinds), normalizer = spaces_normalizer(roles.space_prefix),
    post_processor = template(tokens, roles), decoder = spaces_decoder(roles.space_prefix),
    model = {
      type = "BPE", dropout = json.null, unk_token = unknown, continuing_subword_prefix = json.null,
      end_of_word_suffix = json.null, fuse_unk = true, byte_fallback = true, ignore_merges = false,
    },
  }, vocabulary_text(tokens), pairs_text(merges))
end

local function config_of(model, tokens, roles)
  local function token(id) return id and tokens[id + 1] or nil end
  return {
    tokenizer_class = "PreTrainedTokenizerFast", bos_token = token(roles.bos), eos_token = token(roles.eos),
    pad_token = token(roles.pad), unk_token = token(roles.unknown), add_bos_token = roles.add_bos,
    clean_up_tokenization_spaces = false, model_max_length = model.info.context,
    chat_template = model.info.chat_template ~= "" and model.info.chat_template or nil,
  }
end

--- The texts of the three files by name.
---@param model crucible.Model
---@param keys table<string, any>  of gguf.read
---@return table<string, string>
function hub_tokenizer.files(model, keys)
  local roles = model.tokenizer:info()
  local make = roles.model == "llama" and spaces_json or byte_json
  return {
    ["tokenizer.json"] = make(keys, roles),
    ["tokenizer_config.json"] = json.encode_pretty(config_of(model, keys["tokenizer.ggml.tokens"], roles)),
    ["generation_config.json"] = json.encode_pretty {
      bos_token_id = roles.bos, eos_token_id = roles.eos, pad_token_id = roles.pad,
    },
  }
end

return hub_tokenizer
