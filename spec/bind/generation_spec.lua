-- Generation a step at a time, and scores of continuations.

local expect = require "spec.support.expect"
local bind = require "spec.support.bind"

-- Tokens and end of each prompt.
local function run(generation)
  local rows = {}
  while true do
    local events, message = generation:step()
    assert.is_nil(message)
    if not events then return rows end
    for _, event in ipairs(events) do
      local row = rows[event.prompt] or {}
      rows[event.prompt] = row
      assert.is_nil(row.finish, "an event after the last")
      if event.token then row[#row + 1] = event.token end
      row.finish = event.finish
    end
  end
end

describe("Session:generate", function()
  local session
  local prompts = { { 1, 2, 3 }, { 4 }, { 5, 6, 7, 8, 9 } }

  before_each(function() session = bind.session() end)
  after_each(function() session:close() end)

  it("gives an event a row and step, and nil at the end", function()
    local generation <close> = assert(session:generate(prompts, { max_tokens = 4 }))
    local events = assert(generation:step())
    assert.equal(3, #events)
    for i, event in ipairs(events) do
      assert.equal(i, event.prompt)
      assert.equal("integer", math.type(event.token))
      assert.truthy(event.logprob <= 0)
    end
    local rows = run(generation)
    assert.equal(3, #rows)
    assert.is_nil(generation:step())
    assert.matches("^crucible%.generation%(3 prompts; %d+ tokens%)$", tostring(generation))
  end)

  it("ends rows at max_tokens, whatever max_batch is", function()
    for _, max_batch in ipairs({ 1, 2, 16 }) do
      local generation <close> = assert(session:generate(prompts, { max_tokens = 3, max_batch = max_batch }))
      for _, row in ipairs(run(generation)) do
        assert.equal(3, #row)
        assert.equal("length", row.finish)
      end
    end
  end)

  it("leaves out the token that ends a row", function()
    local greedy <close> = assert(session:generate({ prompts[1] }, { max_tokens = 3 }))
    local tokens = run(greedy)[1]
    local generation <close> = assert(session:generate({ prompts[1] }, { max_tokens = 3, stop_ids = { tokens[1] } }))
    assert.same({ finish = "stop" }, run(generation)[1])
  end)

  it("draws the same row from the same seed", function()
    local params = { max_tokens = 8, temperature = 1, top_p = 0.95, top_k = 50, seed = 3, base = true }
    local one <close> = assert(session:generate(prompts, params))
    local two <close> = assert(session:generate(prompts, params))
    assert.same(run(one), run(two))
  end)

  it("ends one row early on request", function()
    local generation <close> = assert(session:generate(prompts, { max_tokens = 5 }))
    assert(generation:step())
    assert.is_true(generation:finish(2))
    local counts = {}
    local rows = run(generation)
    for _, prompt in ipairs({ 1, 3 }) do counts[#counts + 1] = #rows[prompt] end
    assert.same({ 4, 4 }, counts)
    assert.truthy(rows[2] == nil or #rows[2] == 0)
    expect.raises("expected a prompt from 1 to 3, got 0", generation.finish, generation, 0)
    expect.raises("expected a prompt from 1 to 3, got 4", generation.finish, generation, 4)
    expect.raises("number expected, got no value", generation.finish, generation)
  end)

  it("takes a constraint, which it keeps, and tells about its rows and its cache", function()
    local model <close> = bind.model()
    local made <close> = assert(model:tokenizer():constraint "[ab]{2}")
    local generation <close> = assert(session:generate(prompts, { max_tokens = 4, max_batch = 2, constraint = made }))
    assert.equal("crucible.constraint", tostring(made))
    made:close()
    assert.equal("crucible.constraint(closed)", tostring(made))
    for _, row in ipairs(run(generation)) do assert.equal("stop", row.finish) end
    local info = generation:info()
    assert.equal(2, info.rows)
    assert.equal(9, info.prompt_positions)
    assert.equal(0, info.reused_positions)
    assert.is_true(info.cache_bytes > 0)
    expect.raises("constraint is closed", session.generate, session, prompts, { constraint = made })
    expect.raises("constraint: expected a handle, got string", session.generate, session, prompts,
      { constraint = "a" })
    expect.raises("crucible.constraint expected, got crucible.model", session.generate, session, prompts,
      { constraint = model })
  end)

  it("returns context_overflow for a row that cannot fit", function()
    expect.fails("context_overflow", "", session:generate(prompts, { max_tokens = 1 << 20 }))
  end)

  it("raises once its session was closed, and closes safely after it", function()
    local generation <close> = assert(session:generate(prompts, { max_tokens = 4 }))
    assert(generation:step())
    session:close()
    expect.raises("session is closed", generation.step, generation)
    expect.raises("session is closed", generation.finish, generation, 1)
    generation:close()
    expect.raises("generation is closed", generation.step, generation)
  end)

  it("keeps its session while only the generation is held", function()
    local generation <close> = assert(bind.session():generate(prompts, { max_tokens = 4 }))
    collectgarbage()
    collectgarbage()
    assert.equal(3, #run(generation))
  end)

  local refused = {
    { "no prompts", {}, nil, "prompts: expected at least one prompt" },
    { "what is no list", "x", nil, "prompts: expected a list, got string" },
    { "one prompt for a list", { 1, 2 }, nil, "prompts[1]: expected a list, got number" },
    { "an empty prompt", { { 1 }, {} }, nil, "prompts[2] is empty: expected at least one token" },
    { "a broken token", { { 1, 0.5 } }, nil, "prompts[1][2]: expected an integer of 32 bits, got 0.5" },
    { "a negative temperature", { { 1 } }, { temperature = -1 }, "temperature: expected a finite number >= 0, got -1" },
    { "top_p 0", { { 1 } }, { top_p = 0 }, "top_p: expected a finite number > 0 and <= 1, got 0" },
    { "top_p above 1", { { 1 } }, { top_p = 1.5 }, "top_p: expected a finite number > 0 and <= 1, got 1.5" },
    { "min_p 1", { { 1 } }, { min_p = 1 }, "min_p: expected a finite number >= 0 and < 1, got 1" },
    { "no penalty", { { 1 } }, { repetition_penalty = 0 },
      "repetition_penalty: expected a finite number > 0, got 0" },
    { "a negative cache", { { 1 } }, { cache_bytes = -1 }, "cache_bytes: expected a number of bytes >= 0" },
    { "a negative top_k", { { 1 } }, { top_k = -1 }, "top_k: expected an integer >= 0, got -1" },
    { "a broken max_tokens", { { 1 } }, { max_tokens = 0.5 }, "max_tokens: expected an integer >= 0, got 0.5" },
    { "one stop id for a list", { { 1 } }, { stop_ids = 2 }, "stop_ids: expected a list, got 2" },
    { "a stop id in quotes", { { 1 } }, { stop_ids = { "2" } },
      "stop_ids[1]: expected an integer of 32 bits, got string" },
    { "an unknown option", { { 1 } }, { stop = { 2 } }, "unknown field 'stop'; known: temperature, top_p" },
  }

  for _, case in ipairs(refused) do
    it("refuses " .. case[1], function() expect.raises(case[4], session.generate, session, case[2], case[3]) end)
  end
end)

describe("Session:score", function()
  local session

  before_each(function() session = bind.session() end)
  after_each(function() session:close() end)

  it("sums the log-probabilities that forward gives", function()
    local prompts = { { 1, 2, 3 }, { 4, 5 } }
    local continuations = { { { 6 }, { 7, 8 } }, { { 9, 10, 11 }, { 12 } } }
    local scores = assert(session:score(prompts, continuations))
    for i, prompt in ipairs(prompts) do
      for c, continuation in ipairs(continuations[i]) do
        local tokens, weights = {}, {}
        for _, token in ipairs(prompt) do tokens[#tokens + 1] = token end
        for _, token in ipairs(continuation) do tokens[#tokens + 1] = token end
        for t = 1, #tokens - 1 do weights[t] = t >= #prompt and 1 or 0 end
        local sum = 0
        for _, value in ipairs(assert(session:forward({ { tokens = tokens, weights = weights } }))[1]) do
          if value == value then sum = sum + value end
        end
        assert.near(sum, scores[i][c], 1e-3)
      end
    end
  end)

  it("leaves the lora out on request", function()
    local arguments = { { { 1, 2 } }, { { { 3 }, { 4 } } } }
    local before = assert(session:score(arguments[1], arguments[2]))
    for _, parameter in ipairs(session:parameters()) do
      local values = session:read(parameter.name)
      for i = 1, #values do values[i] = 0.5 end
      session:write(parameter.name, values)
    end
    assert.same(before, session:score(arguments[1], arguments[2], { base = true }))
    assert.not_same(before, session:score(arguments[1], arguments[2]))
  end)

  local refused = {
    { "no continuations", { { 1 } }, nil, "continuations: expected a list, got nil" },
    { "too few lists", { { 1 }, { 2 } }, { { { 3 } } }, "continuations has 1 values, expected 2 (one per prompt)" },
    { "no choices", { { 1 } }, { {} }, "continuations[1] is empty: expected at least one choice" },
    { "unequal choices", { { 1 }, { 2 } }, { { { 3 } }, { { 4 }, { 5 } } },
      "continuations[2] has 2 choices, expected 1 as for prompt 1" },
    { "an empty choice", { { 1 } }, { { { 2 }, {} } }, "continuations[1][2] is empty: expected at least one token" },
    { "a choice that is no list", { { 1 } }, { { 2 } }, "continuations[1][1]: expected a list, got number" },
    { "a broken token", { { 1 }, { 2 } }, { { { 3 } }, { { 4.5 } } },
      "continuations[2][1][1]: expected an integer of 32 bits, got 4.5" },
  }

  for _, case in ipairs(refused) do
    it("refuses " .. case[1], function() expect.raises(case[4], session.score, session, case[2], case[3]) end)
  end

  it("refuses unknown options", function()
    expect.raises("unknown field 'x'; known: base", session.score, session, { { 1 } }, { { { 2 } } }, { x = 1 })
  end)
end)

describe("Session:top", function()
  it("ranks tokens as score does, at every position", function()
    local session <close> = bind.session()
    local tokens = { 5, 17, 200, 3 }
    local ids, logprobs = session:top(tokens, 4)
    assert.equal(#tokens, #ids)
    for i = 1, #tokens do
      local prompt = table.move(tokens, 1, i, 1, {})
      local choices = {}
      for j, id in ipairs(ids[i]) do choices[j] = { id } end
      local scores = assert(session:score({ prompt }, { choices }))[1]
      for j = 1, 4 do assert.near(scores[j], logprobs[i][j], 1e-4) end
      assert.truthy(logprobs[i][1] >= logprobs[i][2] and logprobs[i][3] >= logprobs[i][4])
    end
  end)

  it("refuses what is no text, no number of tokens, and an unknown option", function()
    local session <close> = bind.session()
    expect.raises("from 1 to 65536", session.top, session, { 1 }, 0)
    expect.raises("tokens: expected a list", session.top, session, 3, 1)
    expect.raises("unknown field 'x'; known: base", session.top, session, { 1 }, 1, { x = 1 })
    expect.fails("argument", "is empty", session:top({}, 1))
    expect.fails("argument", "the size of the vocabulary", session:top({ 1 }, 65536))
    expect.fails("argument", "expected 0 to", session:top({ 1 << 30 }, 1))
  end)
end)

describe("Generation:score", function()
  local session
  local prompts = { { 1, 2, 9 }, { 3 }, { 5, 6, 7, 8 } }
  local choices = { { 10 }, { 11, 12 }, { 13, 14, 15 } }

  before_each(function() session = bind.session() end)
  after_each(function() session:close() end)

  it("gives what Session:score gives, for the prompts of the step that began them", function()
    local expected = assert(session:score(prompts, { choices, choices, choices }))
    local generation <close> = assert(session:generate(prompts, { max_tokens = 2, max_batch = 2 }))
    local scored = 0
    while true do
      local events = generation:step()
      if not events then break end
      local each = {}
      for i in ipairs(events) do each[i] = choices end
      local scores, _, code = generation:score(each)
      if not scores then assert.equal("argument", code) end
      for i, row in ipairs(scores or {}) do
        scored = scored + 1
        for c in ipairs(choices) do assert.near(expected[events[i].prompt][c], row[c], 1e-5) end
      end
    end
    assert.equal(3, scored)
  end)

  it("leaves the text that follows as it is", function()
    local function tokens_with(score)
      local generation <close> = assert(session:generate(prompts, { max_tokens = 6 }))
      local rows = { {}, {}, {} }
      for events in function() return generation:step() end do
        if score and #rows[1] == 0 then assert(generation:score { choices, choices, choices }) end
        for _, event in ipairs(events) do table.insert(rows[event.prompt], event.token) end
      end
      return rows
    end
    assert.same(tokens_with(false), tokens_with(true))
  end)

  it("wants a list for every event", function()
    local generation <close> = assert(session:generate(prompts, { max_tokens = 2 }))
    assert(generation:step())
    assert.has_error(function() generation:score { choices } end)
  end)
end)
