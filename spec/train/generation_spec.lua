-- Generated text: what it may depend on, and that sampling draws from the distribution it says.
require "crucible.core"
local expect = require "spec.support.expect"
local golden = require "support.golden"
local lists = require "spec.support.lists"
local tiny_model = require "spec.support.tiny_model"

local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local function ids(seed, count)
  return lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
end

local function open(options, name)
  local session = tiny_model.session(lists.with({ targets = ALL, alpha = 5 }, options or {}), name)
  for i, p in ipairs(session:parameters()) do
    session:write(p.name, lists.uniform(i, p.rows * p.columns, 0.125))
  end
  return session
end

-- { tokens, logprobs, finish } of each prompt.
local function run(session, prompts, params)
  local generation <close> = assert(session:generate(prompts, params))
  local rows = {}
  for i = 1, #prompts do rows[i] = { tokens = {}, logprobs = {} } end
  while true do
    local events, message = generation:step()
    assert(events or not message, message)
    if not events then return rows end
    for _, event in ipairs(events) do
      local row = rows[event.prompt]
      assert(not row.finish, "an event after the last")
      row.tokens[#row.tokens + 1] = event.token
      row.logprobs[#row.logprobs + 1] = event.token and event.logprob
      row.finish = event.finish
    end
  end
end

local function prompts_of(count)
  local out = {}
  for i = 1, count do out[i] = ids(i, 1 + i * 5 % 13) end
  return out
end

-- log p of every token of the vocabulary after a prompt.
local function distribution(session, prompt, vocabulary)
  local choices = {}
  for id = 0, vocabulary - 1 do choices[id + 1] = { id } end
  return assert(session:score({ prompt }, { choices }))[1]
end

-- Wilson and Hilferty's normal approximation: how many standard deviations a chi-square statistic is high.
local function chi_square_deviation(counts, shares, draws)
  local statistic, bins, rest, rest_expected = 0.0, 0, 0, 0.0
  local function add(count, expected)
    statistic, bins = statistic + (count - expected) ^ 2 / expected, bins + 1
  end
  for id, share in pairs(shares) do
    if share * draws >= 5 then
      add(counts[id] or 0, share * draws)
    else
      rest, rest_expected = rest + (counts[id] or 0), rest_expected + share * draws
    end
  end
  if rest_expected > 0 then add(rest, math.max(rest_expected, 1e-9)) end
  local freedom = bins - 1
  return ((statistic / freedom) ^ (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
end

for _, name in ipairs({ "tiny", "tiny_untied" }) do
  describe("generation by " .. name, function()
    local session

    before_each(function() session = open(nil, name) end)
    after_each(function() session:close() end)

    it("gives a prompt the same text and log-probabilities in any batch, refilled or not, at any threads", function()
      local prompts = prompts_of(9)
      for _, temperature in ipairs({ 0, 1 }) do
        local params = { temperature = temperature, max_tokens = 12, seed = 3, stop_ids = { 7, 70, 170 } }
        local expected = run(session, prompts, lists.with(params, { max_batch = 1 }))
        for _, max_batch in ipairs({ 2, 4, 16 }) do
          assert.same(expected, run(session, prompts, lists.with(params, { max_batch = max_batch })))
        end
        for _, options in ipairs({ { threads = 2 }, { micro_batch_tokens = 1 }, { dropout = 0.5 } }) do
          local other <close> = open(options, name)
          assert.same(expected, run(other, prompts, lists.with(params, { max_batch = 4 })))
        end
      end
    end)

    it("reports the log-probability that forward gives", function()
      local prompts = prompts_of(4)
      for _, params in ipairs({ { temperature = 0 }, { temperature = 0.7, top_k = 40, top_p = 0.9, seed = 5 } }) do
        local rows = run(session, prompts, lists.with(params, { max_tokens = 10 }))
        for i, prompt in ipairs(prompts) do
          local tokens = lists.join(prompt, rows[i].tokens)
          local expected = assert(session:forward({ { tokens = tokens } }))[1]
          local from = lists.slice(expected, #prompt, 10)
          assert.is_nil(lists.first_beyond(rows[i].logprobs, from, 2e-5))
        end
      end
    end)

    it("takes the likeliest token at temperature 0", function()
      local prompt = ids(4, 6)
      local row = run(session, { prompt }, { temperature = 0, max_tokens = 2 })[1]
      for i, token in ipairs(row.tokens) do
        local seen = lists.join(prompt, lists.slice(row.tokens, 1, i - 1))
        local logprobs = distribution(session, seen, name == "tiny" and 320 or 269)
        for _, logprob in ipairs(logprobs) do assert.is_true(logprob <= logprobs[token + 1] + 1e-5) end
      end
    end)
  end)
end

describe("generation", function()
  local session

  before_each(function() session = open() end)
  after_each(function() session:close() end)

  it("draws other text from another seed, and other text for the same prompt twice", function()
    local prompts, params = { { 1, 2 }, { 1, 2 } }, { temperature = 1, max_tokens = 20, seed = 1 }
    local one = run(session, prompts, params)
    assert.not_same(one[1].tokens, one[2].tokens)
    assert.not_same(one, run(session, prompts, lists.with(params, { seed = 2 })))
    assert.same(one, run(session, prompts, params))
  end)

  it("leaves the branches out on request", function()
    local fresh <close> = tiny_model.session()
    local params = { temperature = 0, max_tokens = 8 }
    assert.same(run(fresh, prompts_of(3), params), run(session, prompts_of(3), lists.with(params, { base = true })))
    assert.not_same(run(fresh, prompts_of(3), params), run(session, prompts_of(3), params))
  end)

  local samplings = {
    { "alone", {} },
    { "at temperature 0.6", { temperature = 0.6 } },
    { "at temperature 3", { temperature = 3 } },
    { "of the 5 likeliest", { top_k = 5 } },
    { "of the likeliest 60 %", { top_p = 0.6 } },
    { "of the likeliest 70 % of 8 at temperature 1.5", { temperature = 1.5, top_k = 8, top_p = 0.7 } },
  }

  -- What the options leave of the distribution, id to share: temperature, then top_k, then top_p.
  local function filtered(logprobs, params)
    local list, total = {}, 0.0
    for i, logprob in ipairs(logprobs) do
      list[i] = { id = i - 1, share = math.exp(logprob / (params.temperature or 1)) }
    end
    table.sort(list, function(a, b) return a.share > b.share end)
    for i = #list, (params.top_k or #list) + 1, -1 do list[i] = nil end
    for _, entry in ipairs(list) do total = total + entry.share end
    local sum, out = 0.0, {}
    for _, entry in ipairs(list) do
      if sum >= (params.top_p or 2) * total then break end
      sum, out[entry.id] = sum + entry.share, entry.share
    end
    for id, share in pairs(out) do out[id] = share / sum end
    return out
  end

  for _, sampling in ipairs(samplings) do
    it("draws from the exact softmax " .. sampling[1] .. " #slow", function()
      local draws, prompt = 3000, { 17, 42 }
      local shares = filtered(distribution(session, prompt, 320), sampling[2])
      local prompts, counts = {}, {}
      for i = 1, draws do prompts[i] = prompt end
      local params = lists.with({ temperature = 1, max_tokens = 1, max_batch = 100, seed = 99 }, sampling[2])
      for _, row in ipairs(run(session, prompts, params)) do
        local token = row.tokens[1]
        assert.is_truthy(shares[token], "token " .. token .. " should have been left out")
        counts[token] = (counts[token] or 0) + 1
      end
      local deviation = chi_square_deviation(counts, shares, draws)
      assert.is_true(math.abs(deviation) < 3.5, ("chi-square is %.2f standard deviations off"):format(deviation))
    end)
  end

  for i, case in ipairs(golden.json("sampling.json").cases) do
    it(("draws what transformers' filters leave, case %d #slow"):format(i), function()
      local plain <close> = tiny_model.session()
      local fixture, draws, shares, prompts, counts = golden.json("sampling.json"), 3000, {}, {}, {}
      for _, entry in ipairs(case.shares) do shares[entry[1]] = entry[2] end
      for n = 1, draws do prompts[n] = fixture.prompt end
      local params = lists.with({ temperature = 1, max_tokens = 1, max_batch = 100, seed = 4 }, case.setting)
      for _, row in ipairs(run(plain, prompts, params)) do
        local token = row.tokens[1]
        assert.is_truthy(shares[token], "token " .. token .. " should have been left out")
        counts[token] = (counts[token] or 0) + 1
      end
      local deviation = chi_square_deviation(counts, shares, draws)
      assert.is_true(math.abs(deviation) < 3.5, ("chi-square is %.2f standard deviations off"):format(deviation))
    end)
  end

  it("penalises what the row holds also when it is greedy", function()
    local params = { temperature = 0, max_tokens = 40, repetition_penalty = 1e6 }
    local row = run(session, { { 3, 4, 5 } }, params)[1]
    local seen = { [3] = true, [4] = true, [5] = true }
    local repeated = 0
    for _, token in ipairs(row.tokens) do
      repeated = repeated + (seen[token] and 1 or 0)
      seen[token] = true
    end
    assert.equal(0, repeated)
  end)

  -- Prompts that begin alike, some the same, some alone.
  local function prompts_alike()
    local stem, other, prompts = ids(90, 70), ids(91, 40), {}
    for i = 1, 5 do
      prompts[#prompts + 1] = lists.join(stem, ids(i, i))
      prompts[#prompts + 1] = lists.join(other, ids(i, 2))
      prompts[#prompts + 1] = i % 2 == 0 and stem or ids(50 + i, 9)
    end
    return prompts
  end

  it("takes over keys of prompts that begin alike, and not a byte of the text changes", function()
    local prompts = prompts_alike()
    for _, temperature in ipairs({ 0, 1 }) do
      local params = { temperature = temperature, max_tokens = 8, seed = 3 }
      local alone = {}
      for i, prompt in ipairs(prompts) do
        -- Its own stream is that of its number in the call: earlier prompts end at once.
        local list = {}
        for n = 1, i - 1 do list[n] = { 1 + n } end
        list[i] = prompt
        alone[i] = run(session, list, params)[i]
      end
      for _, max_batch in ipairs({ 1, 3, 16 }) do
        local generation <close> = assert(session:generate(prompts, lists.with(params, { max_batch = max_batch })))
        local rows = {}
        for i = 1, #prompts do rows[i] = { tokens = {}, logprobs = {} } end
        for events in function() return (generation:step()) end do
          for _, event in ipairs(events) do
            local row = rows[event.prompt]
            row.tokens[#row.tokens + 1], row.logprobs[#row.logprobs + 1] = event.token, event.logprob
            row.finish = event.finish
          end
        end
        assert.same(alone, rows)
        local info = generation:info()
        assert.is_true(info.reused_positions > (max_batch == 1 and 100 or 200), info.reused_positions)
        assert.is_true(info.reused_positions < info.prompt_positions)
      end
    end
  end)

  it("scores continuations behind keys that were taken over", function()
    local prompts, texts = prompts_alike(), {}
    for i in ipairs(prompts) do texts[i] = { { 5, 6 }, { 7 } } end
    local expected = assert(session:score(prompts, texts))
    local generation <close> = assert(session:generate(prompts, { max_tokens = 2, max_batch = 4 }))
    local scored = 0
    for events in function() return (generation:step()) end do
      local some = {}
      for i, event in ipairs(events) do some[i] = texts[event.prompt] end
      local scores = generation:score(some)
      for i, row in ipairs(scores or {}) do
        scored = scored + 1
        assert.is_nil(lists.first_beyond(row, expected[events[i].prompt], 2e-5))
      end
    end
    assert.equal(#prompts, scored)
  end)

  it("takes nothing over from keys of other weights", function()
    local stem = ids(90, 40)
    local generation <close> = assert(session:generate({ stem, stem }, { max_tokens = 1, max_batch = 1 }))
    local first = assert(generation:step())[1].token
    assert(session:forward_backward({ { tokens = ids(1, 60) } }))
    assert(session:optim_step({ lr = 0.5 }))
    local second = assert(generation:step())[1]
    local expected = run(session, { { 1 }, stem }, { max_tokens = 1 })[2]
    assert.equal(expected.tokens[1], second.token)
    assert.equal(expected.logprobs[1], second.logprob)
    assert.equal(0, generation:info().reused_positions)
    assert.is_truthy(first)
  end)

  it("decodes as many rows together as its cache may hold, with the same text", function()
    local prompts = prompts_of(9)
    local params = { temperature = 1, max_tokens = 5, seed = 6 }
    local expected = run(session, prompts, params)
    local free <close> = assert(session:generate(prompts, params))
    local row_bytes = free:info().cache_bytes // free:info().rows
    local bounded = lists.with(params, { cache_bytes = 3 * row_bytes + row_bytes // 2 })
    local generation <close> = assert(session:generate(prompts, bounded))
    assert.equal(3, generation:info().rows)
    assert.equal(3 * row_bytes, generation:info().cache_bytes)
    assert.same(expected, run(session, prompts, bounded))
    expect.fails("memory", ("keys and values of one row of 18 positions need %d bytes: cache_bytes is %d"):format(
      row_bytes, row_bytes - 1), session:generate(prompts, lists.with(params, { cache_bytes = row_bytes - 1 })))
  end)

  it("ends a row at a stop id, which is not part of it", function()
    local prompts, params = prompts_of(5), { temperature = 1, max_tokens = 30, seed = 4 }
    local free = run(session, prompts, params)
    local stop = { free[1].tokens[3], free[2].tokens[1], free[3].tokens[30] }
    local stopped = run(session, prompts, lists.with(params, { stop_ids = stop }))
    for i, row in ipairs(free) do
      local length = 0
      while length < 30 and not (row.tokens[length + 1] == stop[1] or row.tokens[length + 1] == stop[2]
        or row.tokens[length + 1] == stop[3]) do length = length + 1 end
      assert.same(lists.slice(row.tokens, 1, length), stopped[i].tokens)
      assert.equal(length < 30 and "stop" or "length", stopped[i].finish)
    end
  end)

  it("with max_tokens 0 ends every row at once, in batches of any size", function()
    for _, max_batch in ipairs({ 1, 2, 16 }) do
      local rows = run(session, prompts_of(5), { max_tokens = 0, max_batch = max_batch })
      for _, row in ipairs(rows) do assert.same({ tokens = {}, logprobs = {}, finish = "length" }, row) end
    end
  end)

  it("fills the context to its last position and not beyond", function()
    local rows = run(session, { ids(1, 509) }, { max_tokens = 3 })
    assert.equal(3, #rows[1].tokens)
    expect.fails("context_overflow", "prompt 2: 509 tokens and 4 new ones exceed the context of 512",
      session:generate({ { 1 }, ids(1, 509) }, { max_tokens = 4 }))
    expect.fails("argument", "prompt 1: token 2 is 320, expected 0 to 319", session:generate({ { 1, 320 } }))
    expect.fails("argument", "prompt 1: token 1 is -1", session:generate({ { -1 } }))
  end)

  it("goes on after training in between", function()
    local generation <close> = assert(session:generate({ { 1, 2, 3 } }, { max_tokens = 4 }))
    assert(generation:step())
    assert(session:forward_backward({ { tokens = ids(1, 200) } }))
    assert(session:forward({ { tokens = ids(1, 300) } }))
    local tokens = {}
    for events in function() return (generation:step()) end do tokens[#tokens + 1] = events[1].token end
    assert.same(lists.slice(run(session, { { 1, 2, 3 } }, { max_tokens = 4 })[1].tokens, 2, 3), tokens)
  end)
end)
