-- Questions in, values and slopes out. That the numbers are right is the train floor's business.
local core = require "crucible.core"
local bind = require "spec.support.bind"
local expect = require "spec.support.expect"

local array = core.tensor

describe("Session:predict", function()
  local session

  before_each(function() session = bind.session() end)
  after_each(function() session:close() end)

  local batch = { { tokens = { 1, 2, 3, 4 }, weights = { 0, 1, 0.5 } }, { tokens = { 5, 6 } } }

  it("says where each output begins and gives the values where they lie", function()
    local found = assert(session:predict(batch, {
      outputs = { "logprobs", "candidates", "hidden" },
      questions = { { positions = { 3, 1 }, counts = { 2, 1 }, ids = { 7, 8, 9 }, spans = { 1, 3 } }, {} },
    }))
    local first, second = found.answers[1], found.answers[2]
    assert.same({ 3, 1, 1, 4, 7 }, { first.length, first.spans, first.logprobs, first.candidates, first.hidden })
    assert.same({ 1, 0, 7 + found.width }, { second.length, second.spans, second.logprobs })
    assert.same({ 3, 4, true }, { found.supervised, found.tokens, found.finite })
    local values = array.totable(session:prediction_tensor("values"))
    assert.equal(7 + found.width, #values)
    assert.equal(0, values[1])
    assert.is_true(values[2] < 0 and values[4] < 0)
    expect.fails("argument", "was made without `train`: it has no slopes", session:prediction_tensor("slopes"))
    expect.fails("argument", "was made without `train`: nothing was kept of it", session:backward())
  end)

  it("takes slopes and adds gradients", function()
    assert(session:predict(batch, { outputs = { "logprobs" }, train = true }))
    local slopes = assert(session:prediction_tensor("slopes"))
    assert.same({ 0, 0, 0, 0 }, array.totable(slopes))
    assert(array.add(slopes, array.new({ 1, -1, -0.5, -1 }, "f64"), 1))
    assert(session:backward())
    local mine = session:read(session:parameters()[2].name, "gradient")
    session:zero_gradients()
    assert(session:forward_backward(batch, { scale = 1 }))
    assert.same(session:read(session:parameters()[2].name, "gradient"), mine)
  end)

  it("ends with the next work, an update and end_prediction, and its tensors with it", function()
    local ways = {
      function() assert(session:forward(batch)) end,
      function() assert(session:forward_backward(batch)) end,
      function() assert(session:score({ { 1 } }, { { { 2 } } })) end,
      function() assert(session:optim_step({ lr = 0 })) end,
      function() session:end_prediction() end,
    }
    for _, way in ipairs(ways) do
      assert(session:predict(batch, { outputs = { "entropy" }, train = true }))
      local values = assert(session:prediction_tensor("values"))
      way()
      expect.fails("argument", "gone: the step that this prediction belongs to is over", array.totable(values))
      expect.fails("argument", "there is no prediction", session:backward())
      expect.fails("argument", "there is no prediction", session:prediction_tensor("values"))
    end
  end)

  it("tells the log-probability of the likeliest token, to the bit", function()
    local all, model = {}, bind.model()
    for id = 0, model:info().vocabulary - 1 do all[id + 1] = id end
    model:close()
    local rows = bind.batch(1, 6)
    local question = { positions = { 1, 2, 3, 4, 5 }, counts = {}, ids = {} }
    for p = 1, 5 do
      question.counts[p] = #all
      table.move(all, 1, #all, #question.ids + 1, question.ids)
    end
    local found = assert(session:predict(rows, { outputs = { "likeliest", "candidates" }, questions = { question } }))
    local values = assert(array.totable(assert(session:prediction_tensor("values"))))
    local answer = found.answers[1]
    for p = 1, 5 do
      local most = -math.huge
      for k = 1, #all do most = math.max(most, values[answer.candidates + (p - 1) * #all + k - 1]) end
      assert.equal(most, values[answer.likeliest + p - 1])
    end
    session:end_prediction()
  end)

  it("refuses what cannot be asked", function()
    local function refuses(message, request)
      expect.raises(message, session.predict, session, batch, request)
    end
    refuses("there is no output logits", { outputs = { "logits" } })
    refuses("outputs", {})
    refuses("expected one a datum", { outputs = { "hidden" }, questions = { {} } })
    refuses("question 2: expected a count a position", { outputs = { "candidates" },
      questions = { {}, { positions = { 1 } } } })
    refuses("question 1 has 1 ids, expected 2", { outputs = { "candidates" },
      questions = { { positions = { 1 }, counts = { 2 }, ids = { 1 } }, {} } })
    refuses("there is no kind kl", { outputs = {}, comparisons = { { kind = "kl" } } })
    refuses("comparisons: expected tables", { outputs = {}, comparisons = { 1 } })
    refuses("temperature", { outputs = {}, comparisons = { { kind = "forward_kl", temperature = 0 } } })
    refuses("teacher", { outputs = {}, comparisons = { { kind = "forward_kl", teacher = 1 } } })
    local many = {}
    for i = 1, 9 do many[i] = { kind = "forward_kl" } end
    refuses("expected at most 8", { outputs = {}, comparisons = many })
    expect.fails("argument", "a session cannot be its own teacher",
      session:predict(batch, { outputs = {}, comparisons = { { kind = "forward_kl", teacher = session } } }))
    local function fails(message, question, outputs)
      expect.fails("argument", message,
        session:predict(batch, { outputs = outputs or { "candidates", "hidden" }, questions = { {}, question } }))
    end
    fails("datum 2: candidates at position 2, expected 1 to 1", { positions = { 2 }, counts = { 1 }, ids = { 1 } })
    fails("datum 2: candidate -1, expected a token from 0", { positions = { 1 }, counts = { 1 }, ids = { -1 } })
    fails("datum 2: -1 candidates at position 1, expected 0 or more", { positions = { 1 }, counts = { -1 }, ids = {} })
    fails("datum 2: span 1 is 1 to 2, expected positions from 1 to 1", { spans = { 1, 2 } })
    fails("outputs must be CR_* bits", {}, {})
  end)

  it("keeps apart what each term adds, until the gradients are zero again", function()
    assert(session:predict(batch, { outputs = { "logprobs" }, train = true }))
    expect.fails("argument", "gradients are shared among 0 terms, there is no number 1", session:backward(1))
    assert(session:share_gradients(2))
    local slopes = assert(session:prediction_tensor("slopes"))
    for term, slope in ipairs { 1, -3 } do
      array.fill(slopes, slope)
      assert(session:backward(term))
    end
    local first, own = session:share(1)
    local second, opposite = session:share(2)
    assert.near(3 * first, second, 1e-4 * second)
    assert.near(1, own, 1e-6)
    assert.near(-1, opposite, 1e-6)
    expect.fails("argument", "there is no number 3", session:share(3))
    session:zero_gradients()
    assert.equal(0, (session:share(1)))
    assert(session:share_gradients(0))
    expect.raises("expected a number of terms", session.share_gradients, session, -1)
  end)

  it("counts datums that were passed over for the masks", function()
    session:close()
    session = bind.session({ dropout = 0.5 })
    local function first_gradient()
      assert(session:predict({ batch[1] }, { outputs = { "logprobs" }, train = true }))
      assert(array.add(session:prediction_tensor("slopes"), array.full({ 3 }, 1, "f64"), 1))
      assert(session:backward())
      local values = session:read(session:parameters()[2].name, "gradient")
      session:zero_gradients()
      return values
    end
    local plain = first_gradient()
    assert.same(plain, first_gradient())
    session:pass_over(1)
    assert.not_same(plain, first_gradient())
    expect.raises("expected a number of datums", session.pass_over, session, -1)
  end)
end)
