-- Losses written in Lua over the local engine: what they see, what becomes of what they return, and faults.
local crucible = require "crucible"
local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local temp = require "spec.support.temp"
local tensor = require "crucible.tensor"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora
local loss_functions = lora.loss_functions

local folder

before_each(function() folder = temp.folder() end)
after_each(temp.clean)

local function open(options)
  local config = lists.with({
    base_model = tiny_model.path, lora_rank = 4, lora_dropout = 0, threads = 1, warmup_steps = 0, learning_rate = 1e-2,
  }, options or {})
  local session = assert(lora.create_session { config = lora.config.new(config), runs = folder, seed = 1 })
  for i, p in ipairs(session.core:parameters()) do
    if p.name:find("lora_B$") then session.core:write(p.name, lists.uniform(i, p.rows * p.columns, 0.125)) end
  end
  return session
end

local function datum(seed, count, metadata)
  local tokens = lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
  local weights = lists.map(lists.fill(count - 1, 1), function(_, i) return i > 2 and (i % 3) * 0.5 or 0 end)
  return { tokens = tokens, weights = weights, metadata = metadata }
end

local function batch() return { datum(1, 14), datum(2, 9), datum(3, 21), datum(4, 6) } end

local function bits_of(session)
  local out = {}
  for i, p in ipairs(session.core:parameters()) do out[i] = lists.bits(session.core:read(p.name, "gradient")) end
  return table.concat(out)
end

