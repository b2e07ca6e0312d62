-- Hugging Face folders: what they say of themselves, older spellings, and what is refused.
local cjson = require "cjson"
local core = require "crucible.core"
local expect = require "support.expect"
local family_model = require "support.family_model"
local temp = require "support.temp"
local tiny_model = require "support.tiny_model"

local function folder_of(family, options)
  local folder = temp.folder()
  family_model.write_folder(family, folder, options)
  return folder
end

local function open(family, options) return core.open_model(folder_of(family, options)) end

local function without(tensors, name)
  tensors[name] = nil
  return tensors
end

local function logprobs(model, base)
  local session <close> = assert(model:session {
    rank = 2, alpha = 2, dropout = 0, targets = { "q_proj" }, seed = 0, threads = 1,
  })
  return assert(session:forward({ { tokens = family_model.fixtures.rows[1].tokens } }, { base = base }))[1]
end

describe("A folder of the hub", function()
  teardown(temp.clean)

  it("describes its model and its tokenizer", function()
    local folder = folder_of "qwen2"
    local model <close> = assert(core.open_model(folder .. "/"))
    local info = model:info()
    assert.equal("qwen2", info.family)
    assert.equal(folder:match "[^/]+$", info.name)
    assert.equal("F32", info.quantisation)
    assert.equal("{{ messages }}", info.chat_template)
    assert.is_true(info.tied_head)
    local tokenizer, theirs = model:tokenizer(), tiny_model.open "tiny_untied":tokenizer()
    assert.same({
      model = "gpt2", pretokenizer = "smollm", size = theirs:info().size, bos = 1, eos = 2, pad = 2, unknown = -1,
      add_bos = false, space_prefix = false,
      prefixes_each = false, prefix_unless_spaced = false, composes = false,
    }, (function()
      local found = tokenizer:info()
      found.unknown = found.unknown or -1
      return found
    end)())
    for _, text in ipairs { "First Citizen: 1234", "a  b\n\nc\xFF", "<|im_end|> the" } do
      assert.same(theirs:encode(text), tokenizer:encode(text))
      assert.same(theirs:encode(text, true), tokenizer:encode(text, true))
    end
  end)

  it("is opened by its path like any model, with one digest over its files", function()
    local crucible = require "crucible"
    local folder = folder_of("qwen3", { shards = 2 })
    local model <close> = assert(crucible.model(folder))
    local digest = assert(model:digest())
    assert.truthy(digest:find("^%x+$"))
    local again <close> = assert(crucible.model(folder_of("qwen3", { shards = 2 })))
    assert.equal(digest, again:digest())
    local other <close> = assert(crucible.model(folder_of("qwen3", { shards = 2, config = { rope_theta = 9.0 } })))
    assert.not_equal(digest, other:digest())
  end)

  it("reads the spellings of configurations before version 5 of transformers", function()
    local new <close> = assert(open "llama")
    local rope = family_model.fixtures.llama.config.rope_parameters
    local old <close> = assert(open("llama", { config = {
      rope_parameters = cjson.null, rope_theta = rope.rope_theta,
      rope_scaling = {
        rope_type = "llama3", factor = rope.factor, low_freq_factor = rope.low_freq_factor,
        high_freq_factor = rope.high_freq_factor,
        original_max_position_embeddings = rope.original_max_position_embeddings,
      },
    } }))
    assert.same(logprobs(new, true), logprobs(old, true))
    local gemma <close> = assert(open "gemma3")
    local old_gemma <close> = assert(open("gemma3", { config = {
      rope_parameters = cjson.null, rope_theta = 1e6, rope_local_base_freq = 1e4, layer_types = cjson.null,
      rope_scaling = { rope_type = "linear", factor = 8.0 }, sliding_window_pattern = 6,
    } }))
    assert.same(logprobs(gemma, true), logprobs(old_gemma, true))
  end)

  it("lets every layer see everything where no window is used", function()
    local windowed <close> = assert(open "mistral")
    local free <close> = assert(open("mistral", { config = { sliding_window = cjson.null } }))
    local a, b = logprobs(windowed, true), logprobs(free, true)
    for i = 1, 6 do assert.equal(a[i], b[i]) end -- within the window
    assert.is_true(a[20] ~= b[20])
  end)

  it("is trained and its lora saved without permuted rows", function()
    local folder = temp.folder()
    local model <close> = assert(open "llama")
    local session <close> = assert(model:session {
      rank = 2, alpha = 2, dropout = 0, targets = { "q_proj" }, seed = 0, threads = 1,
    })
    assert(session:forward_backward { { tokens = family_model.fixtures.rows[1].tokens } })
    assert(session:optim_step {
      lr = 0.01, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, max_grad_norm = 1,
    })
    assert(session:save_lora(folder .. "/adapter_model.safetensors"))
    local golden = require "support.golden"
    local saved = golden.read_safetensors(folder .. "/adapter_model.safetensors")
    for _, p in ipairs(session:parameters()) do
      assert.same(session:read(p.name), saved[golden.peft_name(p.name)])
    end
  end)
end)

