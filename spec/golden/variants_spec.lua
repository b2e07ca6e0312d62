-- DoRA, rsLoRA, LoRA+ and patterns of ranks and alphas beside PEFT: scripts/make_variant_fixtures.py.
local core = require "crucible.core"
local family_model = require "support.family_model"
local golden = require "support.golden"
local temp = require "support.temp"
local tiny_model = require "support.tiny_model"

local SKETCH_MARGIN = 0.5 -- see smollm2_spec.lua
local SKETCH_SIZE = 64
local TARGETS = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local fixture = golden.json("variants.json")
local tensors = golden.read_safetensors(golden.path("variants.safetensors"))

local function piece(list, index) return { table.unpack(list, (index - 1) * SKETCH_SIZE + 1, index * SKETCH_SIZE) } end

local function without_weights(rows)
  local out = {}
  for i, row in ipairs(rows) do out[i] = { tokens = row.tokens, targets = row.targets } end
  return out
end

local function assert_logprobs(expected, actual)
  for i, row in ipairs(expected) do
    local difference = golden.largest_difference(actual[i], row)
    assert.is_true(difference < 1e-3, ("row %d differs by %g"):format(i, difference))
  end
end

-- Every matrix of a session beside the sketches of a stem; `limit` on the relative difference.
local function assert_sketches(session, set, which, stem, limit, head_size)
  local by_name = {}
  for _, p in ipairs(session:parameters()) do by_name[p.name] = p end
  for i, name in ipairs(set.names) do
    local ours = golden.read(session, assert(by_name[name], name), which, head_size)
    local sketch, norm = piece(tensors[stem .. ".sketch"], i), tensors[stem .. ".norm"][i]
    local difference = golden.sketched_difference(name, ours, sketch, norm)
    assert.is_true(difference < SKETCH_MARGIN * limit, ("%s differs by about %g"):format(name, difference))
  end
end

local function options_of(set, more)
  local options = {
    rank = set.rank, alpha = set.alpha, dropout = 0, targets = TARGETS, seed = 0, threads = 2, dora = set.use_dora,
    rslora = set.use_rslora, rank_pattern = set.rank_pattern, alpha_pattern = set.alpha_pattern,
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return options
end

local function describe_tiny(name)
  local set = fixture[name]

  describe(name .. " on " .. set.model, function()
    local head_size, folder
    setup(function()
      local model <close> = tiny_model.open(set.model)
      head_size = model:info().head_size
      folder = temp.folder()
    end)
    teardown(temp.clean)

    local function open(more)
      local session = tiny_model.session(options_of(set, more), set.model)
      golden.load_hashed(session, folder .. "/hashed.safetensors", head_size)
      return session
    end

    it("gives PEFT's log-probabilities", function()
      local session <close> = open()
      assert_logprobs(set.logprobs, assert(session:forward(without_weights(fixture.rows))))
    end)

    for _, recompute in ipairs { false, true } do
      local how = recompute and "recomputing" or "keeping"
      it("gives PEFT's loss and the gradient of every matrix, " .. how .. " the layers", function()
        local session <close> = open { recompute = recompute }
        local result = assert(session:forward_backward(fixture.rows))
        assert.is_true(golden.relative(result.loss, set.loss) < 1e-5)
        assert.equal(#set.names, #session:parameters())
        assert_sketches(session, set, "gradient", name .. ".gradient", 1e-4, head_size)
      end)
    end

    if set.dropped_loss then
      it("gives PEFT's loss and gradients under the same masks of dropout", function()
        local session <close> = open { dropout = set.dropout, seed = set.seed }
        local result = assert(session:forward_backward(fixture.rows))
        assert.is_true(golden.relative(result.loss, set.dropped_loss) < 1e-5)
        assert_sketches(session, set, "gradient", name .. ".dropped", 1e-4, head_size)
      end)
    end

    it("follows ten steps of AdamW, with PEFT's groups for LoRA+", function()
      local session <close> = open()
      local adam = { loraplus_lr_ratio = set.ratio }
      for key, value in pairs(set.adam) do adam[key] = value end
      for step, loss in ipairs(set.losses) do
        local result = assert(session:forward_backward(fixture.rows))
        local update = assert(session:optim_step(adam))
        assert.is_true(golden.relative(result.loss, loss) < 1e-4, "loss of step " .. step)
        assert.is_true(golden.relative(update.grad_norm, set.grad_norms[step]) < 1e-4, "norm of step " .. step)
      end
      assert_sketches(session, set, "value", name .. ".final", 1e-3, head_size)
    end)
  end)
end

for _, name in ipairs { "dora", "patterns", "dora_patterns" } do describe_tiny(name) end

-- Biases stay out of DoRA's gain; norms of heads and after projections see what it makes.
for _, family in ipairs { "qwen2", "gemma3" } do
  describe("dora on " .. family, function()
    local set, model, folder = fixture[family], nil, nil
    setup(function()
      folder = temp.folder()
      family_model.write_folder(family, folder)
      model = assert(core.open_model(folder))
    end)
    teardown(function()
      model:close()
      temp.clean()
    end)

    local function open()
      local session = assert(model:session(options_of(set)))
      golden.load_hashed(session, folder .. "/hashed.safetensors")
      return session
    end

    it("gives PEFT's log-probabilities", function()
      local session <close> = open()
      assert_logprobs(set.logprobs, assert(session:forward(without_weights(family_model.fixtures.rows))))
    end)

    it("gives PEFT's loss and gradients", function()
      local session <close> = open()
      local result = assert(session:forward_backward(family_model.fixtures.rows))
      assert.is_true(golden.relative(result.loss, set.loss) < 1e-5)
      assert_sketches(session, set, "gradient", family .. ".gradient", 1e-4)
    end)

    it("scores with kept keys as it does without", function()
      local session <close> = open()
      local ids = family_model.fixtures.rows[1].tokens
      local logprobs = assert(session:forward { { tokens = ids } })[1]
      for _, cut in ipairs { 1, 6, 20 } do
        local sum = 0.0
        for i = cut, #ids - 1 do sum = sum + logprobs[i] end
        local scores = session:score({ { table.unpack(ids, 1, cut) } }, { { { table.unpack(ids, cut + 1) } } })
        assert.near(sum, assert(scores)[1][1], 1e-3)
      end
    end)
  end)
end
