-- The head: log-probabilities and the mean row under the softmax, beside the plain loop and finite
-- differences. In builds with crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"

local with = lists.with

local head = native.math.head

local function positions(n, d, vocabulary, reach)
  local targets = {}
  for i = 1, n do targets[i] = (i * 7919 + n) % vocabulary end
  return {
    n = n, d = d, vocabulary = vocabulary, targets = targets,
    hidden = lists.uniform(n, n * d, reach or 1), head = lists.uniform(vocabulary, vocabulary * d),
  }
end

local function positions_from(p, first, count)
  return with(p, {
    n = count, targets = lists.slice(p.targets, first, count),
    hidden = lists.slice(p.hidden, (first - 1) * p.d + 1, count * p.d),
  })
end

-- The largest |logit|: logits are rounded relative to it.
local function largest_logit(p)
  local largest = 0.0
  for i = 1, p.n do
    local hidden = lists.slice(p.hidden, (i - 1) * p.d + 1, p.d)
    for v = 1, p.vocabulary do
      largest = math.max(largest, math.abs(lists.dot(hidden, lists.slice(p.head, (v - 1) * p.d + 1, p.d))))
    end
  end
  return largest
end

local CHUNK_EDGES = { { 5, 8, 1 }, { 65, 8, 17 }, { 3, 15, 255 }, { 3, 16, 256 }, { 3, 17, 257 }, { 2, 4, 4351 } }

