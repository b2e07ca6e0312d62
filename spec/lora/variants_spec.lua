-- Variants of LoRA in configs, sessions, checkpoints and PEFT's folders.
local crucible = require "crucible"
local expect = require "spec.support.expect"
local golden = require "spec.support.golden"
local hooked = require "spec.support.hooked"
local json = require "crucible.json"
local lists = require "spec.support.lists"
local patterns = require "crucible.lora.patterns"
local peft = require "crucible.lora.peft"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora
local config = lora.config
local PEFT_FOLDER = golden.path "peft_dora"

before_each(hooked.begin)
after_each(hooked.finish)

local batch = { { tokens = { 5, 9, 200, 3, 77, 4, 18 } }, { tokens = { 8, 1, 2, 250 } } }

local function bits_of(session)
  local out = {}
  for i, p in ipairs(session.core:parameters()) do out[i] = lists.bits(session.core:read(p.name)) end
  return table.concat(out)
end

local function train(session, steps)
  for _ = 1, steps do
    assert(session:forward_backward(batch))
    assert(session:optim_step())
  end
end

describe("a config", function()
  it("has every variant off", function()
    local defaults = config.new()
    assert.is_false(defaults.dora)
    for _, name in ipairs { "rank_pattern", "alpha_pattern", "modules_to_save", "loraplus_lr_ratio" } do
      assert.is_nil(defaults[name])
    end
    assert.is_nil(config.adam_params(defaults).loraplus_lr_ratio)
    assert.equal(16, config.adam_params(config.new { loraplus_lr_ratio = 16 }).loraplus_lr_ratio)
  end)

  for _, case in ipairs {
    { { dora = 1 }, "dora must be true or false, got 1" },
    { { use_dora = true }, 'unknown option "use_dora"' },
    { { loraplus_lr_ratio = 0 }, "loraplus_lr_ratio must be a number above 0, got 0" },
    { { rank_pattern = 8 }, "rank_pattern must be a table of keys and numbers, or a list of such pairs, got 8" },
    { { rank_pattern = { q_proj = 0 } }, 'rank_pattern: "q_proj": expected an integer of at least 1' },
    { { rank_pattern = { { "q_proj", 2.5 } } }, 'rank_pattern: "q_proj": expected an integer' },
    { { rank_pattern = { { "q_proj" } } }, "rank_pattern: entry 1: expected a pair of a key and an integer" },
    { { alpha_pattern = { q_proj = -1 } }, 'alpha_pattern: "q_proj": expected a number above 0, got -1' },
    { { alpha_pattern = { [2] = 1 } }, "alpha_pattern must be a table of keys" },
    { { modules_to_save = { "lm_head", "embed" } },
      "modules_to_save: whole modules are not trained here, only branches on target_modules; got lm_head, embed" },
  } do
    it("refuses: " .. case[2], function() expect.raises(case[2], config.new, case[1]) end)
  end

  it("prints its patterns and compares them by what they mean", function()
    local one = config.new { rank_pattern = { q_proj = 2, k_proj = 3 }, modules_to_save = {} }
    assert.truthy(tostring(one):find("rank_pattern        k_proj 3, q_proj 2", 1, true))
    assert.same({}, config.model_differences(one, config.new { rank_pattern = { { "k_proj", 3 }, { "q_proj", 2.0 } } }))
    assert.same({ "dora", "rank_pattern" },
      config.model_differences(one, config.new { dora = true, rank_pattern = { q_proj = 2 } }))
    assert.same({ "rank_pattern" }, config.model_differences(one, config.new()))
  end)
end)

