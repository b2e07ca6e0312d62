-- Batches in, losses and log-probabilities out. That the numbers are right is the train floor's business.

local core = require "crucible.core"
local expect = require "spec.support.expect"
local shell = require "spec.support.shell"
local bind = require "spec.support.bind"

describe("Session", function()
  local session

  before_each(function() session = bind.session() end)
  after_each(function() session:close() end)

  describe(":forward", function()
    it("gives a log-probability a target, from 1", function()
      local logprobs = assert(session:forward({ { tokens = { 1, 2, 3 } }, { tokens = { 4, 5 }, targets = { 5, 6 } } }))
      assert.same({ 2, 2 }, { #logprobs[1], #logprobs[2] })
      for _, row in ipairs(logprobs) do
        for _, value in ipairs(row) do assert.truthy(value < 0) end
      end
    end)

    it("does not compute where the weight is 0", function()
      local row = assert(session:forward({ { tokens = { 1, 2, 3 }, weights = { 0, 1 } } }))[1]
      assert.truthy(row[1] ~= row[1])
      assert.truthy(row[2] < 0)
    end)

    it("ignores fields that are not its own, such as metadata", function()
      assert(session:forward({ { tokens = { 1, 2 }, metadata = { id = 1 } } }))
    end)

    it("takes whole floats for ids", function()
      assert.same(session:forward({ { tokens = { 1, 2 } } }), session:forward({ { tokens = { 1.0, 2.0 } } }))
    end)

    it("agrees with the base before the first step", function()
      local batch = bind.batch(2, 6)
      assert.same(session:forward(batch, { base = true }), session:forward(batch))
    end)

    it("returns argument for a token outside the vocabulary", function()
      expect.fails("argument", "99999", session:forward({ { tokens = { 1, 99999 } } }))
      expect.fails("argument", "-5", session:forward({ { tokens = { 1, -5 } } }))
    end)

    it("reads lists raw", function()
      local trap = setmetatable({}, { __index = function() error("asked") end, __len = function() return 3 end })
      expect.raises("batch: expected at least one datum", session.forward, session, trap)
    end)

    local long = {}
    for i = 1, 8 do long[i] = i end
    local refused = {
      { "no batch", nil, "batch: expected a list, got nil" },
      { "an empty batch", {}, "batch: expected at least one datum" },
      { "a list of tokens for a batch", { 1, 2 }, "datum 1: expected a table with tokens, got number" },
      { "a datum without tokens", { { tokens = { 1, 2 } }, {} }, "datum 2: tokens is missing" },
      { "tokens that are no list", { { tokens = "12" } }, "datum 1: tokens: expected a list, got string" },
      { "one token without targets", { { tokens = { 1 } } }, "datum 1: tokens has 1 values, expected at least 2" },
      { "no tokens", { { tokens = {}, targets = {} } }, "datum 1: tokens has 0 values, expected at least 1" },
      { "a broken token", { { tokens = { 1, 2.5 } } }, "datum 1: tokens[2]: expected an integer of 32 bits, got 2.5" },
      { "a token in quotes", { { tokens = { "1", 2 } } }, "tokens[1]: expected an integer of 32 bits, got string" },
      { "a token beyond 32 bits", { { tokens = { 1 << 31, 2 } } }, "of 32 bits, got 2147483648" },
      { "too few targets", { { tokens = { 1, 2 }, targets = { 1 } } },
        "datum 1: targets has 1 values, expected 2 (one per token)" },
      { "too few weights",
        { { tokens = { 1, 2 } }, { tokens = { 1, 2 } }, { tokens = long, weights = { 1, 1, 1, 1, 1 } } },
        "datum 3: weights has 5 values, expected 7 (one per target)" },
      { "a weight for every token", { { tokens = { 1, 2 }, weights = { 1, 1 } } },
        "datum 1: weights has 2 values, expected 1 (one per target)" },
      { "a weight in quotes", { { tokens = { 1, 2 }, weights = { "1" } } },
        "datum 1: weights[1]: expected a finite number, got string" },
      { "an infinite weight", { { tokens = { 1, 2 }, weights = { math.huge } } },
        "datum 1: weights[1]: expected a finite number, got inf" },
      { "a weight that overflows single precision", { { tokens = { 1, 2 }, weights = { 1e300 } } },
        "weights[1]: expected a finite number, got 1e+300" },
    }

    for _, case in ipairs(refused) do
      it("refuses " .. case[1], function()
        expect.raises(case[3], session.forward, session, case[2])
        expect.raises(case[3], session.forward_backward, session, case[2])
      end)
    end

    it("refuses unknown options and options of another type", function()
      expect.raises("unknown field 'bass'; known: base", session.forward, session, bind.batch(1, 3), { bass = true })
      expect.raises("base: expected a boolean, got 1", session.forward, session, bind.batch(1, 3), { base = 1 })
      expect.raises("table expected, got boolean", session.forward, session, bind.batch(1, 3), true)
    end)
  end)

  describe(":forward_backward", function()
    it("counts what it saw and scales the loss", function()
      local batch = { { tokens = { 1, 2, 3 } }, { tokens = { 4, 5, 6 }, weights = { 0, 2 } } }
      local result = assert(session:forward_backward(batch))
      assert.equal(4, result.tokens)
      assert.equal(3, result.supervised)
      assert.is_nil(result.logprobs)
      assert.near(result.sum / 3, result.loss, 1e-6 * result.loss)
      local scaled = assert(session:forward_backward(batch, { scale = 0.5 }))
      assert.near(0.5 * scaled.sum, scaled.loss, 1e-6 * scaled.loss)
    end)

    it("gives the log-probabilities on request", function()
      local batch = bind.batch(2, 5)
      local result = assert(session:forward_backward(batch, { logprobs = true }))
      local sum = 0
      for _, row in ipairs(result.logprobs) do
        assert.equal(4, #row)
        for _, value in ipairs(row) do sum = sum - value end
      end
      assert.near(result.sum, sum, 1e-4 * sum)
    end)

    it("refuses scale 0, which would mean the mean, and unknown options", function()
      local batch = bind.batch(1, 3)
      expect.raises("scale: expected a number other than 0", session.forward_backward, session, batch, { scale = 0 })
      expect.raises("scale: expected a finite number, got inf", session.forward_backward, session, batch,
        { scale = math.huge })
      expect.raises("unknown field 'mean'; known: scale, logprobs", session.forward_backward, session, batch,
        { mean = true })
    end)
  end)

  describe(":optim_step", function()
    it("updates, tells the norms and counts", function()
      assert(session:forward_backward(bind.batch(1, 6)))
      local result = assert(session:optim_step({ lr = 1e-3 }))
      assert.truthy(result.grad_norm > 0)
      assert.truthy(result.update_norm > 0)
      assert.is_false(result.skipped)
      assert.equal(1, result.step)
      assert.equal(1, session:step())
      assert.equal("crucible.session(rank 4 on q_proj,v_proj; step 1)", tostring(session))
    end)

    local refused = {
      { {}, "lr is missing: expected a finite number >= 0" },
      { { lr = -1 }, "lr: expected a finite number >= 0, got -1" },
      { { lr = 0 / 0 }, "lr: expected a finite number >= 0" },
      { { lr = 1, beta1 = 1 }, "beta1: expected a finite number >= 0 and < 1, got 1" },
      { { lr = 1, beta2 = -1 }, "beta2: expected a finite number >= 0 and < 1, got -1" },
      { { lr = 1, eps = 0 }, "eps: expected a finite number > 0, got 0" },
      { { lr = 1, weight_decay = "0" }, "weight_decay: expected a finite number >= 0, got string" },
      { { lr = 1, max_grad_norm = -1 }, "max_grad_norm: expected a finite number >= 0, got -1" },
      { { lr = 1, learning_rate = 1 }, "unknown field 'learning_rate'; known: lr, beta1" },
    }

    for _, case in ipairs(refused) do
      it("refuses: " .. case[2], function() expect.raises(case[2], session.optim_step, session, case[1]) end)
    end
  end)

  it(":zero_gradients forgets what was added", function()
    local name = session:parameters()[2].name
    assert(session:forward_backward(bind.batch(1, 6)))
    assert.truthy(session:norm(name, "gradient") > 0)
    session:zero_gradients()
    assert.equal(0, session:norm(name, "gradient"))
  end)

  it(":step is set for resuming", function()
    assert.equal(0, session:step())
    assert.equal(41, session:step(41))
    assert.equal(41, session:step())
    expect.raises("expected a step >= 0", session.step, session, -1)
    expect.raises("number expected, got string", session.step, session, "x")
  end)

  it(":cancel ends the running call alone: between calls it changes nothing", function()
    session:cancel()
    assert(session:forward(bind.batch(1, 4)))
    session:cancel()
    assert(session:forward_backward(bind.batch(1, 4)))
    session:cancel()
    assert(session:optim_step({ lr = 0 }))
  end)

  it(":memory plans a step's bytes", function()
    local small, large = assert(session:memory({ 4 })), assert(session:memory({ 64, 64 }))
    for _, name in ipairs({ "weights_mapped", "lora", "activations", "scratch" }) do
      assert.equal("integer", math.type(small[name]), name)
    end
    assert.truthy(large.activations > small.activations)
    expect.raises("lengths: expected a list, got nil", session.memory, session)
    expect.raises("lengths[2]: expected a length >= 1, got 0", session.memory, session, { 4, 0 })
  end)

  describe("files", function()
    local folder

    before_each(function() folder = shell.temporary_folder() end)
    after_each(function() shell.remove_tree(folder) end)

    it("bring the lora and the optimiser back, value for value", function()
      local names = session:parameters()
      assert(session:forward_backward(bind.batch(2, 8)))
      assert(session:optim_step({ lr = 1e-2 }))
      assert.is_true(session:save_lora(folder .. "/lora.safetensors"))
      assert.is_true(session:save_optimizer(folder .. "/optimizer.safetensors"))
      local other <close> = bind.session({ seed = 8 })
      assert.is_true(other:load_lora(folder .. "/lora.safetensors"))
      assert.is_true(other:load_optimizer(folder .. "/optimizer.safetensors"))
      assert.equal(1, other:step())
      for _, parameter in ipairs(names) do
        for _, which in ipairs({ "value", "moment1", "moment2" }) do
          assert.same(session:read(parameter.name, which), other:read(parameter.name, which))
        end
      end
    end)

    it("return the reason when they cannot be read or written", function()
      local path = folder .. "/absent/file.safetensors"
      for _, save in ipairs({ session.save_lora, session.save_optimizer }) do
        local result, message, code = save(session, path)
        assert.is_nil(result)
        assert.truthy(code == "io" or code == "not_found", code)
        assert.truthy(message:find("absent", 1, true), message)
      end
      expect.fails("not_found", path, session:load_lora(path))
      expect.fails("not_found", path, session:load_optimizer(path))
    end)

    it("refuse a path with a NUL byte", function()
      for _, name in ipairs({ "save_lora", "load_lora", "save_optimizer", "load_optimizer" }) do
        expect.raises("a path holds no NUL byte", session[name], session, "a\0b")
        expect.raises("string expected", session[name], session)
      end
    end)
  end)

  it("works from coroutines and several sessions in turn", function()
    local other <close> = bind.session({ seed = 9 })
    local batch = bind.batch(1, 5)
    local run = coroutine.wrap(function(one)
      while true do one = coroutine.yield(assert(one:forward(batch, { base = true }))) end
    end)
    assert.same(run(session), run(other))
  end)

  it("is independent of the module table it came from", function()
    assert.equal(core.targets()[1], session:parameters()[1].target)
  end)
end)
