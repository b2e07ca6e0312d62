-- What a session is asked for that cannot be: one clear error, and the session as it was.
require "crucible.core"
local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local tiny_model = require "spec.support.tiny_model"

local function tokens(count)
  local out = {}
  for i = 1, count do out[i] = i * 7 % 300 end
  return out
end

-- Values and gradients of every matrix, as bits.
local function state(session)
  local out = { tostring(session:step()) }
  for _, p in ipairs(session:parameters()) do
    for _, which in ipairs({ "value", "gradient" }) do out[#out + 1] = lists.bits(session:read(p.name, which)) end
  end
  return table.concat(out)
end

describe("Model:session", function()
  local function config(changes)
    return lists.with({ rank = 4, alpha = 8, dropout = 0, targets = { "q_proj" }, threads = 1 }, changes)
  end

  local refused = {
    { "rank 0", { rank = 0 }, "rank: expected an integer >= 1, got 0" },
    { "rank -1", { rank = -1 }, "rank: expected an integer >= 1, got -1" },
    { "half a rank", { rank = 1.5 }, "rank: expected an integer >= 1, got 1.5" },
    { "alpha 0", { alpha = 0 }, "alpha: expected a finite number > 0, got 0" },
    { "an infinite alpha", { alpha = math.huge }, "alpha: expected a finite number > 0, got inf" },
    { "dropout 1", { dropout = 1 }, "dropout: expected a finite number >= 0 and < 1, got 1" },
    { "NaN for dropout", { dropout = 0 / 0 }, "dropout: expected a finite number >= 0 and < 1" },
    { "an unknown target", { targets = { "q_proj", "lm_head" } }, "targets[2]: expected one of q_proj, k_proj, v_proj, "
      .. "o_proj, gate_proj, up_proj, down_proj, got lm_head" },
    { "no targets", { targets = {} }, "targets: expected at least one projection" },
    { "an unknown option", { ranks = 4 }, "unknown field 'ranks'; known: rank, alpha" },
  }

  for _, case in ipairs(refused) do
    it("refuses " .. case[1], function()
      local model <close> = tiny_model.open()
      expect.raises(case[3], model.session, model, config(case[2]))
    end)
  end

  it("returns what the engine cannot do as an error of the world", function()
    local model <close> = tiny_model.open()
    expect.fails("argument", "rank must be 1 to 4096, got 5000", model:session(config({ rank = 5000 })))
    expect.fails("argument", "threads must be 1 to 256, got 1000", model:session(config({ threads = 1000 })))
  end)
end)

describe("a batch", function()
  local session, before

  before_each(function()
    session = tiny_model.session()
    assert(session:forward_backward({ { tokens = tokens(9) } })) -- gradients that must survive
    before = state(session)
  end)

  after_each(function() session:close() end)

  local fails = {
    { "beyond the context", { { tokens = { 1, 2 } }, { tokens = tokens(514) } }, "context_overflow",
      "datum 2: 513 positions exceed the model's context of 512" },
    { "with an id at the vocabulary's end", { { tokens = { 1, 320 } } }, "argument",
      "datum 1: token 2 is 320, expected 0 to 319" },
    { "with a negative id", { { tokens = { 1, 2 } }, { tokens = { -1, 2 } } }, "argument",
      "datum 2: token 1 is -1, expected 0 to 319" },
    { "with a target that is no id", { { tokens = { 1, 2 }, targets = { 3, 1000 } } }, "argument",
      "datum 1: target 2 is 1000, expected 0 to 319" },
  }

  for _, case in ipairs(fails) do
    it(case[1] .. " is refused by every call", function()
      for _, call in ipairs({ session.forward, session.forward_backward }) do
        expect.fails(case[3], case[4], call(session, case[2]))
        assert.is_true(before == state(session))
      end
    end)
  end

  local raises = {
    { "that is empty", {}, "batch: expected at least one datum" },
    { "without tokens", { { weights = { 1 } } }, "datum 1: tokens is missing" },
    { "of one token", { { tokens = { 1 } } }, "datum 1: tokens has 1 values, expected at least 2" },
    { "with a weight too few", { { tokens = { 1, 2, 3 }, weights = { 1 } } },
      "datum 1: weights has 1 values, expected 2 (one per target)" },
    { "with NaN for a weight", { { tokens = { 1, 2, 3 }, weights = { 1, 0 / 0 } } },
      "datum 1: weights[2]: expected a finite number" },
    { "with an infinite weight", { { tokens = { 1, 2, 3 }, weights = { 1, math.huge } } },
      "datum 1: weights[2]: expected a finite number" },
    { "with half a token", { { tokens = { 1, 2.5 } } }, "datum 1: tokens[2]: expected an integer of 32 bits, got 2.5" },
  }

  for _, case in ipairs(raises) do
    it(case[1] .. " is refused by every call", function()
      for _, call in ipairs({ session.forward, session.forward_backward }) do
        expect.raises(case[3], call, session, case[2])
        assert.is_true(before == state(session))
      end
    end)
  end

  it("without a supervised target has no mean, but a sum", function()
    local rows = { { tokens = { 1, 2, 3 }, weights = { 0, 0 } } }
    expect.fails("argument", "no target of the batch has a weight other than 0", session:forward_backward(rows))
    local result = assert(session:forward_backward(rows, { scale = 1 }))
    assert.equal(0, result.loss)
    assert.equal(0, result.supervised)
    assert.is_true(before == state(session))
  end)

  it("has no loss of a negative or absent scale", function()
    local rows = { { tokens = { 1, 2, 3 } } }
    expect.fails("argument", "the loss's scale must be a number not below 0, got -1",
      session:forward_backward(rows, { scale = -1 }))
    expect.raises("scale: expected a number other than 0", session.forward_backward, session, rows, { scale = 0 })
    expect.raises("scale: expected a finite number", session.forward_backward, session, rows, { scale = 0 / 0 })
    assert.is_true(before == state(session))
  end)

  it("of the whole context is accepted, on any layout", function()
    for _, recompute in ipairs({ false, true }) do
      local other <close> = tiny_model.session({ recompute = recompute, micro_batch_tokens = 100 })
      local result = assert(other:forward_backward({ { tokens = tokens(513) }, { tokens = tokens(2) } }))
      assert.equal(513, result.tokens)
    end
  end)
end)

describe("branches that hold no numbers any more", function()
  -- Large enough for the network to overflow, by the ordinary way.
  local function broken()
    local session = tiny_model.session()
    for _, p in ipairs(session:parameters()) do session:write(p.name, lists.fill(p.rows * p.columns, 3e38)) end
    return session
  end

  it("show in the loss and the log-probabilities, and the step is skipped", function()
    local session <close> = broken()
    local result = assert(session:forward_backward({ { tokens = tokens(9) } }, { logprobs = true }))
    assert.is_true(result.loss ~= result.loss)
    assert.is_true(result.logprobs[1][8] ~= result.logprobs[1][8])
    local before = session:read(session:parameters()[1].name)
    assert.is_true(assert(session:optim_step({ lr = 1 })).skipped)
    assert.same(before, session:read(session:parameters()[1].name))
  end)

  it("still give tokens of the vocabulary (sampling from NaN once read outside its list)", function()
    local session <close> = broken()
    for _, params in ipairs({ { temperature = 0 }, { temperature = 1 }, { temperature = 1, top_k = 3 },
      { temperature = 0.5, top_p = 0.5 } }) do
      local generation <close> = assert(session:generate({ { 1, 2 } }, lists.with(params, { max_tokens = 3 })))
      for _ = 1, 3 do
        local event = assert(generation:step())[1]
        assert.is_true(event.token >= 0 and event.token < 320)
        assert.is_true(event.logprob ~= event.logprob)
      end
    end
    local score = assert(session:score({ { 1, 2 } }, { { { 3 } } }))[1][1]
    assert.is_true(score ~= score)
  end)

  it("leave the base as it was", function()
    local session <close> = broken()
    local fresh <close> = tiny_model.session()
    local rows = { { tokens = tokens(9) } }
    assert.same(fresh:forward(rows, { base = true }), session:forward(rows, { base = true }))
  end)
end)