describe("a session", function()
  it("has the ranks and alphas of its patterns, and refuses a table that contradicts itself", function()
    local session <close> = hooked.open { rank_pattern = { q_proj = 2 }, alpha_pattern = { ["layers\\.1\\..*"] = 8 } }
    local found = {}
    for _, module in ipairs(session:modules()) do found[module.name] = { module.rank, module.alpha } end
    assert.same({ 2, 8 }, found["model.layers.1.self_attn.q_proj"])
    assert.same({ 4, 32 }, found["model.layers.0.self_attn.v_proj"])
    expect.raises('rank_pattern: "layers\\.1\\..*" and "q_proj" both mean model.layers.1.self_attn.q_proj; give a list',
      hooked.open, { rank_pattern = { q_proj = 2, ["layers\\.1\\..*"] = 3 } })
    local ordered <close> = hooked.open { rank_pattern = { { "q_proj", 2 }, { "layers\\.1\\..*", 3 } } }
    assert.equal(3, ordered:modules()[4].rank)
    local agreed <close> = hooked.open { rank_pattern = { q_proj = 2, ["layers\\.1\\..*"] = 2 } }
    assert.equal(2, agreed:modules()[3].rank)
  end)

  it("with DoRA shows magnitudes among gradients, and to hooks", function()
    local session <close> = hooked.open { dora = true }
    local name = "layers.1.self_attn.v_proj.lora_magnitude_vector"
    assert(session:forward_backward(batch))
    local view = session:gradients()[name]
    assert.same({ "magnitude", 32, 1 }, { view.matrix, view.rows, view.columns })
    assert.is_true(view:norm() > 0)
    session:zero_gradients()
    local seen
    hooked.run(session, { "norm", "flow", "health", "spectrum", { "mine", function(info) seen = info end } })
    assert.is_true(seen.gradient_norms[name] > 0)
    assert.equal("healthy", seen.gradient_health[name])
    local place
    for _, entry in ipairs(seen.gradient_flow) do place = entry.layer == name and entry or place end
    assert.same({ 2, "v_proj", "magnitude" }, { place.depth, place.target, place.matrix })
    assert.truthy(seen.session:spectrum(name).singular_values)
  end)

  it("with DoRA passes check_gradient, norms held", function()
    local session <close> = hooked.open { dora = true, rslora = true, rank_pattern = { q_proj = 2 } }
    for i, p in ipairs(session.core:parameters()) do
      if p.part == "B" then session.core:write(p.name, lists.uniform(i, p.rows * p.columns, 0.125)) end
    end
    local before = bits_of(session)
    local report = session:check_gradient("cross_entropy", batch, { entries = 0 })
    assert.is_true(report.passed, tostring(report))
    assert.is_true(before == bits_of(session))
  end)

  it("resumes DoRA, patterns and LoRA+ to the bit, the ratio from the checkpoint where the config has none", function()
    local variant = { dora = true, rank_pattern = { q_proj = 2 }, lora_dropout = 0.1, loraplus_lr_ratio = 8 }
    local whole <close> = hooked.open(variant)
    local first <close> = hooked.open(variant)
    train(whole, 4)
    train(first, 2)
    local saved = assert(first:save_checkpoint "here")
    local without = lists.with(variant, {})
    without.loraplus_lr_ratio = nil
    local resumed <close> = hooked.open(without)
    assert(resumed:load_checkpoint(saved.path))
    train(resumed, 2)
    assert.is_true(bits_of(whole) == bits_of(resumed))
    local opened <close> = assert(first:open_checkpoint(saved.path))
    assert.is_true(bits_of(first) == bits_of(opened))
    local plain <close> = hooked.open()
    expect.fails("format", "use_dora is true, expected false", plain:load_checkpoint(saved.path))
    local even <close> = hooked.open { dora = true }
    expect.fails("format", "r of model.layers.0.self_attn.q_proj is 2, expected 4", even:load_checkpoint(saved.path))
  end)

  it("runs in the training loop, interrupted and resumed, as without interruption", function()
    local variant = { dora = true, alpha_pattern = { v_proj = 3 }, loraplus_lr_ratio = 4, lora_dropout = 0.1 }
    local whole <close> = hooked.open(variant)
    hooked.run(whole, { "norm" }, { checkpoint_every = 2 })
    local half <close> = hooked.open(variant)
    local results = hooked.run(half, { "norm" }, { checkpoint_every = 2, callbacks = {
      on_step_end = function(step) return step.step == 2 and "stop" or nil end,
    } })
    local again <close> = hooked.open(variant)
    hooked.run(again, { "norm" }, { checkpoint_every = 2, run_dir = results.run_dir, resume = true })
    assert.is_true(bits_of(whole) == bits_of(again))
  end)
end)