for _, kernels in ipairs(native.math.kernels()) do
  describe("the head with the " .. kernels .. " kernels", function()
    local function assert_plain(p)
      local logprobs, expected = head(with(p, { kernels = kernels, threads = 2 }))
      local plain_logprobs, plain_expected = head(with(p, { plain = true }))
      local title = ("%d positions, %d wide, %d entries"):format(p.n, p.d, p.vocabulary)
      local bound = 4e-6 * (1 + largest_logit(p))
      assert.is_nil(lists.first_beyond(logprobs, plain_logprobs, bound), title)
      assert.is_nil(lists.first_beyond(expected, plain_expected, bound), title) -- a mean of values in ±1
    end

    it("agrees with the plain loop for every size of vocabulary", function()
      for _, shape in ipairs(CHUNK_EDGES) do assert_plain(positions(table.unpack(shape))) end
    end)

    it("agrees with it for logits from -80 to 80", function()
      local p = positions(9, 16, 300, 32)
      assert.is_true(largest_logit(p) > 80)
      assert_plain(p)
    end)

    it("agrees with it for 1 to 600 positions, in one pass or two", function()
      for _, n in ipairs({ 1, 2, 63, 511, 512, 513, 600 }) do assert_plain(positions(n, 4, 23)) end
    end)

    it("answers any number of tokens a position, and its entropy, as the plain loop does", function()
      for _, shape in ipairs({ { 5, 16, 700 }, { 66, 8, 300 }, { 3, 9, 41 }, { 2, 8, 1 } }) do
        local p = with(positions(table.unpack(shape)), { entropy = true, starts = { 0 }, targets = {} })
        for i = 1, p.n do
          for k = 1, i % 4 do table.insert(p.targets, (i * 7919 + k % 3 * 31) % p.vocabulary) end
          p.starts[i + 1] = #p.targets
        end
        local ours = { head(with(p, { kernels = kernels, threads = 2 })) }
        local plain = { head(with(p, { plain = true })) }
        local title, bound = table.concat(shape, " "), 4e-6 * (1 + largest_logit(p))
        for output = 1, 5 do assert.is_nil(lists.first_beyond(ours[output], plain[output], bound), title) end
        local single = { head(with(p, { kernels = kernels })) }
        for output = 1, 5 do assert.is_true(lists.bits(ours[output]) == lists.bits(single[output]), title) end
      end
    end)

    it("keeps the entropy of near certainty to a small relative error", function()
      local p = with(positions(4, 16, 600, 24), { entropy = true })
      local _, _, _, entropy = head(with(p, { kernels = kernels }))
      local _, _, _, plain = head(with(p, { plain = true }))
      for i = 1, p.n do
        assert.is_true(plain[i] < 0.5)
        assert.near(plain[i], entropy[i], 1e-3 * plain[i]) -- logits of 80 are rounded to 4e-6
      end
    end)

    it("has the slopes of entropies and of several tokens that finite differences find", function()
      local p = with(positions(3, 9, 41), { entropy = true, starts = { 0, 2, 2, 5 }, targets = { 3, 40, 7, 7, 0 } })
      local slope, entropy_slope = { 0.5, -1.25, 2, 0.25, -3 }, { 1.5, -2, 0.75 }
      local function loss(hidden)
        local logprobs, _, _, entropy = head(with(p, { hidden = hidden, plain = true }))
        return lists.dot(slope, logprobs) + lists.dot(entropy_slope, entropy)
      end
      local _, expected, _, _, tilt = head(with(p, { kernels = kernels }))
      local dhidden = native.math.head_backward(with(p, {
        kernels = kernels, threads = 2, expected = expected, tilt = tilt, slope = slope, entropy_slope = entropy_slope,
      }))
      for i = 1, #dhidden do assert.near(gradient.entry(loss, p.hidden, i, 0.02), dhidden[i], 5e-4) end
    end)

    it("gives zero for a vocabulary of one", function()
      local p = positions(3, 8, 1)
      local logprobs, expected = head(with(p, { kernels = kernels }))
      assert.is_nil(lists.first_beyond(logprobs, { 0, 0, 0 }, 1e-6))
      assert.is_nil(lists.first_beyond(expected, lists.join(p.head, p.head, p.head), 1e-6))
    end)

    it("gives a position the bits that it has alone", function()
      for _, shape in ipairs({ { 70, 16, 700 }, { 513, 4, 300 }, { 66, 4100, 9 } }) do
        local p = with(positions(table.unpack(shape)), { kernels = kernels })
        local logprobs, expected = head(p)
        for _, i in ipairs({ 1, 2, 13, 64, 65, p.n - 1, p.n }) do
          local alone_logprobs, alone_expected = head(positions_from(p, i, 1))
          assert.equal(alone_logprobs[1], logprobs[i])
          local whole = lists.slice(expected, (i - 1) * p.d + 1, p.d)
          assert.is_true(lists.bits(alone_expected) == lists.bits(whole), "position " .. i)
        end
      end
    end)

    it("gives the same bits at 1, 2 and 3 threads, with the mean row or without", function()
      local p = with(positions(17, 15, 5000), { kernels = kernels, threads = 1 })
      local logprobs, expected = head(p)
      local one = lists.bits(lists.join(logprobs, expected))
      assert.is_true(lists.bits(logprobs) == lists.bits(head(with(p, { logprobs_only = true }))))
      for threads = 2, 3 do
        assert.is_true(one == lists.bits(lists.join(head(with(p, { threads = threads })))))
      end
    end)

    it("reads a quantised head", function()
      for _, info in ipairs(native.math.types()) do
        if info.name == "Q8_0" or info.name == "F16" then
          local d, vocabulary = 64, 50
          local bytes = {}
          for i, x in ipairs(lists.uniform(3, vocabulary * d * 2, 32)) do bytes[i] = string.char(x // 1 & 63) end
          local stored = table.concat(bytes, "", 1, vocabulary * d // info.block_length * info.block_bytes)
          local values = native.math.expand({ bytes = stored, type = info.type, first = 0, count = vocabulary * d })
          local p = with(positions(4, d, vocabulary), { kernels = kernels })
          local ours = lists.join(head(with(p, { head = stored, type = info.type })))
          assert.is_true(lists.bits(ours) == lists.bits(lists.join(head(with(p, { head = values })))))
        end
      end
    end)

    it("keeps NaN to the position that has it", function()
      local p = with(positions(30, 8, 600), { kernels = kernels })
      p.hidden[13 * 8 + 2] = 0 / 0 -- position 14
      local logprobs, expected = head(p)
      for i = 1, p.n do
        local value = expected[(i - 1) * 8 + 1]
        assert.equal(i == 14, logprobs[i] ~= logprobs[i], "position " .. i)
        assert.equal(i == 14, value ~= value, "position " .. i)
      end
    end)

    it("shows a NaN anywhere in the vocabulary, and an infinite logit", function()
      for _, bad in ipairs({ 0 / 0, math.huge, -math.huge }) do
        for _, entry in ipairs({ 1, 256, 257, 600 }) do
          local p = with(positions(3, 8, 600), { kernels = kernels })
          p.hidden, p.head[(entry - 1) * 8 + 4] = lists.fill(3 * 8, 1), bad
          p.targets = { entry - 1, 5, 300 }
          local logprobs = head(p)
          local swallowed = bad == -math.huge -- exp(-inf) takes no share: only its own target is impossible
          assert.is_true(swallowed and logprobs[1] == bad or logprobs[1] ~= logprobs[1])
          for i = 2, 3 do
            local broken = logprobs[i] ~= logprobs[i] or logprobs[i] == -math.huge
            assert.equal(not swallowed, broken, ("%g at %d"):format(bad, entry))
          end
        end
      end
    end)

    it("has the gradient that finite differences find", function()
      local p = positions(3, 9, 41)
      local slope = { 0.5, -1.25, 0 }
      local function loss(hidden)
        local total = 0.0
        for i = 1, p.n do
          local row, logits, sum = lists.slice(hidden, (i - 1) * p.d + 1, p.d), {}, 0.0
          for v = 1, p.vocabulary do
            logits[v] = lists.dot(row, lists.slice(p.head, (v - 1) * p.d + 1, p.d))
            sum = sum + math.exp(logits[v])
          end
          total = total + slope[i] * (logits[p.targets[i] + 1] - math.log(sum))
        end
        return total
      end
      local _, expected = head(with(p, { kernels = kernels }))
      local backward = with(p, { kernels = kernels, threads = 2, expected = expected, slope = slope })
      local dhidden = native.math.head_backward(backward)
      for i = 1, #dhidden do assert.near(gradient.entry(loss, p.hidden, i, 1e-3), dhidden[i], 1e-6) end
      assert.same(dhidden, native.math.head_backward(with(backward, { in_place = true })))
    end)
  end)
end
