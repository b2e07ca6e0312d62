-- config.json of a model that lies in a GGUF file, as transformers reads it.
--
-- What GGUF does not say is what its readers take for granted: one base of all frequencies, no bias but in
-- families that have it, Gemma 3's pattern of windows. Llama 3's frequency bands are a tensor of divisors there; the
-- rule that gave them is found among those published, or the export is refused.
local errors = require "crucible.errors"
local gguf = require "crucible.gguf"
local json = require "crucible.json"

local hub_config = {}

-- By general.architecture: what the family adds to the fields that all have.
local families = {
  llama = { architectures = { "LlamaForCausalLM" }, model_type = "llama", hidden_act = "silu", attention_bias = false,
    mlp_bias = false },
  qwen2 = { architectures = { "Qwen2ForCausalLM" }, model_type = "qwen2", hidden_act = "silu",
    use_sliding_window = false },
  qwen3 = { architectures = { "Qwen3ForCausalLM" }, model_type = "qwen3", hidden_act = "silu", attention_bias = false,
    use_sliding_window = false },
  gemma3 = { architectures = { "Gemma3ForCausalLM" }, model_type = "gemma3_text",
    hidden_activation = "gelu_pytorch_tanh", attention_bias = false },
}

local dtypes = { f32 = "float32", f16 = "float16", bf16 = "bfloat16" }

-- A number that the file holds in four bytes, as it was meant: 1e-05 and not 9.9999997e-06.
local function meant(value)
  local short = tonumber(("%.7g"):format(value))
  return math.tointeger(short) and short == math.tointeger(short) and short or short
end

-- ---- frequencies ----------------------------------------------------------------------------------

-- Divisors of the frequencies under bands (transformers, modeling_rope_utils.py).
local function band_divisors(bands, base, head_size)
  local divisors = {}
  for p = 0, head_size // 2 - 1 do
    local turns = bands.original_max_position_embeddings * base ^ (-2 * p / head_size) / (2 * math.pi)
    local kept = (turns - bands.low_freq_factor) / (bands.high_freq_factor - bands.low_freq_factor)
    kept = math.max(0, math.min(1, kept))
    divisors[p + 1] = 1 / ((1 - kept) / bands.factor + kept)
  end
  return divisors
end

local function agree(a, b)
  for i, value in ipairs(a) do
    if math.abs(value - b[i]) > 1e-4 * math.abs(b[i]) then return false end
  end
  return true
end

-- The published rule that gives these divisors.
local function find_bands(divisors, base, head_size)
  local largest = math.max(table.unpack(divisors))
  for exponent = 5, 17 do
    local bands = {
      rope_type = "llama3", factor = meant(largest), low_freq_factor = 1.0, high_freq_factor = 4.0,
      original_max_position_embeddings = 1 << exponent,
    }
    if agree(divisors, band_divisors(bands, base, head_size)) then return bands end
  end
end

local function has_tensor(file, name)
  for _, tensor in ipairs(file.tensors) do
    if tensor.name == name then return true end
  end
  return false
end

-- rope_scaling, or nil where positions count as they are.
local function rope_scaling(model, file, arch)
  if not has_tensor(file, "rope_freqs.weight") then
    if file.keys[arch .. ".rope.scaling.type"] ~= "linear" then return nil end
    return { rope_type = "linear", factor = meant(file.keys[arch .. ".rope.scaling.factor"]) }
  end
  local divisors, message, code = gguf.values(model.path, "rope_freqs.weight")
  if not divisors then return nil, message, code end
  local bands = find_bands(divisors, model.info.rope_base, model.info.head_size)
  if bands then return bands end
  return errors.failure("unsupported",
    "%s: rope_freqs.weight follows none of the published rules, so that config.json cannot say what it is", model.path)
end

-- ---- fields ----------------------------------------------------------------------------------------

local function add_windows(fields, file, layers)
  fields.sliding_window = file.keys["gemma3.attention.sliding_window"]
  fields.rope_local_base_freq = meant(file.keys["gemma3.rope.freq_base_swa"] or 10000)
  fields.sliding_window_pattern = 6
  fields.layer_types = json.array {}
  for layer = 1, layers do
    fields.layer_types[layer] = layer % 6 == 0 and "full_attention" or "sliding_attention"
  end
end

local function common_fields(model, type)
  local info, roles = model.info, model.tokenizer:info()
  return {
    vocab_size = info.vocabulary, hidden_size = info.width, intermediate_size = info.ffn_width,
    num_hidden_layers = info.layers, num_attention_heads = info.heads, num_key_value_heads = info.kv_heads,
    head_dim = info.head_size, max_position_embeddings = info.context, rms_norm_eps = meant(info.norm_epsilon),
    rope_theta = meant(info.rope_base), tie_word_embeddings = info.tied_head, torch_dtype = dtypes[type],
    bos_token_id = roles.bos, eos_token_id = roles.eos, pad_token_id = roles.pad, use_cache = true,
    initializer_range = 0.02, attention_dropout = 0.0,
  }
end

--- The fields of config.json for the model of a GGUF file whose weights are stored as `type`. Fails with "unsupported"
--- where config.json cannot say what the file does.
---@param model crucible.Model
---@param file { keys: table<string, any>, tensors: crucible.core.GgufTensor[] }  of gguf.read
---@param type "f32"|"f16"|"bf16"
---@return table? fields, string? message, string? code
function hub_config.fields(model, file, type)
  local arch = model.info.family
  local fields = common_fields(model, type)
  for name, value in pairs(families[arch]) do fields[name] = value end
  local scaling, message, code = rope_scaling(model, file, arch)
  if code then return nil, message, code end
  fields.rope_scaling = scaling
  if arch == "gemma3" then
    add_windows(fields, file, model.info.layers)
    fields.query_pre_attn_scalar = model.info.head_size
  end
  return fields
end

--- The text of a folder's config.json with another type of weights: the rest stays as it is, byte for byte.
---@param text string
---@param type "f32"|"f16"|"bf16"
---@return string
function hub_config.retype(text, type)
  local changed = text
  for _, key in ipairs { "torch_dtype", "dtype" } do
    changed = changed:gsub('("' .. key .. '"%s*:%s*)"[^"]*"', '%1"' .. dtypes[type] .. '"')
  end
  return changed
end

return hub_config
