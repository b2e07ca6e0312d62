-- Opening and describing models.

local core = require "crucible.core"
local expect = require "spec.support.expect"
local bind = require "spec.support.bind"

describe("core.open_model", function()
  it("opens a .gguf file", function()
    local model <close> = bind.model()
    assert.equal("userdata", type(model))
  end)

  it("returns not_found and the path for a file that is not there", function()
    expect.fails("not_found", "spec/fixtures/missing.gguf", core.open_model("spec/fixtures/missing.gguf"))
  end)

  it("returns format for a file that is no GGUF", function()
    expect.fails("format", "expect.lua", core.open_model("spec/support/expect.lua"))
  end)

  it("returns not_found for a folder that is no model's", function()
    expect.fails("not_found", "spec/fixtures/config.json", core.open_model("spec/fixtures"))
  end)

  it("refuses what is no path", function()
    expect.raises("string expected, got no value", core.open_model)
    expect.raises("string expected, got table", core.open_model, {})
    expect.raises("a path holds no NUL byte", core.open_model, bind.path .. "\0.gguf")
  end)
end)

describe("Model:info", function()
  it("describes the model with the documented fields and types", function()
    local model <close> = bind.model()
    local types = {}
    for name, value in pairs(model:info()) do types[name] = math.type(value) or type(value) end
    assert.same({
      family = "string", name = "string", quantisation = "string", chat_template = "string", layers = "integer",
      width = "integer", heads = "integer", kv_heads = "integer", head_size = "integer", ffn_width = "integer",
      vocabulary = "integer", context = "integer", parameters = "integer", file_bytes = "integer",
      rope_base = "float", norm_epsilon = "float", tied_head = "boolean",
    }, types)
  end)

  it("tells what the fixture is", function()
    local model <close> = bind.model()
    local info = model:info()
    assert.equal("llama", info.family)
    assert.equal("tiny", info.name)
    assert.equal(info.width, info.heads * info.head_size)
    assert.truthy(info.tied_head)
  end)
end)

describe("Model:tokenizer", function()
  it("is the same one every time", function()
    local model <close> = bind.model()
    assert.equal(model:tokenizer(), model:tokenizer())
  end)

  it("keeps the model while only the tokenizer is held", function()
    local tokenizer = bind.model():tokenizer()
    collectgarbage()
    collectgarbage()
    assert.truthy(tokenizer:info().size > 0)
  end)

  it("says that its model is closed", function()
    local model = bind.model()
    local tokenizer = model:tokenizer()
    model:close()
    expect.raises("model is closed", tokenizer.encode, tokenizer, "x")
    expect.raises("model is closed", tokenizer.decode, tokenizer, { 1 })
    expect.raises("model is closed", tokenizer.info, tokenizer)
    expect.raises("model is closed", tokenizer.find, tokenizer, "x")
    expect.raises("model is closed", tokenizer.is_special, tokenizer, 1)
    expect.raises("model is closed", model.tokenizer, model)
  end)
end)

describe("Model:session", function()
  local model

  before_each(function() model = bind.model() end)
  after_each(function() model:close() end)

  it("creates a session that outlives its closed model", function()
    local session <close> = assert(model:session(bind.config()))
    model:close()
    assert.equal(1, #assert(session:forward(bind.batch(1, 5))))
  end)

  it("accepts every option at once", function()
    local session <close> = assert(model:session({
      rank = 2, alpha = 0.5, dropout = 0.1, targets = core.targets(), rslora = true, seed = -1, threads = 2,
      micro_batch_tokens = 64, recompute = true,
    }))
    assert.equal("crucible.session(rank 2 on q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj; step 0)",
      tostring(session))
  end)

  it("accepts a whole float where an integer is expected", function()
    local session <close> = assert(model:session(bind.config({ rank = 4.0, seed = 3.0 })))
    assert.equal(4, session:parameters()[1].rows)
  end)

  local refused = {
    { "an unknown field by name", { rnk = 4 }, "unknown field 'rnk'; known: rank, alpha, dropout, targets" },
    { "a list", { "q_proj" }, "unknown field '1'" },
    { "rank 0", { rank = 0 }, "rank: expected an integer >= 1, got 0" },
    { "a broken rank", { rank = 1.5 }, "rank: expected an integer >= 1, got 1.5" },
    { "a rank in quotes", { rank = "4" }, "rank: expected an integer >= 1, got string" },
    { "a rank beyond int", { rank = 1 << 40 }, "rank: expected an integer >= 1, got 1099511627776" },
    { "alpha 0", { alpha = 0 }, "alpha: expected a finite number > 0, got 0" },
    { "an infinite alpha", { alpha = math.huge }, "alpha: expected a finite number > 0, got inf" },
    { "dropout 1", { dropout = 1 }, "dropout: expected a finite number >= 0 and < 1, got 1" },
    { "a negative dropout", { dropout = -0.1 }, "dropout: expected a finite number >= 0 and < 1, got -0.1" },
    { "no targets", { targets = {} }, "targets: expected at least one projection" },
    { "one target for a list", { targets = "q_proj" }, "targets: expected a list, got string" },
    { "an unknown target", { targets = { "q_proj", "lm_head" } }, "targets[2]: expected one of q_proj, k_proj" },
    { "a target that is no string", { targets = { 1 } }, "down_proj, got number" },
    { "rslora by number", { rslora = 1 }, "rslora: expected a boolean, got 1" },
    { "a broken seed", { seed = 0.5 }, "seed: expected an integer, got 0.5" },
    { "negative threads", { threads = -1 }, "threads: expected an integer >= 0 and <= 1024, got -1" },
    { "negative micro batches", { micro_batch_tokens = -1 }, "micro_batch_tokens: expected an integer >= 0, got -1" },
  }

  for _, case in ipairs(refused) do
    it("refuses " .. case[1], function()
      expect.raises(case[3], model.session, model, bind.config(case[2]))
    end)
  end

  it("names a field that is missing", function()
    for _, name in ipairs({ "rank", "alpha", "dropout", "targets" }) do
      local config = bind.config()
      config[name] = nil
      expect.raises(name .. " is missing: expected", model.session, model, config)
    end
  end)

  it("refuses what is no config", function()
    expect.raises("table expected, got nil", model.session, model, nil)
    expect.raises("table expected, got number", model.session, model, 4)
  end)
end)
