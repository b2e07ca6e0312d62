-- The contract of lora.adapter, held against every engine: the same script, the same numbers.
local expect = require "spec.support.expect"
local lora = require("crucible").lora
local remote = require "spec.support.remote_sessions"
local standin = require "spec.support.tinker_standin"
local temp = require "spec.support.temp"

local batch = { remote.datum("hello world", 5), remote.datum("abcabc", 2), remote.datum("to be or not", 7) }
local adam = { lr = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01, max_grad_norm = 1 }

local server
local engines = {
  { name = "local", open = function(options) return remote.twin(options) end },
  { name = "tinker", open = function(options) return assert(remote.session(server, options)) end },
}

-- What the local engine finds is what the others must find.
local expected = {}

local function near(name, value, tolerance)
  expected[name] = expected[name] or value
  assert.is_true(math.abs(value - expected[name]) <= tolerance * math.max(1, math.abs(expected[name])),
    ("%s is %.9g, the local engine has %.9g"):format(name, value, expected[name]))
end

local function rows(count)
  local list = {}
  for i = 1, count do
    list[i] = { input = ("claim %d is %d:"):format(i, i * 7), output = i % 3 == 0 and "no" or "yes" }
  end
  return list
end

local squared = {
  name = "squared", outputs = { "logprobs" },
  compute = function(predictions, targets)
    local loss = 0
    for i, target in ipairs(targets) do loss = loss + (predictions.logprobs[i] ^ 2 * target.weights):sum() end
    return { loss = loss, seen = #targets }
  end,
}

for _, engine in ipairs(engines) do
  describe("the contract, kept by the " .. engine.name .. " engine:", function()
    local runs

    setup(function()
      server = engine.name == "tinker" and standin.start { kind = "hosted", idle_seconds = 1800 } or nil
    end)
    teardown(function() if server then server:stop() end end)
    before_each(function() runs = temp.folder() end)

    local function it_holds(title, body)
      it(title, function()
        if engine.name == "tinker" and not server then return pending "LuaSocket is not installed" end
        local session <close> = engine.open { runs = runs, seed = 7 }
        body(session)
      end)
    end

    it_holds("every member is there", function(session)
      assert.is_true(lora.adapter.check(lora.adapter.find(engine.name)))
      assert.is_true(lora.adapter.check_session(session))
      assert.equal(engine.name, session.engine)
      assert.equal(runs .. "/" .. session.experiment_id, session.run_dir)
      assert.truthy(session.started_at:match "^%d%d%d%d%-")
      assert.equal(7, session.seed)
      assert.equal(512, session.context)
      assert.equal(engine.name, assert(session:describe()).engine)
    end)

    it_holds("forward gives log-probabilities of the supervised targets, the same ones", function(session)
      local logprobs = assert(session:forward(batch)).logprobs
      assert.equal(10, #logprobs[1])
      assert.not_equal(logprobs[1][1], logprobs[1][1])
      for i, list in ipairs(logprobs) do
        for t, value in ipairs(list) do
          if value == value then near(("logprob %d.%d"):format(i, t), value, 1e-5) end
        end
      end
      local seen = assert(session:forward(batch, { outputs = { "logprobs" } })).logprobs
      assert.is_true(math.abs(seen[1]:totable()[10] - logprobs[1][10]) < 1e-6)
    end)

    it_holds("twenty steps of cross-entropy have the same losses", function(session)
      for step = 1, 20 do
        local found = assert(session:forward_backward(batch))
        near("loss " .. step, found.loss, 1e-4)
        assert.equal(found.loss, found.components.cross_entropy)
        assert.equal(15, found.supervised)
        assert.equal(26, found.tokens)
        assert.same({ cross_entropy = 15 }, found.counts)
        local update = assert(session:optim_step(adam))
        assert.is_false(update.skipped)
        assert.equal(step, update.step)
      end
      assert.is_true(expected["loss 20"] < 0.8 * expected["loss 1"])
    end)

    it_holds("batches of one step add up with its counts", function(session)
      for step = 1, 3 do
        local total = 0
        for _, datum in ipairs(batch) do
          total = total + assert(session:forward_backward({ datum }, nil, { counts = { cross_entropy = 15 } })).loss
        end
        near("added loss " .. step, total, 1e-4)
        assert(session:optim_step(adam))
      end
    end)

    it_holds("each reduction of cross-entropy means the same", function(session)
      for _, name in ipairs { "sequence_mean", "sum" } do
        for step = 1, 3 do
          local found = assert(session:forward_backward(batch, { "cross_entropy", { reduction = name } }))
          near(("%s %d"):format(name, step), found.loss, 1e-4)
          assert(session:optim_step(adam))
        end
      end
    end)

    it_holds("a loss written in Lua has the same values and pulls the same way", function(session)
      for step = 1, 5 do
        local found = assert(session:forward_backward(batch, squared))
        near("squared " .. step, found.loss, 1e-4)
        assert.equal(found.loss, found.components.squared)
        assert(session:optim_step(adam))
      end
    end)

    it_holds("composites list their terms", function(session)
      local composite = lora.loss_functions.composite({ "cross_entropy", squared }, { 0.5, 0.25 })
      for step = 1, 3 do
        local found = assert(session:forward_backward(batch, composite))
        near("composite " .. step, found.loss, 1e-4)
        near("composite cross-entropy " .. step, found.components.cross_entropy, 1e-4)
        assert(session:optim_step(adam))
      end
    end)

    it_holds("gradients that were dropped leave no trace", function(session)
      assert(session:forward_backward(batch))
      assert(session:optim_step(adam))
      assert(session:forward_backward({ batch[2] }))
      session:zero_gradients()
      near("loss 2", assert(session:forward_backward(batch)).loss, 1e-4)
      assert(session:optim_step(adam))
      near("loss 3", assert(session:forward_backward(batch)).loss, 1e-4)
    end)

    it_holds("greedy completions are the same, as texts and as ids", function(session)
      local greedy = { temperature = 0, max_tokens = 6 }
      local found = assert(session:sample({ "ab", session.tokenizer:prompt "c" }, greedy))
      expected.texts = expected.texts or { found[1].text, found[2].text }
      assert.same(expected.texts, { found[1].text, found[2].text })
      assert.equal(#found[1].tokens, #found[1].logprobs)
      assert.equal(found[2].text, assert(session:sample("c", greedy))[1].text)
      assert.same({}, assert(session:sample({}, greedy)))
      expect.raises("prompt 2 is empty", session.sample, session, { "a", "" }, greedy)
      expect.raises('did you mean "max_tokens"?', session.sample, session, { "a" }, { max_token = 1 })
      expect.fails("context_overflow", "context", session:sample({ ("ab "):rep(200) }, { max_tokens = 400 }))
    end)

    it_holds("what is streamed is what is returned, and errors of on_token pass", function(session)
      local streamed, finished = { "", "" }, {}
      local found = assert(session:sample({ "ab", "c" }, { temperature = 1, max_tokens = 6, seed = 3 }, function(event)
        streamed[event.prompt] = streamed[event.prompt] .. event.text
        if event.finish then finished[event.prompt] = event.finish end
      end))
      for i = 1, 2 do
        assert.equal(found[i].text, streamed[i])
        assert.equal(found[i].finish, finished[i])
      end
      expect.raises("enough", session.sample, session, { "ab" }, { temperature = 1, max_tokens = 6 },
        function() error("enough", 0) end)
      assert(session:sample({ "ab" }, { max_tokens = 2 }))
    end)

    it_holds("choices have the same scores", function(session)
      local scores = assert(session:score({ "ab:", "c:" }, { "x", "yy" }))
      for i = 1, 2 do
        for c = 1, 2 do near(("score %d.%d"):format(i, c), scores[i][c], 1e-5) end
      end
      expect.raises("2 prompts and 1 lists of choices", session.score, session, { "a", "b" }, { { "x" } })
    end)

    it_holds("a checkpoint is gone on from, and opened beside", function(session)
      assert(session:forward_backward(batch))
      assert(session:optim_step(adam))
      local saved = assert(session:save_checkpoint "half")
      local losses = {}
      for step = 1, 2 do
        losses[step] = assert(session:forward_backward(batch)).loss
        assert(session:optim_step(adam))
      end
      local last = assert(session:forward(batch)).logprobs[1][10]
      assert.equal(1, assert(session:load_checkpoint "half").step)
      for step = 1, 2 do
        assert.is_true(math.abs(losses[step] - assert(session:forward_backward(batch)).loss) < 1e-6)
        assert.equal(step + 1, assert(session:optim_step(adam)).step)
      end
      assert.is_true(math.abs(last - assert(session:forward(batch)).logprobs[1][10]) < 1e-6)
      local other <close> = assert(session:open_checkpoint(saved.path))
      assert.not_equal(last, assert(other:forward(batch)).logprobs[1][10])
      assert.is_true(math.abs(last - assert(session:forward(batch)).logprobs[1][10]) < 1e-6)
      assert.equal("half", assert(session:checkpoints())[1].name)
      expect.fails("not_found", "no such checkpoint", session:load_checkpoint "none")
    end)

    it_holds("misuse raises and bad data is refused before anything runs", function(session)
      expect.raises('unknown loss "zzz"', session.forward_backward, session, batch, "zzz")
      expect.raises("counts.cross_entropy must be a number", session.forward_backward, session, batch, "cross_entropy",
        { counts = {} })
      local result, message, code = session:forward { { tokens = { 5, 1000000, 7 } } }
      expect.fails("argument", "1000000", result, message, code)
      assert.is_false((pcall(session.forward, session, { { tokens = { 5, 6, 7 }, weights = { 1 } } })))
      expect.fails("context_overflow", "context", session:forward { remote.datum(("x"):rep(600), 1) })
      assert(session:forward(batch))
    end)

    it_holds("a run trains, evaluates, keeps its books and is resumed", function(session)
      local options = { epochs = 2, batch_size = 4, checkpoint_every = 3, evaluate = { dataset = rows(4) },
        run_dir = runs .. "/one" }
      local results = assert(lora.training_loop.run(session, rows(12), options))
      assert.equal(6, results.total_steps)
      assert.equal("finished", results.status)
      near("run, epoch 1", results.epochs[1].mean_loss, 1e-4)
      near("run, epoch 2", results.epochs[2].mean_loss, 1e-4)
      near("run, evaluation", results.evaluations[2].metrics.loss, 1e-4)
      assert.equal(2, #results.checkpoints)
      local lines = 0
      for _ in temp.read(runs .. "/one/telemetry.jsonl"):gmatch "\n" do lines = lines + 1 end
      assert.equal(6, lines)
      local longer = { epochs = 3, batch_size = 4, checkpoint_every = 3, evaluate = { dataset = rows(4) },
        run_dir = runs .. "/one", resume = "step_000003" }
      local other <close> = engine.open { runs = runs, seed = 7 }
      local resumed = assert(lora.training_loop.run(other, rows(12), longer))
      assert.equal(9, resumed.total_steps)
      assert.is_true(math.abs(resumed.epochs[2].mean_loss - results.epochs[2].mean_loss) < 1e-5)
    end)

    it_holds("an evaluation finds the same", function(session)
      local found = assert(lora.evaluation.evaluate(session, rows(6), { metrics = { "accuracy", "perplexity" } }))
      near("perplexity", found.metrics.perplexity, 1e-4)
      near("accuracy", found.metrics.accuracy, 1e-9)
      found = assert(lora.evaluation.evaluate(session, rows(6), { mode = "likelihood" }))
      near("accuracy by likelihood", found.metrics.accuracy, 1e-9)
    end)

    it_holds("what is closed says so", function(session)
      session:close()
      session:close()
      assert.truthy(tostring(session):find("closed", 1, true))
      expect.raises("is closed", session.forward, session, batch)
      expect.raises("is closed", session.sample, session, { "a" })
      expect.raises("is closed", session.save_checkpoint, session, "x")
    end)
  end)
end
