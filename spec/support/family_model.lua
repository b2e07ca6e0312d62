-- Small random models of every family, written from the fixture spec/golden/families.json: as GGUF
-- files and as Hugging Face folders. Every value is a function of its tensor's name: the mirror of
-- tensor_values in scripts/make_family_fixtures.py.
local cjson = require "cjson"
local golden = require "support.golden"
local gguf_metadata = require "support.gguf_metadata"
local hashed = require "support.hashed_normal"
local tiny_model = require "support.tiny_model"

local family_model = {}

--- The families of the fixture that have a GGUF architecture of their own.
family_model.gguf = { "llama", "qwen2", "qwen3", "gemma3" }

family_model.fixtures = golden.json("families.json")

local function round_to_float(x) return (string.unpack("<f", string.pack("<f", x))) end

local function is_centred(fixture) return fixture.config.model_type:find("^gemma") ~= nil end

-- Values of one tensor as Hugging Face stores them.
local function values_of(fixture, name, shape)
  local count = shape[1] * (shape[2] or 1)
  if name:find("bias$") then return hashed.uniform(name, count, 0.5) end
  if #shape == 2 then
    return hashed.uniform(name, count, name:find("embed", 1, true) and 0.5 or 2 / math.sqrt(shape[2]))
  end
  local values, base = hashed.uniform(name, count, 0.3), is_centred(fixture) and 0 or 1
  for i, value in ipairs(values) do values[i] = round_to_float(value + base) end
  return values
end

-- ---- GGUF: names, the rows of q and k, norms with their 1 ----------------------------------------------

local GGUF_NAMES = {
  ["model.embed_tokens.weight"] = "token_embd.weight",
  ["model.norm.weight"] = "output_norm.weight",
  ["lm_head.weight"] = "output.weight",
}
local PARTS = {
  ["self_attn.q_proj"] = "attn_q", ["self_attn.k_proj"] = "attn_k", ["self_attn.v_proj"] = "attn_v",
  ["self_attn.o_proj"] = "attn_output", ["self_attn.q_norm"] = "attn_q_norm", ["self_attn.k_norm"] = "attn_k_norm",
  ["mlp.gate_proj"] = "ffn_gate", ["mlp.up_proj"] = "ffn_up", ["mlp.down_proj"] = "ffn_down",
  input_layernorm = "attn_norm", post_attention_layernorm = "ffn_norm",
}
local GEMMA_PARTS = {
  post_attention_layernorm = "post_attention_norm", pre_feedforward_layernorm = "ffn_norm",
  post_feedforward_layernorm = "post_ffw_norm",
}

local function gguf_name(fixture, name)
  if GGUF_NAMES[name] then return GGUF_NAMES[name] end
  local layer, part, kind = name:match("^model%.layers%.(%d+)%.(.+)%.(%a+)$")
  local short = is_centred(fixture) and GEMMA_PARTS[part] or assert(PARTS[part], name)
  return ("blk.%s.%s.%s"):format(layer, short, kind)
end

-- Rows of the two halves of each head in turn.
local function interleave(values, columns, head_size)
  local out, half = {}, head_size // 2
  for row = 0, #values // columns - 1 do
    local head, inside = row // head_size, row % head_size
    local to = head * head_size + 2 * (inside % half) + inside // half
    table.move(values, row * columns + 1, (row + 1) * columns, to * columns + 1, out)
  end
  return out
end

local function gguf_values(fixture, name, shape)
  local values, config = values_of(fixture, name, shape), fixture.config
  if config.model_type == "llama" and name:find("[qk]_proj") then
    return interleave(values, shape[2], config.head_dim)
  end
  if is_centred(fixture) and #shape == 1 then
    for i, value in ipairs(values) do values[i] = round_to_float(value + 1) end
  end
  return values
end

-- Divisors of the frequencies under llama3's bands (transformers, modeling_rope_utils.py).
local function band_factors(rope, head_size)
  local out, old = {}, rope.original_max_position_embeddings
  for p = 0, head_size // 2 - 1 do
    local turns = old * rope.rope_theta ^ (-2 * p / head_size) / (2 * math.pi)
    local smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    smooth = math.max(0, math.min(1, smooth))
    out[p + 1] = 1 / ((1 - smooth) / rope.factor + smooth)
  end
  return out
end

local function gguf_keys(fixture)
  local config, keys = fixture.config, {}
  local arch = is_centred(fixture) and "gemma3" or config.model_type
  local rope = config.rope_parameters.full_attention or config.rope_parameters
  local function put(name, value) keys[arch .. "." .. name] = value end
  for name, value in pairs(gguf_metadata.values(tiny_model.untied_path)) do
    if name:find("^tokenizer") then keys[name] = value end
  end
  keys["general.architecture"] = gguf_metadata.text(arch)
  put("block_count", gguf_metadata.u32(config.num_hidden_layers))
  put("embedding_length", gguf_metadata.u32(config.hidden_size))
  put("feed_forward_length", gguf_metadata.u32(config.intermediate_size))
  put("context_length", gguf_metadata.u32(config.max_position_embeddings))
  put("attention.head_count", gguf_metadata.u32(config.num_attention_heads))
  put("attention.head_count_kv", gguf_metadata.u32(config.num_key_value_heads))
  put("attention.layer_norm_rms_epsilon", gguf_metadata.f32(config.rms_norm_eps))
  put("rope.freq_base", gguf_metadata.f32(rope.rope_theta))
  if config.head_dim then put("attention.key_length", gguf_metadata.u32(config.head_dim)) end
  if arch == "gemma3" then put("attention.sliding_window", gguf_metadata.u32(config.sliding_window)) end
  if rope.rope_type == "linear" then
    put("rope.scaling.type", gguf_metadata.text("linear"))
    put("rope.scaling.factor", gguf_metadata.f32(rope.factor))
  end
  return keys