local function gradient_of(session)
  local out = {}
  for _, p in ipairs(session.core:parameters()) do
    for _, value in ipairs(session.core:read(p.name, "gradient")) do out[#out + 1] = value end
  end
  return out
end

local function one() return 1 end

-- A loss over log-probabilities with `compute` of one's own.
local function loss_of(compute, more)
  return lists.with({ name = "mine", outputs = { "logprobs" }, count = one, compute = compute }, more or {})
end

local function negative(predictions, targets)
  local loss = 0
  for i, target in ipairs(targets) do loss = loss - (predictions.logprobs[i] * target.weights):sum() end
  return { loss = loss }
end

-- Every output in one loss.
local function everything(more)
  return lists.with({
    name = "everything", outputs = { "logprobs", "entropy", "candidates", "hidden", "base_logprobs" }, count = one,
    request = function(d)
      return {
        candidates = {
          a = { positions = { 3, 5, 3 }, ids = { 7, 9, 7 } },
          b = { positions = { 1, 2 }, ids = { { 5 }, { 1, 2, 3 } } },
        },
        spans = { { 1, 3 }, { 2, #d.tokens - 1 } },
      }
    end,
    compute = function(predictions)
      local loss = 0
      for i = 1, predictions.count do
        local groups = predictions.candidates[i]
        local gained = predictions.logprobs[i] - predictions.base_logprobs[i]
        loss = loss + gained:sum() * 0.1 + predictions.entropy[i]:sum()
          + (groups.a[2] * groups.a[3]):sum() + (groups.b.values ^ 2):sum() * 0.01 + groups.b[2][3]
          + (predictions.hidden[i] ^ 2):sum() * 0.1
      end
      return { loss = loss, twice = 2, share = { sum = predictions.count, count = 2 * predictions.count } }
    end,
  }, more or {})
end

describe("a loss written in Lua", function()
  it("gives cross-entropy's bytes when it says the same", function()
    for _, options in ipairs { {}, { lora_dropout = 0.3 }, { micro_batch_tokens = 22 }, { recompute = "layer" } } do
      local builtin <close> = open(options)
      local written <close> = open(options)
      local expected = assert(builtin:forward_backward(batch()))
      local found = assert(written:forward_backward(batch(), loss_of(negative, {
        count = loss_functions.get("cross_entropy").count,
      })))
      assert.near(expected.loss, found.loss, 1e-12)
      assert.near(expected.sum, found.sum, 1e-9)
      assert.same({ expected.supervised, expected.tokens }, { found.supervised, found.tokens })
      assert.same({ mine = expected.counts.cross_entropy }, found.counts)
      assert.is_true(bits_of(builtin) == bits_of(written))
    end
  end)

  it("agrees with finite differences over every output, alone, in a composite and in one within another", function()
    local session <close> = open()
    local rows = { datum(1, 9), datum(2, 7) }
    local mix = { name = "mix", terms = {
      { loss = loss_functions.get "cross_entropy", weight = 0.5 }, { loss = everything(), weight = 0.25 },
    } }
    local nested = { name = "nested", terms = {
      { loss = mix, weight = 2 }, { loss = everything { positions = "all" }, name = "again", weight = -0.125 },
    } }
    for _, loss in ipairs { everything(), mix, nested } do
      local report = loss_functions.check_gradient(loss, session, rows, { entries = 500 })
      assert.is_true(report.passed, tostring(report))
      assert.is_true(report.slopes.error < 1e-6 and report.model.norm > 0.1)
    end
    assert.is_true(loss_functions.check_gradient("cross_entropy", session, rows).passed)
  end)

  it("that cuts its own path is found out by finite differences", function()
    local session <close> = open()
    local report = loss_functions.check_gradient(loss_of(function(predictions)
      local x = predictions.logprobs[1]
      return { loss = (x * x:detach()):sum() }
    end), session, { datum(1, 9) })
    assert.is_false(report.passed)
    assert.is_true(report.slopes.error > 0.4 and report.model.error > 0.4)
    assert.truthy(tostring(report):find("FAILED", 1, true))
  end)

  it("sees as much at any cut of the batch, and adds up to the same gradient", function()
    local whole <close> = open { micro_batch_tokens = 4096, lora_dropout = 0.2 }
    local expected = assert(whole:forward_backward(batch(), everything()))
    for _, tokens in ipairs { 1, 22, 30 } do
      local cut <close> = open { micro_batch_tokens = tokens, lora_dropout = 0.2 }
      local found = assert(cut:forward_backward(batch(), everything()))
      assert.near(expected.loss, found.loss, 1e-6 * math.abs(expected.loss))
      assert.near(2, found.components["everything.twice"], 1e-12)
      assert.near(0.5, found.components["everything.share"], 1e-12)
      assert.is_true(lists.relative(gradient_of(cut), gradient_of(whole)) < 1e-5)
    end
  end)

  it("adds up over calls that are given the step's counts", function()
    local whole <close> = open()
    local parts <close> = open()
    local expected = assert(whole:forward_backward(batch(), everything()))
    local sum, twice = 0, 0
    for _, row in ipairs(batch()) do
      local found = assert(parts:forward_backward({ row }, everything(), { counts = expected.counts }))
      sum, twice = sum + found.loss, twice + found.components["everything.twice"]
    end
    assert.near(expected.loss, sum, 1e-6 * math.abs(expected.loss))
    assert.near(2, twice, 1e-12)
    assert.is_true(lists.relative(gradient_of(parts), gradient_of(whole)) < 1e-5)
  end)

  it("never has a group cut apart, wherever its members stand; one of scope batch sees all", function()
    local session <close> = open { micro_batch_tokens = 10 }
    local grouped = { group = 1 }
    local rows = { datum(1, 9, grouped), datum(2, 9), datum(3, 9, grouped), datum(4, 9), datum(5, 9) }
    local seen = {}
    local function watch(predictions, targets)
      local names = {}
      for i, target in ipairs(targets) do names[i] = target.metadata and target.metadata.group or 0 end
      seen[#seen + 1] = table.concat(names, " ")
      return negative(predictions, targets)
    end
    assert(session:forward_backward(rows, loss_of(watch)))
    assert.same({ "1 1", "0", "0", "0" }, seen)
    seen = {}
    assert(session:forward_backward(rows, loss_of(watch, { scope = "batch" })))
    assert.same({ "1 0 1 0 0" }, seen)
  end)

  it("is not called for datums without units, and masks do not depend on that", function()
    local calls = 0
    local sparse = loss_of(function(predictions, targets)
      calls = calls + 1
      return negative(predictions, targets)
    end, { count = function(d) return #d.tokens > 10 and 1 or 0 end })
    local gradients = {}
    for _, tokens in ipairs { 1, 4096 } do
      local session <close> = open { lora_dropout = 0.4, micro_batch_tokens = tokens }
      local rows = { datum(1, 6), datum(2, 14) }
      rows[1].weights = lists.fill(5, 0)
      assert(session:forward_backward(rows, sparse))
      gradients[#gradients + 1] = gradient_of(session)
    end
    assert.equal(2, calls)
    assert.is_true(lists.relative(gradients[1], gradients[2]) < 1e-5)
    local session <close> = open()
    local found = assert(session:forward_backward({ datum(1, 6) }, sparse))
    assert.same({ 0, { mine = 0 } }, { found.loss, found.counts })
  end)

  it("sees 0 where the weight is 0 unless it asks for all positions, whatever its neighbours ask", function()
    local session <close> = open()
    local rows, first, second = { datum(1, 9) }, nil, nil
    local function keep(predictions)
      first = predictions.logprobs[1]:totable()
      return { loss = predictions.logprobs[1]:sum() }
    end
    local function keep_all(predictions)
      second = predictions.logprobs[1]:totable()
      return { loss = predictions.logprobs[1]:sum() }
    end
    local all = loss_of(keep_all, { name = "all", positions = "all" })
    assert(session:forward_backward(rows, { name = "both", terms = { { loss = loss_of(keep) }, { loss = all } } }))
    for t, weight in ipairs(rows[1].weights) do
      assert.is_true(second[t] < 0)
      assert.equal(weight == 0 and 0 or second[t], first[t])
    end
  end)

  it("may return slopes instead of a tensor", function()
    local by_hand <close> = open()
    local walked <close> = open()
    local groups = { a = { positions = { 3, 4 }, ids = { 7, 9 } } }
    local more = {
      outputs = { "logprobs", "candidates", "hidden", "entropy" },
      request = function() return { candidates = groups, spans = { { 1, 4 } } } end,
    }
    assert(walked:forward_backward(batch(), loss_of(function(predictions)
      local loss = 0
      for i = 1, predictions.count do
        loss = loss + predictions.logprobs[i]:sum() * 2 - predictions.candidates[i].a.values:sum()
          + predictions.hidden[i]:sum() + predictions.entropy[i]:sum() * 3
      end
      return { loss = loss }
    end, more)))
    assert(by_hand:forward_backward(batch(), loss_of(function(predictions, targets)
      local slopes = { logprobs = {}, candidates = {}, hidden = {}, entropy = {} }
      for i, target in ipairs(targets) do
        slopes.logprobs[i] = tensor.full(target.length, 2)
        slopes.entropy[i] = lists.fill(target.length, 3)
        slopes.candidates[i] = { a = { -1, -1, -1, -1 } }
        slopes.hidden[i] = tensor.ones { predictions.hidden[i]:shape() }
      end
      return { loss = 1, slopes = slopes }
    end, more)))
    assert.is_true(bits_of(by_hand) == bits_of(walked))
  end)

  it("reads strings of one token as candidates", function()
    local session <close> = open()
    local text = session.tokenizer:decode { 70 }
    local id = session.tokenizer:encode(text)[1]
    local seen
    assert(session:forward_backward({ datum(1, 9) }, loss_of(function(predictions)
      seen = predictions.candidates[1].word
      return { loss = seen.values:sum() }
    end, { outputs = { "candidates" }, request = function()
      local none = { positions = {}, ids = {} }
      return { candidates = { word = { positions = { 4, 6 }, strings = { text } }, none = none } }
    end })))
    assert.same({ { id }, { id } }, seen.ids)
    assert.equal(2, #seen)
  end)
end)

describe("a composite", function()
  it("weighs its terms, divides each by its own count, and reports total, weighted and raw", function()
    local session <close> = open()
    local rows = batch()
    local mix = { name = "mix", terms = {
      { loss = loss_functions.get "cross_entropy", weight = 0.75 },
      { loss = everything(), weight = function(step) return step / 4 end, name = "other" },
    } }
    local ce = assert(session:forward_backward(rows)).loss
    local first = gradient_of(session)
    session:zero_gradients()
    local other = assert(session:forward_backward(rows, everything())).loss
    local second = gradient_of(session)
    session:zero_gradients()
    local found = assert(session:forward_backward(rows, mix, { term_gradients = true }))
    assert.near(0.75 * ce + 0.25 * other, found.loss, 1e-6)
    assert.near(ce, found.components.cross_entropy, 1e-6)
    assert.near(other, found.components.other, 1e-6)
    assert.near(0.25 * other, found.weighted.other, 1e-6)
    assert.same(loss_functions.counts(mix, rows), found.counts)
    assert.equal(4, found.counts.other)
    local sum = lists.add(lists.map(first, function(x) return 0.75 * x end), 0.25, second)
    assert.is_true(lists.relative(gradient_of(session), sum) < 1e-5)
    assert.near(0.75 * lists.norm(first), found.gradients.cross_entropy.norm, 1e-4 * lists.norm(first))
    assert.near(0.25 * lists.norm(second), found.gradients.other.norm, 1e-4 * lists.norm(second))
    local cosine = lists.dot(first, second) / (lists.norm(first) * lists.norm(second))
    assert.near(cosine, found.gradients.other.cosine, 1e-4)
    assert.near(1, found.gradients.cross_entropy.cosine, 1e-9)
    local again = assert(session:forward_backward(rows, mix, { term_gradients = true }))
    assert.near(2 * found.gradients.other.norm, again.gradients.other.norm, 1e-4 * found.gradients.other.norm)
    assert(session:optim_step())
    assert.is_true(assert(session:forward_backward(rows, mix, { term_gradients = true })).weighted.other > 0)
  end)

  it("refuses two terms of one name", function()
    local session <close> = open()
    local twice = { name = "twice", terms = { { loss = everything() }, { loss = everything() } } }
    expect.raises('two of its terms are called "everything"', session.forward_backward, session, batch(), twice)
  end)
end)

describe("a fault of a loss", function()
  local faults = {
    { "compute raised: .*oh no.*stack traceback", function() error("oh no") end },
    { "compute must return { loss = … }, it returned nil", function() end },
    { "it returned a tensor", function(p) return p.logprobs[1]:sum() end },
    { "its loss is %-?nan", function(p) return { loss = p.logprobs[1]:sum() * (0 / 0) } end },
    { "its loss is inf", function(p) return { loss = p.logprobs[1]:sum() * -math.huge } end },
    { "its loss of 0.5 has no path to its predictions", function() return { loss = 0.5 } end },
    { "has no path", function(p) return { loss = p.logprobs[1]:detach():sum() } end },
    { "has no path", function() return { loss = tensor.new(3, { requires_grad = true }) * 2 } end },
    { "must be a single value, got a tensor of shape %[13%]", function(p) return { loss = p.logprobs[1] } end },
    { "must be a single value, got an empty table", function() return { loss = {} } end },
    { "its slope with respect to logprobs of datum 1 is not finite",
      function(p) return { loss = (p.logprobs[1] * 0):sqrt():sum() + 1 } end },
    { "slopes.logprobs%[1%] must have 13 values, got %[2%]",
      function() return { loss = 1, slopes = { logprobs = { { 1, 2 } } } } end },
    { "slopes.logprobs%[9%]: there is no such datum",
      function() return { loss = 1, slopes = { logprobs = { [9] = { 1 } } } } end },
    { "slopes.logits: there are slopes of", function() return { loss = 1, slopes = { logits = { { 1 } } } } end },
    { "its field x must be a number", function(p) return { loss = p.logprobs[1]:sum(), x = "y" } end },
    { "reads predictions.entropy: name it in outputs", function(p) return { loss = p.entropy[1]:sum() } end },
    { "predictions have no logprob; did you mean", function(p) return { loss = p.logprob[1]:sum() } end },
  }

  for _, case in ipairs(faults) do
    it("names the loss and the step, and the session goes on: " .. case[1], function()
      local session <close> = open()
      local reference <close> = open()
      local rows = batch()
      session.core:step(11)
      reference.core:step(11)
      assert(session:forward_backward(rows))
      local ok, message = pcall(session.forward_backward, session, rows, loss_of(case[2]))
      assert.is_false(ok)
      assert.truthy(message:find('loss "mine" at step 12: ', 1, true), message)
      assert.truthy(message:find(case[1]), message)
      for _, gradient in pairs(session:gradients()) do assert.equal(0, gradient:norm()) end
      assert(session:forward_backward(rows, loss_of(negative)))
      assert(reference:forward_backward(rows, loss_of(negative)))
      assert.is_true(bits_of(session) == bits_of(reference))
    end)
  end

  it("is a prediction kept beyond the step: it is gone, loudly", function()
    local session <close> = open()
    local kept
    assert(session:forward_backward(batch(), loss_of(function(predictions, targets)
      kept = kept or predictions.logprobs[1]
      return negative(predictions, targets)
    end)))
    expect.raises("tensor is gone: the step that this prediction belongs to is over", function() return kept:sum() end)
    local ok, message = pcall(session.forward_backward, session, batch(), loss_of(function()
      return { loss = kept:sum() }
    end))
    assert.is_false(ok)
    assert.truthy(message:find('loss "mine" at step 1: compute raised: .*tensor is gone'), message)
  end)

  it("is work of the same session inside compute", function()
    local session <close> = open()
    local ok, message = pcall(session.forward_backward, session, batch(), loss_of(function(predictions, targets)
      assert(session:forward(batch()))
      return negative(predictions, targets)
    end))
    assert.is_false(ok)
    assert.truthy(message:find("tensor is gone", 1, true), message)
    assert(session:forward_backward(batch()))
  end)

  it("is a request that does not fit, named with the datum", function()
    local session <close> = open()
    local function refuses(message, request, outputs)
      expect.raises(message, session.forward_backward, session, batch(), loss_of(negative, {
        outputs = outputs or { "candidates" }, request = request and function() return request end,
      }))
    end
    refuses('loss "mine": request(datum 1) must return a table, got nil')
    refuses('an output "candidates" needs request(datum) to return', {})
    refuses('an output "hidden" needs request(datum) to return', {}, { "hidden" })
    refuses("candidates g: expected positions from 1 to 13, got 14",
      { candidates = { g = { positions = { 14 }, ids = { 1 } } } })
    refuses("candidates g: expected token ids", { candidates = { g = { positions = { 1 }, ids = { "x" } } } })
    refuses("2 positions and 1 lists of candidates",
      { candidates = { g = { positions = { 1, 2 }, ids = { { 1 } } } } })
    refuses("tokens, expected one", { candidates = { g = { positions = { 1 }, strings = { "two words" } } } })
    refuses("span 1: expected { first, last }", { spans = { { 3, 2 } } }, { "hidden" })
  end)

  it("is found before any work where the table itself is wrong", function()
    local session <close> = open()
    local function refuses(message, loss) expect.raises(message, session.forward_backward, session, batch(), loss) end
    refuses('there is no output "logprob"; did you mean "logprobs"?', loss_of(negative, { outputs = { "logprob" } }))
    refuses("outputs must name what compute reads", loss_of(negative, { outputs = {} }))
    refuses("count must be a function", { name = "x", count = 3, compute = negative })
    refuses("a loss needs a name", { name = 3, compute = negative })
    refuses('positions must be "supervised" or "all"', loss_of(negative, { positions = "some" }))
    refuses('count(datum 1) must be a number', loss_of(negative, { count = function() end }))
    expect.raises("counts.mine must be a number", session.forward_backward, session, batch(), loss_of(negative),
      { counts = {} })
  end)
end)

describe("slopes that are all 0", function()
  local function flat(predictions)
    local loss = 1
    for i = 1, predictions.count do loss = loss + predictions.logprobs[i]:sum() * 0 end
    return { loss = loss }
  end

  it("are raised in the third step running, naming the loss, and the session goes on", function()
    local session <close> = open()
    local mix = { name = "mix", terms = {
      { loss = loss_of(negative, { name = "works" }) }, { loss = loss_of(flat, { name = "idle" }) },
    } }
    for _ = 1, 2 do
      assert(session:forward_backward({ datum(1, 9) }, mix))
      assert(session:forward_backward({ datum(2, 9) }, mix))
      assert(session:optim_step())
    end
    assert(session:forward_backward({ datum(1, 9) }, mix))
    expect.raises('loss "idle" at step 3: its slopes have all been 0 for 3 steps running', session.optim_step, session)
    assert(session:forward_backward({ datum(1, 9) }, mix))
    assert(session:optim_step())
  end)

  it("are no fault of one that is only looked at, of a loss of 0, or between steps that pull", function()
    local session <close> = open()
    local step = 0
    local ways = {
      loss_of(flat, { metric_only = true }),
      loss_of(function() return { loss = 3 } end, { metric_only = true }),
      loss_of(function() return { loss = 0 } end),
      loss_of(function(...)
        step = step + 1
        return step % 3 == 0 and negative(...) or flat(...)
      end),
    }
    for _, loss in ipairs(ways) do
      for _ = 1, 6 do
        assert(session:forward_backward({ datum(1, 9) }, loss))
        assert(session:optim_step())
      end
    end
  end)

  it("of a step that was dropped do not count", function()
    local session <close> = open()
    for _ = 1, 6 do
      assert(session:forward_backward({ datum(1, 9) }, loss_of(flat)))
      session:zero_gradients()
    end
    assert(session:optim_step())
  end)
end)

describe("a model whose numbers are no numbers", function()
  it("makes the loss NaN without calling it a fault", function()
    local session <close> = open()
    for _, p in ipairs(session.core:parameters()) do
      session.core:write(p.name, lists.fill(p.rows * p.columns, 3e38))
    end
    local found = assert(session:forward_backward(batch(), loss_of(function() error("never called") end)))
    assert.is_true(found.loss ~= found.loss)
    assert.equal(loss_functions.counts(loss_functions.get "cross_entropy", batch()).cross_entropy, found.supervised)
  end)
end)

describe("session:forward with outputs", function()
  it("gives what a loss would see, without dropout, as constants that stay", function()
    local session <close> = open { lora_dropout = 0.5, micro_batch_tokens = 15 }
    local rows = batch()
    local function request()
      return { candidates = { a = { positions = { 2 }, ids = { 5, 6 } } }, spans = { { 1, 2 } } }
    end
    local found = assert(session:forward(rows, {
      outputs = { "logprobs", "candidates", "hidden", "base_logprobs", "entropy" }, request = request,
    }))
    local expected = assert(session:forward(rows)).logprobs
    local base = assert(session:forward(rows, { base = true })).logprobs
    for i = 1, #rows do
      for t, value in ipairs(expected[i]) do
        assert.equal(value == value and value or 0, found.logprobs[i][t]:item())
        assert.equal(value == value and base[i][t] or 0, found.base_logprobs[i][t]:item())
      end
      assert.same({ 1, 64 }, { found.hidden[i]:shape() })
      assert.is_true(found.candidates[i].a[1][2]:item() < 0)
      assert.is_false(found.logprobs[i].requires_grad)
    end
    local all = assert(session:forward(rows, { outputs = { "entropy" }, positions = "all" })).entropy
    assert.is_true(all[1][1]:item() > 0)
    assert.equal(0, found.entropy[1][1]:item())
  end)
end)
