-- Scores of continuations beside the sums of forward's log-probabilities.
require "crucible.core"
local expect = require "spec.support.expect"
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

local PROMPTS = { ids(1, 1), ids(2, 70), ids(3, 9) }
local CONTINUATIONS = {
  { ids(4, 1), ids(5, 30), ids(6, 2) },
  { ids(7, 3), ids(8, 1), ids(9, 66) },
  { ids(10, 5), ids(10, 5), ids(11, 4) },
}

local function sum_of_forward(session, prompt, continuation, options)
  local tokens, weights = lists.join(prompt, continuation), {}
  for t = 1, #tokens - 1 do weights[t] = t >= #prompt and 1 or 0 end
  local sum = 0.0
  for _, value in ipairs(assert(session:forward({ { tokens = tokens, weights = weights } }, options))[1]) do
    if value == value then sum = sum + value end
  end
  return sum
end

for _, name in ipairs({ "tiny", "tiny_untied" }) do
  describe("scores by " .. name, function()
    it("are the sums of what forward gives, with the branches or without", function()
      local session <close> = open(nil, name)
      for _, options in ipairs({ { base = false }, { base = true } }) do
        local scores = assert(session:score(PROMPTS, CONTINUATIONS, options))
        for i, prompt in ipairs(PROMPTS) do
          for c, continuation in ipairs(CONTINUATIONS[i]) do
            local expected = sum_of_forward(session, prompt, continuation, options)
            assert.near(expected, scores[i][c], 2e-6 * math.abs(expected), ("prompt %d, choice %d"):format(i, c))
          end
        end
        assert.equal(scores[3][1], scores[3][2])
      end
    end)

    it("do not depend on threads, and but for rounding on what is scored beside them", function()
      local session <close> = open(nil, name)
      local expected = assert(session:score(PROMPTS, CONTINUATIONS))
      local function assert_near(i, scores)
        for c, score in ipairs(scores) do
          assert.near(expected[i][c], score, 1e-6 * math.abs(score), ("prompt %d, choice %d"):format(i, c))
        end
      end
      local threads <close> = open({ threads = 3 }, name)
      assert.same(expected, threads:score(PROMPTS, CONTINUATIONS))
      local pieces <close> = open({ micro_batch_tokens = 1 }, name)
      for i, scores in ipairs(assert(pieces:score(PROMPTS, CONTINUATIONS))) do assert_near(i, scores) end
      for i, prompt in ipairs(PROMPTS) do
        assert_near(i, assert(session:score({ prompt }, { CONTINUATIONS[i] }))[1])
        for c, continuation in ipairs(CONTINUATIONS[i]) do
          local score = assert(session:score({ prompt }, { { continuation } }))[1][1]
          assert.near(expected[i][c], score, 1e-6 * math.abs(score))
        end
      end
    end)
  end)
end

describe("scores", function()
  it("fill the context and refuse more, and ids outside the vocabulary", function()
    local session <close> = open()
    assert(session:score({ ids(1, 500) }, { { ids(2, 12) } }))
    expect.fails("context_overflow", "prompt 1, continuation 2: 500 and 13 tokens exceed the context of 512",
      session:score({ ids(1, 500) }, { { { 1 }, ids(2, 13) } }))
    expect.fails("argument", "prompt 2, continuation 1: token 2 is 320, expected 0 to 319",
      session:score({ { 1 }, { 2 } }, { { { 3 } }, { { 3, 320 } } }))
    expect.fails("argument", "prompt 2: token 1 is -5", session:score({ { 1 }, { -5 } }, { { { 3 } }, { { 3 } } }))
  end)

  it("are probabilities: over the whole vocabulary they sum to one", function()
    local session <close> = open()
    local choices, sum = {}, 0.0
    for id = 0, 319 do choices[id + 1] = { id } end
    for _, score in ipairs(assert(session:score({ { 9, 8, 7 } }, { choices }))[1]) do sum = sum + math.exp(score) end
    assert.near(1, sum, 1e-5)
  end)
end)