end

--- Writes the family's model as a GGUF file.
---@param family string
---@param path string
function family_model.write_gguf(family, path)
  local fixture, tensors = family_model.fixtures[family], {}
  for name, shape in pairs(fixture.tensors) do
    tensors[#tensors + 1] = {
      name = gguf_name(fixture, name), shape = shape, bytes = golden.pack_floats(gguf_values(fixture, name, shape)),
    }
  end
  local rope = fixture.config.rope_parameters
  if rope.rope_type == "llama3" then
    local factors = band_factors(rope, fixture.config.head_dim)
    tensors[#tensors + 1] = { name = "rope_freqs.weight", shape = { #factors }, bytes = golden.pack_floats(factors) }
  end
  gguf_metadata.write(path, gguf_keys(fixture), tensors)
end

-- ---- Hugging Face folders ---------------------------------------------------------------------------

-- tokenizer.json of the tiny vocabulary: SmolLM2's steps, special tokens first.
local function tokenizer_json()
  local path = tiny_model.untied_path
  local tokens = gguf_metadata.list(path, "tokenizer.ggml.tokens")
  local kinds = gguf_metadata.list(path, "tokenizer.ggml.token_type")
  local vocabulary, added = {}, {}
  for i, token in ipairs(tokens) do
    vocabulary[token] = i - 1
    if kinds[i] == 3 then added[#added + 1] = { id = i - 1, content = token, special = true } end
  end
  return {
    added_tokens = added,
    pre_tokenizer = {
      type = "Sequence",
      pretokenizers = { { type = "Digits", individual_digits = true }, { type = "ByteLevel", use_regex = true } },
    },
    model = { type = "BPE", vocab = vocabulary, merges = gguf_metadata.list(path, "tokenizer.ggml.merges") },
  }
end

local function write(path, text)
  local handle <close> = assert(io.open(path, "wb"))
  assert(handle:write(text))
end

-- One safetensors file of some tensors: name → { shape, bytes }.
local function safetensors(tensors)
  local header, data, offset = {}, {}, 0
  for name, tensor in pairs(tensors) do
    header[name] = { dtype = "F32", shape = tensor.shape, data_offsets = { offset, offset + #tensor.bytes } }
    data[#data + 1] = tensor.bytes
    offset = offset + #tensor.bytes
  end
  local text = cjson.encode(header)
  text = text .. (" "):rep(-#text % 8)
  return string.pack("<I8", #text) .. text .. table.concat(data)
end

--- The tensors of a family as checkpoints hold them.
---@param family string
---@return table<string, { shape: integer[], bytes: string }>
function family_model.tensors(family)
  local fixture, tensors = family_model.fixtures[family], {}
  for name, shape in pairs(fixture.tensors) do
    tensors[name] = { shape = shape, bytes = golden.pack_floats(values_of(fixture, name, shape)) }
  end
  return tensors
end

-- Tensors in turn to `count` files, and the index that says where each is.
local function write_shards(folder, tensors, count)
  local shards, map, names = {}, {}, {}
  for name in pairs(tensors) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local file = ("model-%05d-of-%05d.safetensors"):format((i - 1) % count + 1, count)
    shards[file] = shards[file] or {}
    shards[file][name], map[name] = tensors[name], file
  end
  for file, held in pairs(shards) do write(folder .. "/" .. file, safetensors(held)) end
  write(folder .. "/model.safetensors.index.json", cjson.encode { metadata = {}, weight_map = map })
end

--- Writes the family's model as a folder of the hub.
---@param family string
---@param folder string  an existing folder
---@param options { shards: integer?, config: table?, tensors: table?, tokenizer: table? }?  config: other values
function family_model.write_folder(family, folder, options)
  options = options or {}
  local config = {}
  for key, value in pairs(family_model.fixtures[family].config) do config[key] = value end
  for key, value in pairs(options.config or {}) do config[key] = value end
  local tensors = options.tensors or family_model.tensors(family)
  write(folder .. "/config.json", cjson.encode(config))
  write(folder .. "/tokenizer.json", cjson.encode(options.tokenizer or tokenizer_json()))
  write(folder .. "/tokenizer_config.json", cjson.encode {
    bos_token = "<|im_start|>", eos_token = { content = "<|im_end|>" }, chat_template = "{{ messages }}",
  })
  if options.shards then return write_shards(folder, tensors, options.shards) end
  write(folder .. "/model.safetensors", safetensors(tensors))
end

family_model.tokenizer_json = tokenizer_json

return family_model