describe("a PEFT folder", function()
  it("of PEFT's own, with DoRA, rsLoRA and patterns, is loaded with the config that it gives", function()
    local fixture = golden.json "variants.json"
    local model <close> = assert(crucible.model(tiny_model.untied_path))
    local found = assert(config.from_peft(PEFT_FOLDER, { threads = 1 }))
    assert.same({ true, true, 2, 4, 0.1, 1 },
      { found.dora, found.rslora, found.lora_rank, found.lora_alpha, found.lora_dropout, found.threads })
    assert.same({ { "layers\\.1\\..*", 1 }, { "q_proj", 3 } }, found.rank_pattern)
    local session <close> = assert(model:session { config = config.plain(found), runs = temp.folder() })
    assert(session:load_checkpoint(PEFT_FOLDER, { weights_only = true }))
    local rows = {}
    for i, row in ipairs(fixture.rows) do rows[i] = { tokens = row.tokens } end
    local logprobs = assert(session:forward(rows)).logprobs
    for i, expected in ipairs(fixture.peft_folder.logprobs) do
      assert.is_true(golden.largest_difference(logprobs[i], expected) < 1e-3, "row " .. i)
    end
    train(session, 1)
    -- Written again it says the same, and holds the tensors that PEFT's has.
    local folder = assert(session:export(temp.folder() .. "/again"))
    local ours, theirs = assert(peft.read(temp.read(folder .. "/adapter_config.json"))),
      assert(peft.read(temp.read(PEFT_FOLDER .. "/adapter_config.json")))
    for _, field in ipairs { "r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern" } do
      assert.same(theirs[field], ours[field], field)
    end
    local written = golden.read_safetensors(folder .. "/adapter_model.safetensors")
    local read = golden.read_safetensors(PEFT_FOLDER .. "/adapter_model.safetensors")
    for name, values in pairs(read) do assert.equal(#values, #assert(written[name], name)) end
    for name in pairs(written) do assert.truthy(read[name], name) end
  end)

  it("keeps the order of keys, whatever their text", function()
    local text = [[{"x": {"rank_pattern": {"no": 1}}, "rank_pattern" : {"z\"{": 1, "a\\": 2, "m": 3}, "y": ["{"] }]]
    assert.same({ 'z"{', "a\\", "m" }, peft.keys_in_order(text, "rank_pattern"))
    assert.same({ { 'z"{', 1 }, { "a\\", 2 }, { "m", 3 } }, assert(peft.read(text)).rank_pattern)
    local written = peft.config_bytes(config.new { rank_pattern = { { "z", 1 }, { "a", 2 } } }, "base")
    assert.same({ { "z", 1 }, { "a", 2 } }, assert(peft.read(written)).rank_pattern)
    assert.same({}, assert(peft.read(peft.config_bytes(config.new(), "base"))).alpha_pattern)
  end)

  it("is refused by the name of what is not there", function()
    for text, expected in pairs {
      ['{"modules_to_save": ["lm_head"]}'] = "modules_to_save is lm_head: whole modules are neither trained nor loaded",
      ['{"bias": "all"}'] = "bias is all: biases are not trained",
      ['{"peft_type": "IA3"}'] = 'peft_type is IA3: only "LORA" is known',
      ['{"layers_to_transform": [0, 1]}'] = "layers_to_transform is 0, 1: every layer",
      ['{"init_lora_weights": "pissa"}'] = "init_lora_weights is pissa: the base's weights stay as they are",
      ['{"use_qalora": true}'] = "use_qalora is true: this variant of LoRA is not known",
      ['{"alora_invocation_tokens": [1]}'] = "alora_invocation_tokens is 1: this variant",
    } do
      expect.fails("unsupported", expected, peft.read(text))
    end
    expect.fails("format", "rank_pattern is 3: expected an object of numbers", peft.read '{"rank_pattern": 3}')
    expect.fails("format", 'alpha_pattern: "q" is two: expected a number', peft.read '{"alpha_pattern": {"q": "two"}}')
    assert(peft.read '{"modules_to_save": null, "bias": "none", "init_lora_weights": "gaussian", "use_qalora": false}')
    expect.fails("unsupported", "target_modules is all-linear", peft.options '{"r": 2, "target_modules": "all-linear"}')
    expect.fails("not_found", "adapter_config.json", config.from_peft(temp.folder()))
  end)

  it("is compared module by module", function()
    local modules = { { name = "model.layers.0.self_attn.q_proj", rank = 2, alpha = 8 } }
    local plain = config.new { lora_rank = 2, lora_alpha = 8, target_modules = { "q_proj" } }
    local function difference(fields)
      local given = { r = 2, lora_alpha = 8, target_modules = json.array { "q_proj" } }
      for key, value in pairs(fields) do given[key] = value end
      return peft.difference(json.encode(given), plain, modules)
    end
    assert.is_nil(difference {})
    assert.equal("r is 3, expected 2", difference { r = 3 })
    assert.is_nil(difference { r = 3, rank_pattern = { q_proj = 2 } })
    assert.equal("r of model.layers.0.self_attn.q_proj is 5, expected 2", difference { rank_pattern = { q_proj = 5 } })
    assert.equal("lora_alpha of model.layers.0.self_attn.q_proj is 1, expected 8",
      difference { alpha_pattern = { [".*"] = 1 } })
    assert.equal("use_dora is true, expected false", difference { use_dora = true })
    assert.equal(2, patterns.value({ { "q_proj", 2 } }, modules[1].name, 7))
    assert.equal(7, patterns.value({ { "v_proj", 2 } }, modules[1].name, 7))
  end)
end)
