-- Log-probabilities of the network: what they may depend on.
local lists = require "spec.support.lists"
local tiny_model = require "spec.support.tiny_model"

local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local function ids(seed, count)
  return lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
end

-- Branches that matter, scaled by a number that is no power of two.
local function open(name, options)
  local session = tiny_model.session(lists.with({ targets = ALL, alpha = 5 }, options or {}), name)
  for i, p in ipairs(session:parameters()) do
    session:write(p.name, lists.uniform(i, p.rows * p.columns, 0.125))
  end
  return session
end

local function batch()
  return { { tokens = ids(1, 31) }, { tokens = ids(2, 2) }, { tokens = ids(3, 90) }, { tokens = ids(4, 7) } }
end

for _, name in ipairs({ "tiny", "tiny_untied" }) do
  describe("the log-probabilities of " .. name, function()
    local session, expected

    before_each(function()
      session = open(name)
      expected = assert(session:forward(batch()))
    end)

    after_each(function() session:close() end)

    local function assert_bits(found, wanted, what)
      assert.is_true(lists.bits(found) == lists.bits(wanted), what)
    end

    it("have the bits of a row alone", function()
      for i, row in ipairs(batch()) do
        assert_bits(assert(session:forward({ row }))[1], expected[i], "row " .. i)
      end
    end)

    it("have the same bits at any number of threads, in pieces of any size and in training", function()
      local ways = {
        { threads = 0 }, { threads = 2 }, { threads = 3 }, { micro_batch_tokens = 1 }, { recompute = true },
      }
      for _, options in ipairs(ways) do
        local other <close> = open(name, options)
        local result = assert(other:forward_backward(batch(), { logprobs = true }))
        for i, row in ipairs(assert(other:forward(batch()))) do
          assert_bits(row, expected[i], "row " .. i)
          assert_bits(result.logprobs[i], expected[i], "row " .. i .. " in training")
        end
      end
    end)

    it("do not look ahead", function()
      local tokens = ids(3, 90)
      table.move(ids(9, 20), 1, 20, 71, tokens)
      local row = assert(session:forward({ { tokens = tokens } }))[1]
      assert_bits(lists.slice(row, 1, 69), lists.slice(expected[3], 1, 69), "before the change")
      assert.not_same(lists.slice(expected[3], 70, 20), lists.slice(row, 70, 20))
    end)

    it("are those of the base when it is asked for, whatever the branches hold", function()
      local fresh <close> = tiny_model.session({ targets = ALL }, name) -- B is zero
      assert.same(fresh:forward(batch()), session:forward(batch(), { base = true }))
      assert.not_same(expected, session:forward(batch(), { base = true }))
    end)

    it("are NaN where the weight is zero and unchanged elsewhere", function()
      local rows = batch()
      rows[1].weights = lists.map(lists.fill(30, 1), function(_, i) return i % 3 == 0 and -2 or 0 end)
      local row = assert(session:forward(rows))[1]
      for i, value in ipairs(row) do
        if i % 3 == 0 then
          assert.equal(expected[1][i], value)
        else
          assert.is_true(value ~= value)
        end
      end
    end)

    it("are those of the targets that are given", function()
      local tokens = ids(1, 31)
      local given = { tokens = lists.slice(tokens, 1, 30), targets = lists.slice(tokens, 2, 30) }
      assert_bits(assert(session:forward({ given }))[1], expected[1], "shifted by hand")
    end)
  end)
end
