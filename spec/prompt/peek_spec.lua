-- session:top and session:peek over the tiny model: the likeliest tokens and what a text looks like to the model.
local crucible = require "crucible"
local expect = require "spec.support.expect"
local tiny_model = require "spec.support.tiny_model"

local session

setup(function()
  session = assert(crucible.lora.create_session {
    config = { base_model = tiny_model.path, threads = 1, lora_rank = 2 },
  })
end)
teardown(function() session:close() end)

describe("session:top", function()
  local text = "The quick brown fox"

  it("agrees with the log-probabilities of every token of the vocabulary", function()
    local ids = session.tokenizer:prompt(text)
    local top = assert(session:top(ids, { count = 4 }))
    assert.equal(#ids, #top)
    local choices = {}
    for id = 0, session.tokenizer.size - 1 do choices[id + 1] = { id } end
    local scores = assert(session:score({ ids }, choices))[1]
    local order = {}
    for id = 0, session.tokenizer.size - 1 do order[id + 1] = id end
    table.sort(order, function(a, b) return scores[a + 1] > scores[b + 1] end)
    for place = 1, 4 do
      local found = top[#ids][place]
      assert.equal(order[place], found.token)
      assert.near(scores[found.token + 1], found.logprob, 1e-4)
      assert.equal(session.tokenizer:decode { found.token }, found.text)
    end
  end)

  it("agrees with forward at every position, and gives all of a vocabulary a mass of 1", function()
    local ids = session.tokenizer:prompt(text)
    local logprobs = assert(session:forward { { tokens = ids } }).logprobs[1]
    local top = assert(session:top(ids, { count = session.tokenizer.size > 1000 and 1000 or session.tokenizer.size }))
    for i = 1, #ids - 1 do
      for _, one in ipairs(top[i]) do
        if one.token == ids[i + 1] then assert.near(logprobs[i], one.logprob, 1e-4) end
      end
    end
    local mass = 0
    for _, one in ipairs(top[1]) do mass = mass + math.exp(one.logprob) end
    assert.truthy(mass < 1 + 1e-5)
    if session.tokenizer.size <= 1000 then assert.near(1, mass, 1e-5) end
  end)

  it("is sorted, is the base's on request, and refuses what it cannot do", function()
    local top = assert(session:top(text, { count = 3, base = true }))
    for _, list in ipairs(top) do
      assert.truthy(list[1].logprob >= list[2].logprob and list[2].logprob >= list[3].logprob)
    end
    expect.raises("count must be an integer of at least 1", function() session:top(text, { count = 0 }) end)
    expect.fails("argument", "is empty", session:top({}))
    expect.fails("argument", "expected 0 to", session:top({ 1, 99999999 }))
    expect.raises("tokens[1]: expected an integer", function() session.core:top({ "x" }, 1) end)
    expect.raises("from 1 to 65536", function() session.core:top({ 1 }, 0) end)
    expect.fails("argument", "the size of the vocabulary", session.core:top({ 1 }, 65536))
  end)
end)

describe("session:peek", function()
  it("shows tokens, losses and what was expected", function()
    local ids = session.tokenizer:prompt "Hello there"
    local logprobs = assert(session:forward { { tokens = ids } }).logprobs[1]
    local seen = assert(session:peek "Hello there")
    assert.equal(#ids, #seen.tokens)
    local sum = 0
    for i = 2, #ids do
      assert.equal(logprobs[i - 1], seen.tokens[i].logprob)
      sum = sum - logprobs[i - 1]
    end
    assert.near(sum / (#ids - 1), seen.loss, 1e-12)
    local text = tostring(seen)
    assert.truthy(text:find(("%d tokens, %d trained"):format(#ids, #ids - 1), 1, true), text)
    assert.truthy(text:find("expected", 1, true))
    assert.is_nil(text:find "\27") -- specs run without a terminal
  end)

  it("shows the mask of a row", function()
    local seen = assert(session:peek({ input = "Question:", output = "yes" }, { top = 1 }))
    local rows = assert(crucible.lora.datums.build(session.tokenizer, { { input = "Question:", output = "yes" } }))
    local trained = 0
    for i, token in ipairs(seen.tokens) do
      local weight = i > 1 and rows[1].weights[i - 1] or 0
      assert.equal(weight, token.weight)
      if weight ~= 0 then trained = trained + 1 end
    end
    assert.equal(trained, seen.trained)
    assert.truthy(trained < #seen.tokens - 1)
  end)

  it("colours on request, and cuts long lists", function()
    local seen = assert(session:peek("one two three four five six", { color = true, limit = 2 }))
    local text = tostring(seen)
    assert.truthy(text:find "\27%[30;48;5;%d+m")
    assert.truthy(text:find("tokens more", 1, true))
    assert.is_nil(seen:text(false):find "\27")
  end)

  it("refuses what is no text", function()
    expect.raises("expected a text, a row", function() session:peek(3) end)
    expect.raises("at least 2", function() session:peek { tokens = { 1 } } end)
    expect.raises('unknown option "tops"', function() session:peek("x y", { tops = 1 }) end)
  end)
end)

describe("gradients", function()
  it("are shown as a table with bars, and say when they are gone", function()
    local batch = assert(crucible.lora.datums.build(session.tokenizer, { { input = "a:", output = "b" } }))
    assert(session:forward_backward(batch))
    local views = session:gradients()
    local text = tostring(views)
    assert.truthy(text:find "^%d+ gradients, norm ")
    assert.truthy(text:find("█", 1, true), text)
    local count, squares = 0, 0
    for _, view in pairs(views) do
      count, squares = count + 1, squares + view:norm() ^ 2
    end
    assert.truthy(text:find(("%d gradients, norm %.4g\n"):format(count, math.sqrt(squares)), 1, true), text)
    session:zero_gradients()
    assert.truthy(tostring(views):find("gone", 1, true))
  end)
end)
