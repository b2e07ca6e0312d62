-- The contract between the training rooms and an engine: the same checks on the stand-in and on
-- the C core with the tiny model.
local expect = require "spec.support.expect"
local temp = require "spec.support.temp"

local function fresh(install)
  for name in pairs(package.loaded) do
    if name == "crucible" or (name:find("^crucible%.") and not name:find("^crucible%.core")) then
      package.loaded[name] = nil
    end
  end
  if install then install() end
  return require "crucible"
end

local function row(text, prompt)
  local tokens = { text:byte(1, -1) }
  local weights = {}
  for i = 1, #tokens - 1 do weights[i] = i >= prompt and 1 or 0 end
  return { tokens = tokens, weights = weights }
end

local batch = { row("hello world", 5), row("abcabc", 2) }

local engines = {
  {
    name = "the stand-in",
    open = function()
      local fake = require "spec.support.fake_core"
      local crucible = fresh(fake.install)
      return crucible, temp.file(temp.folder(), "toy.gguf", "toy")
    end,
  },
  {
    name = "the C core",
    open = function()
      package.loaded["crucible.core"] = nil
      return fresh(), require("spec.support.tiny_model").path
    end,
  },
}

for _, engine in ipairs(engines) do
  describe("the local adapter over " .. engine.name, function()
    local crucible, lora, path, runs

    local function open(options)
      options = options or {}
      options.runs = runs
      options.config = options.config or {}
      options.config.base_model, options.config.threads = path, 1
      options.config.lora_rank = options.config.lora_rank or 4
      return assert(lora.create_session(options))
    end

    before_each(function()
      crucible, path = engine.open()
      lora, runs = crucible.lora, temp.folder()
    end)
    after_each(temp.clean)

    it("keeps the contract", function()
      assert.is_true(lora.adapter.check(lora.adapter.find "local"))
      local session <close> = open()
      assert.is_true(lora.adapter.check_session(session))
      assert.is_true(lora.adapter.check_gradients(session))
    end)

    it("fills the session's fields", function()
      local session <close> = open { seed = 5, experiment_id = "one" }
      assert.equal("one", session.experiment_id)
      assert.equal("default", session.adapter_name)
      assert.equal("local", session.engine)
      assert.equal(5, session.seed)
      assert.equal(4, session.config.lora_rank)
      assert.equal(runs .. "/one", session.run_dir)
      assert.truthy(session.started_at:match("^%d%d%d%d%-"))
      assert.equal(512, session.context)
    end)

    it("learns: the loss of the same rows falls", function()
      local session <close> = open { config = { lora_dropout = 0 } }
      local first, last
      for _ = 1, 20 do
        last = assert(session:forward_backward(batch))
        first = first or last
        assert.is_false(assert(session:optim_step { lr = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0,
          max_grad_norm = 1 }).skipped)
      end
      assert.is_true(last.loss < first.loss * 0.8)
      assert.equal(10, last.supervised)
      assert.equal(15, last.tokens)
      assert.same({ cross_entropy = last.loss }, last.components)
      assert.same({ cross_entropy = 10 }, last.counts)
    end)

    it("divides by the counts of the whole step, so that accumulated batches add up", function()
      local session <close> = open { config = { lora_dropout = 0 } }
      local whole = assert(session:forward_backward(batch)).loss
      local norms = {}
      for name, gradient in pairs(session:gradients()) do norms[name] = gradient:norm() end
      session:zero_gradients()
      local parts = 0
      for _, datum in ipairs(batch) do
        parts = parts + assert(session:forward_backward({ datum }, "cross_entropy",
          { counts = { cross_entropy = 10 } })).loss
      end
      assert.is_true(math.abs(parts - whole) < 1e-6 * whole)
      for name, gradient in pairs(session:gradients()) do
        assert.is_true(math.abs(gradient:norm() - norms[name]) <= 1e-4 * norms[name] + 1e-9, name)
      end
    end)

    it("gives log-probabilities of the supervised targets", function()
      local session <close> = open()
      local logprobs = assert(session:forward(batch)).logprobs
      assert.equal(10, #logprobs[1])
      assert.not_equal(logprobs[1][1], logprobs[1][1]) -- NaN: weight 0
      assert.is_true(logprobs[1][10] < 0)
      expect.raises('outputs must be a list, each member one of "logprobs"', session.forward, session, batch,
        { outputs = { "logits" } })
    end)

    it("shows gradients until the optimiser takes them, and says so afterwards", function()
      local session <close> = open()
      assert(session:forward_backward(batch))
      local gradient
      for _, candidate in pairs(session:gradients()) do
        if not gradient or candidate:norm() > gradient:norm() then gradient = candidate end
      end
      local rows, columns = gradient:shape()
      assert.equal("layers.", gradient.name:sub(1, 7))
      assert.equal(rows * columns, #gradient)
      assert.equal(#gradient, #gradient:totable())
      local sum = 0
      for _, value in ipairs(gradient:totable()) do sum = sum + value * value end
      assert.is_true(sum > 0 and math.abs(math.sqrt(sum) - gradient:norm()) < 1e-6 * gradient:norm())
      assert(session:optim_step())
      expect.raises("is gone: read it between forward_backward and optim_step", gradient.norm, gradient)
    end)

    it("refuses a loss it does not have, listing those that exist", function()
      local session <close> = open()
      expect.raises('unknown loss "zzz"; known: cross_entropy', session.forward_backward, session, batch,
        "zzz")
      expect.raises('did you mean "cross_entropy"?', session.forward_backward, session, batch, "crossentropy")
      expect.raises("counts.cross_entropy must be a number", session.forward_backward, session, batch, "cross_entropy",
        { counts = {} })
    end)

    it("samples texts and ids alike, and nothing for no prompts", function()
      local session <close> = open()
      local greedy = { temperature = 0, max_tokens = 4 }
      local by_text = assert(session:sample({ "ab", "c" }, greedy))
      local by_ids = assert(session:sample({ session.tokenizer:prompt "ab", session.tokenizer:prompt "c" }, greedy))
      assert.equal(2, #by_text)
      assert.equal(by_text[1].text, by_ids[1].text)
      assert.equal(by_text[2].text, assert(session:sample("c", greedy))[1].text)
      assert.equal(#by_text[1].tokens, #by_text[1].logprobs)
      assert.same({}, assert(session:sample({}, greedy)))
      expect.raises("prompt 2 is empty", session.sample, session, { "a", "" }, greedy)
      expect.raises('unknown option "max_token"; did you mean "max_tokens"?', session.sample, session, { "a" },
        { max_token = 1 })
    end)

    it("streams what it returns", function()
      local session <close> = open()
      local streamed, finished = { "", "" }, {}
      local out = assert(session:sample({ "ab", "c" }, { temperature = 1, max_tokens = 6, seed = 3 }, function(event)
        streamed[event.prompt] = streamed[event.prompt] .. event.text
        if event.finish then finished[event.prompt] = event.finish end
      end))
      for i = 1, 2 do
        assert.equal(out[i].text, streamed[i])
        assert.equal(out[i].finish, finished[i])
      end
    end)

    it("fails by name when a prompt leaves no room", function()
      local session <close> = open()
      local result, message, code = session:sample({ ("ab "):rep(200) }, { max_tokens = 400 })
      expect.fails("context_overflow", "context", result, message, code)
    end)

    it("passes an error of on_token up and stays usable", function()
      local session <close> = open()
      expect.raises("enough", session.sample, session, { "ab" }, { temperature = 1, max_tokens = 6 },
        function() error("enough", 0) end)
      assert(session:sample({ "ab" }, { max_tokens = 2 }))
    end)

    it("scores choices after prompts", function()
      local session <close> = open()
      local scores = assert(session:score({ "ab:", "c:" }, { "x", "yy", "zzz" }))
      assert.equal(2, #scores)
      assert.equal(3, #scores[1])
      assert.is_true(scores[1][1] < 0)
      assert.same(scores[2], assert(session:score({ "c:" }, { { "x", "yy", "zzz" } }))[1])
      expect.raises("2 prompts and 1 lists of choices", session.score, session, { "a", "b" }, { { "x" } })
    end)

    it("goes on from a checkpoint to the same bytes", function()
      local function step(session)
        assert(session:forward_backward(batch))
        assert(session:optim_step {
          lr = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01, max_grad_norm = 1,
        })
      end
      local one <close> = open { experiment_id = "one" }
      step(one)
      local saved = assert(one:save_checkpoint "half")
      step(one)
      local two <close> = open { experiment_id = "two" }
      assert(two:forward_backward(batch)) -- left-over gradients must not matter
      local state = assert(two:load_checkpoint(saved.path))
      assert.equal(1, state.step)
      step(two)
      local a, b = assert(one:save_checkpoint "end"), assert(two:save_checkpoint "end")
      for _, file in ipairs { "adapter_model.safetensors", "optimizer.safetensors", "adapter_config.json" } do
        assert.equal(temp.read(a.path .. "/" .. file), temp.read(b.path .. "/" .. file), file)
      end
      assert.same({ "half", "end" }, { assert(one:checkpoints())[1].name, assert(one:checkpoints())[2].name })
      assert(one:load_checkpoint "half")
    end)

    it("opens a checkpoint beside itself and stays as it is", function()
      local session <close> = open()
      local saved = assert(session:save_checkpoint "start")
      assert(session:forward_backward(batch))
      assert(session:optim_step { lr = 0.1, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0,
        max_grad_norm = 0 })
      local before = assert(session:forward(batch)).logprobs[1][10]
      local other <close> = assert(session:open_checkpoint(saved.path))
      assert.not_equal(before, assert(other:forward(batch)).logprobs[1][10])
      assert.equal(before, assert(session:forward(batch)).logprobs[1][10])
      if engine.name == "the C core" then -- B starts at 0: the lora changes nothing yet
        assert.equal(assert(session:forward(batch, { base = true })).logprobs[1][10],
          assert(other:forward(batch)).logprobs[1][10])
      end
    end)

    it("refuses a checkpoint that is damaged, incomplete, of another shape or another base", function()
      local session <close> = open()
      local saved = assert(session:save_checkpoint "good")
      expect.fails("not_found", "no such checkpoint", session:load_checkpoint "none")
      local other <close> = open { config = { lora_rank = 2 } }
      expect.fails("format", "r is 4, expected 2", other:load_checkpoint(saved.path))
      local json = require "crucible.json"
      local state_path = saved.path .. "/trainer_state.json"
      local state = json.decode(temp.read(state_path))
      state.base_model.sha256 = ("0"):rep(64)
      temp.file(saved.path, "trainer_state.json", json.encode(state))
      expect.fails("format", "was made on another base model", session:load_checkpoint "good")
      assert(session:save_checkpoint "good")
      temp.file(saved.path, "optimizer.safetensors", "garbage")
      expect.fails("format", "optimizer.safetensors is damaged", session:load_checkpoint "good")
      os.remove(saved.path .. "/optimizer.safetensors")
      expect.fails("format", "optimizer.safetensors is missing", session:load_checkpoint "good")
      os.remove(state_path)
      expect.fails("format", "is not a complete checkpoint", session:load_checkpoint "good")
      assert.same({}, assert(session:checkpoints()))
      assert(session:load_checkpoint("good", { weights_only = true }))
    end)

    it("exports what PEFT reads", function()
      local session <close> = open()
      local folder = assert(session:export(temp.folder() .. "/peft"))
      local config = require("crucible.json").decode(temp.read(folder .. "/adapter_config.json"))
      assert.equal("LORA", config.peft_type)
      assert.equal(4, config.r)
      assert.equal(32, config.lora_alpha)
      assert.equal(0.05, config.lora_dropout)
      assert.same({ "q_proj", "v_proj", "k_proj", "o_proj" }, config.target_modules)
      assert.truthy(temp.read(folder .. "/adapter_model.safetensors"))
      expect.raises('format must be one of "peft", "gguf", "merged-safetensors", "merged-gguf", got "onnx"',
        session.export, session, folder, { format = "onnx" })
    end)

    it("shares one model among sessions, which outlive it", function()
      local model = assert(crucible.model(path))
      local one <close> = assert(model:session { config = { lora_rank = 2 }, runs = runs })
      local two <close> = assert(model:session { config = { lora_rank = 3 }, runs = runs, seed = 9 })
      model:close()
      model:close()
      assert.truthy(tostring(model):find("closed", 1, true))
      assert(one:forward(batch))
      assert(two:forward(batch))
      expect.raises("is closed", model.session, model, { config = {} })
    end)

    it("refuses a config that names another model than the one given", function()
      local model <close> = assert(crucible.model(path))
      expect.raises('config.base_model is "other" but the given model is', lora.create_session,
        { model = model, config = { base_model = "other" } })
      expect.raises("model must be a crucible.model", lora.create_session, { model = {}, config = {} })
    end)

    it("closes once and for all, and says so", function()
      local session = open()
      session:close()
      session:close()
      assert.truthy(tostring(session):find("closed", 1, true))
      expect.raises("is closed", session.forward, session, batch)
      expect.raises("is closed", session.sample, session, { "a" })
      expect.raises("is closed", session.save_checkpoint, session, "x")
    end)

    it("describes what runs it", function()
      local session <close> = open()
      local about = assert(session:describe())
      assert.equal("local", about.engine)
      assert.equal(64, #about.model.sha256)
      assert.equal(1, about.threads)
      assert.is_true(about.trained_parameters > 0)
      assert.is_nil(about.model.path)
    end)
  end)
end

describe("an adapter", function()
  local adapter = require "crucible.lora.adapter"

  it("that lacks functions is told which", function()
    local partial = {}
    for _, member in ipairs(adapter.functions) do partial[member.name] = print end
    partial.sampling_params, partial.generate_id = nil, 5
    local ok, message, names = adapter.check(partial)
    assert.is_nil(ok)
    assert.equal("the adapter lacks: generate_id, sampling_params", message)
    assert.same({ "generate_id", "sampling_params" }, names)
    expect.raises("the adapter lacks: generate_id, sampling_params", require("crucible").lora.use, partial)
  end)

  it("of one's own takes over lora's functions", function()
    local lora = require("crucible").lora
    local own = {}
    for name, f in pairs(adapter.find "local") do own[name] = f end
    own.generate_id = function() return "mine" end
    lora.use(own)
    assert.equal("mine", lora.generate_id())
    lora.use "local"
    assert.equal(16, #lora.generate_id())
  end)

  it("is refused by name when unknown", function()
    expect.raises('unknown adapter "locl"; did you mean "local"?', adapter.find, "locl")
    expect.raises('unknown adapter "cluster"; known: local, tinker', adapter.find, "cluster")
  end)

  it("has a line of doc for each member", function()
    for _, list in ipairs {
      adapter.functions, adapter.session_fields, adapter.session_methods, adapter.optional_methods,
      adapter.gradient_methods,
    } do
      for _, member in ipairs(list) do assert.is_true(#member.doc > 5, member.name) end
    end
  end)
end)