describe("A folder of the hub is refused", function()
  teardown(temp.clean)

  local function refuses(title, code, message, family, options)
    it(title, function() expect.fails(code, message, open(family, options)) end)
  end

  it("without config.json", function()
    local folder = temp.folder()
    expect.fails("not_found", "config.json", core.open_model(folder))
  end)

  it("without weights", function()
    local folder = folder_of "qwen2"
    assert(os.remove(folder .. "/model.safetensors"))
    expect.fails("not_found", "has neither model.safetensors nor model.safetensors.index.json", core.open_model(folder))
  end)

  it("without a tokenizer", function()
    local folder = folder_of "qwen2"
    assert(os.remove(folder .. "/tokenizer.json"))
    expect.fails("not_found", "tokenizer.json", core.open_model(folder))
  end)

  for _, name in ipairs { "../other.safetensors", "/etc/passwd", ".hidden", "" } do
    it(("with an index that leaves it: %q"):format(name), function()
      local folder = folder_of("qwen3", { shards = 2 })
      temp.file(folder, "model.safetensors.index.json", cjson.encode { weight_map = { ["model.norm.weight"] = name } })
      expect.fails("format", "does not lie in the folder itself", core.open_model(folder))
    end)
  end

  it("with a tensor that is not where the index says", function()
    local folder = folder_of("qwen3", { shards = 2 })
    local map = cjson.decode(temp.read(folder .. "/model.safetensors.index.json")).weight_map
    local there = map["model.norm.weight"]:match "model%-0000(%d)"
    map["model.norm.weight"] = ("model-0000%d-of-00002.safetensors"):format(3 - there)
    temp.file(folder, "model.safetensors.index.json", cjson.encode { weight_map = map })
    expect.fails("not_found", "tensor model.norm.weight is missing", core.open_model(folder))
  end)

  it("with a tensor missing", function()
    local tensors = without(family_model.tensors "qwen2", "model.layers.1.self_attn.k_proj.bias")
    expect.fails("not_found", "tensor model.layers.1.self_attn.k_proj.bias is missing",
      open("qwen2", { tensors = tensors }))
  end)

  it("with a tensor of another shape", function()
    local tensors = family_model.tensors "qwen2"
    local values = tensors["model.layers.0.mlp.up_proj.weight"]
    values.shape = { values.shape[2], values.shape[1] }
    expect.fails("format", "tensor model.layers.0.mlp.up_proj.weight: expected [53, 42], the file has [42, 53]",
      open("qwen2", { tensors = tensors }))
  end)

  refuses("of an unknown family, naming those known", "unsupported",
    'model_type "mamba" is not supported; supported: llama, mistral, qwen2, qwen3, gemma3_text', "llama",
    { config = { model_type = "mamba" } })
  refuses("with biases that its family has not", "unsupported", "attention_bias is true: supported is false", "llama",
    { config = { attention_bias = true } })
  refuses("with another activation", "unsupported", "hidden_act is 'relu': supported is silu", "llama",
    { config = { hidden_act = "relu" } })
  refuses("with another kind of rope", "unsupported", "rope_type is 'yarn': supported are default, linear and llama3",
    "llama", { config = { rope_parameters = { rope_type = "yarn", factor = 4 } } })
  refuses("with logits that are capped", "unsupported", "final_logit_softcapping is not supported", "gemma3",
    { config = { final_logit_softcapping = 30 } })
  refuses("with quantised weights of other kinds", "unsupported", "quantization_config is not supported", "llama",
    { config = { quantization_config = { quant_method = "gptq" } } })
  refuses("with sizes that cannot be", "format", "num_hidden_layers is 1e+18: expected an integer from 1 to 1024",
    "llama", { config = { num_hidden_layers = 1e18 } })
  refuses("with heads that do not divide", "format", "3 attention heads are no multiple of 2 key heads", "llama",
    { config = { num_key_value_heads = 2 } })

  local function other_tokenizer(change)
    local json = family_model.tokenizer_json()
    change(json)
    return { tokenizer = json }
  end

  refuses("with another kind of tokenizer", "unsupported", "model.type 'Unigram' is not supported; supported: BPE",
    "llama", other_tokenizer(function(json) json.model.type = "Unigram" end))
  refuses("with a pattern of its own", "unsupported", "pre_tokenizer: the pattern '\\w+' is not supported", "llama",
    other_tokenizer(function(json)
      json.pre_tokenizer.pretokenizers[1] = { type = "Split", pattern = { Regex = "\\w+" } }
    end))
  refuses("with a normaliser that changes text", "unsupported", "normalizer 'Lowercase' is not supported", "llama",
    other_tokenizer(function(json) json.normalizer = { type = "Lowercase" } end))
  refuses("with a hole in its ids", "format", "token 'another' has the id 269: expected 0 to 268, without holes",
    "llama", other_tokenizer(function(json)
      local vocabulary = json.model.vocab
      for token, id in pairs(vocabulary) do
        if id == 100 then vocabulary[token] = nil break end
      end
      vocabulary.another = 269
    end))
end)
