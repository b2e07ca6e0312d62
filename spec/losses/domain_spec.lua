-- The domain's losses on predictions made by hand: values from their formulas, slopes beside finite differences, and
-- what degenerate rows give. Through a model: spec/losses/model_spec.lua.
local byte_tokenizer = require "spec.support.byte_tokenizer"
local chirality = require "crucible.domain.chirality"
local leaves = require "spec.support.leaves"
local lists = require "spec.support.lists"
local loss_functions = require "crucible.lora.loss_functions"
local tensor = require "crucible.tensor"

local registry = loss_functions.new()
registry.register_topological_loss()
registry.register_chirality_loss()
registry.register_citation_loss()

local tokenizer = byte_tokenizer.new()

local CLAIMS = "CLAIM[c1]: a\nCLAIM[c2] (Document 12): b\nCLAIM[c3] (Document 34): c\nCLAIM[c4] (Document 12): d\n"
local STAR = CLAIMS .. "RELATION: c2 supports c1\nRELATION: c3 refutes c1\nRELATION: c4 supports c1"
local LOOP = CLAIMS
  .. "RELATION: c2 supports c1\nRELATION: c3 refutes c2\nRELATION: c3 supports c1\nRELATION: c4 contrasts c3"
local POOL = { evidence_pool = { "12", "125", "34" } }

local function datum(answer, metadata, open)
  return tokenizer:datum("go: ", answer, { metadata = metadata or POOL, open = open })
end

local function finite(x) return x == x and math.abs(x) < math.huge end

-- Log-probabilities by what the tokens spell: `of(text, position)`.
local function candidates_by(of)
  return { candidate = function(_, position, id) return of(tokenizer:decode { id }, position) end }
end

-- Lines of relations as candidates see them: the destination's digit of line l has the probabilities given[l][digit],
-- everything else is even.
local function destinations(given)
  local line_of, count = {}, 0
  return candidates_by(function(text, position)
    if not text:find "%d" then return math.log(0.25) end
    if not line_of[position] then
      count = count + 1
      line_of[position] = count
    end
    return math.log(given[line_of[position]][text] or 0)
  end)
end

local function value_of(name, answer, values, metadata)
  local loss = registry.resolve(name)
  local value, found, slopes = leaves.compute(loss, leaves.see(loss, { datum(answer, metadata) }, values))
  return value, found, slopes
end

describe("The topological loss", function()
  local sure = { { ["1"] = 1 }, { ["1"] = 1 }, { ["1"] = 1 } }

  it("is 0 for a fully confident right graph", function()
    local value, found = value_of("topological", STAR, destinations(sure))
    assert.near(0, value, 1e-12)
    assert.same({ sum = 1, count = 1 }, found.betti_0)
    assert.same({ sum = 0, count = 1 }, found.betti_1)
    assert.same({ sum = 1, count = 1 }, found.target_betti_0)
    assert.same({ sum = 3, count = 3 }, found.destination_accuracy)
    assert.near(0, (value_of("topological", LOOP,
      destinations { { ["1"] = 1 }, { ["2"] = 1 }, { ["1"] = 1 }, { ["3"] = 1 } })), 1e-12)
  end)

  it("has the value of its formula", function()
    -- w(c2,c1) = 0.6, w(c3,c1) = 0.5, w(c4,c1) = 0.9, w(c2,c3) = max(0.3, 0.2) = 0.3, w(c3,c4) = 0.3, w(c2,c4) = 0.1
    local value = value_of("topological", STAR, destinations {
      { ["1"] = 0.6, ["2"] = 0, ["3"] = 0.3, ["4"] = 0.1 }, { ["1"] = 0.5, ["2"] = 0.2, ["3"] = 0, ["4"] = 0.3 },
      { ["1"] = 0.9, ["2"] = 0.05, ["3"] = 0.05, ["4"] = 0 },
    })
    -- both forests are the star; loops are born at 1 − 0.3, 1 − 0.3, 1 − 0.1 and go to the diagonal
    local star = 0.4 ^ 2 + 0.5 ^ 2 + 0.1 ^ 2
    local loops = (0.3 ^ 2 + 0.3 ^ 2 + 0.1 ^ 2) / 2
    assert.near((star + loops) / 4, value, 1e-12)
  end)

  it("charges wrong merges, weak merges and leaked loops", function()
    local wrong = value_of("topological", STAR, destinations { { ["3"] = 1 }, { ["1"] = 1 }, { ["1"] = 1 } })
    -- c2 hangs on c3: the edge c1-c2 is missing (½·1), c2-c3 is not wanted (½·1)
    assert.near(1 / 4, wrong, 1e-12)
    local leaked = value_of("topological", CLAIMS .. "RELATION: c2 supports c1\nRELATION: c3 refutes c1\n"
      .. "RELATION: c3 supports c1", destinations { { ["1"] = 1 }, { ["1"] = 1 }, { ["2"] = 1 } })
    -- c1-c2, c1-c3 right, c2-c3 closes a loop born at 0: ½ · 1²
    assert.near(1 / 2 / 4, leaked, 1e-12)
  end)

  it("matches loops of the target", function()
    local value = value_of("topological", LOOP,
      destinations { { ["1"] = 1 }, { ["2"] = 0.8 }, { ["1"] = 1 }, { ["3"] = 1 } })
    -- the loop is born at 0.2 instead of 0, whichever edge bears it
    assert.near(0.2 ^ 2 / 4, value, 1e-12)
  end)

  it("compares unlabelled diagrams on request, and is then blind to which claims are joined", function()
    local chain = destinations { { ["3"] = 1 }, { ["4"] = 1 }, { ["1"] = 1 } }
    assert.near(0, (value_of({ "topological", { matching = "diagram" } }, STAR, chain)), 1e-12)
    assert.is_true(value_of("topological", STAR, chain) > 0.2)
  end)

  it("drops the mass of a claim on itself, which is a cycle in the report", function()
    local value, found = value_of("topological", STAR, destinations { { ["2"] = 1 }, { ["1"] = 1 }, { ["1"] = 1 } })
    assert.near(1 / 4, value, 1e-12) -- c1-c2 misses both in the target's forest and in the model's
    assert.same({ sum = 1 / 2, count = 1 }, found.consistency_score)
    assert.same({ sum = 2, count = 1 }, found.betti_0)
  end)

  it("finds the right destinations of a star from any start #slow", function()
    local loss, right, trials = registry.resolve "topological", 0, 6
    for trial = 1, trials do
      local logits = tensor.randn({ 3, 4 }, { seed = trial, requires_grad = true })
      local row = datum(STAR)
      local place = {}
      for _ = 1, 80 do
        local logp = logits:log_softmax(2):detach()
        local n, known = 0, {}
        local seen = leaves.see(loss, { row }, { candidate = function(_, position, id)
          local text = tokenizer:decode { id }
          if not text:find "%d" then return math.log(0.25) end
          if not known[position] then
            n = n + 1
            known[position] = n
          end
          return logp:item(known[position], tonumber(text))
        end })
        local _, _, slopes = leaves.compute(loss, seen)
        -- leaves are in the order of names: destinations first, one position a line, its own token first
        local slope, ids = slopes[1]:totable(), seen.predictions.candidates[1].destinations.ids
        local full, at = {}, 0
        for l = 1, 3 do
          full[l] = lists.fill(4, 0)
          for _, id in ipairs(ids[l]) do
            at = at + 1
            full[l][tonumber(tokenizer:decode { id })] = slope[at]
          end
        end
        place = full
        local upstream = tensor.new(full)
        logits:zero_grad();
        (logits:log_softmax(2) * upstream):sum():backward()
        tensor.no_grad(function() logits:add_(logits.grad, -4) end)
      end
      local best = logits:argmax(2):totable()
      for l = 1, 3 do right = right + (best[l] == 1 and 1 or 0) end
      assert.equal(3, #place)
    end
    assert.equal(3 * trials, right)
  end)

  it("of hidden states is Moor's signature loss", function()
    local loss = registry.resolve { "topological", { space = "hidden" } }
    local seen = leaves.see(loss, { datum(STAR) })
    local states = seen.predictions.hidden[1]:totable()
    local function distance(a, b)
      local sum = 1e-12
      for k = 1, #states[a] do sum = sum + (states[a][k] - states[b][k]) ^ 2 end
      return math.sqrt(sum)
    end
    local all, longest = {}, 0
    for a = 1, 4 do
      for b = a + 1, 4 do
        all[#all + 1] = { a, b, z = distance(a, b), x = a == 1 and 0.5 or 1 }
        longest = math.max(longest, distance(a, b))
      end
    end
    -- Kruskal by hand, over scaled distances
    local function forest(key)
      local order, part, chosen = table.move(all, 1, #all, 1, {}), { 1, 2, 3, 4 }, {}
      table.sort(order, function(p, q) return p[key] < q[key] end)
      for _, edge in ipairs(order) do
        local from, to = part[edge[1]], part[edge[2]]
        if from ~= to then
          chosen[#chosen + 1] = edge
          for i = 1, 4 do if part[i] == from then part[i] = to end end
        end
      end
      return chosen
    end
    local expected = 0
    for i, edge in ipairs(all) do edge.x = edge.x + i * 1e-9 end -- Kruskal needs an order; x = 0.5 is the star
    for _, key in ipairs { "x", "z" } do
      for _, edge in ipairs(forest(key)) do
        expected = expected + (edge.z / longest - (edge[1] == 1 and 0.5 or 1)) ^ 2 / 2
      end
    end
    assert.near(expected, (leaves.compute(loss, seen)), 1e-9)
  end)

  it("of hidden states has the slopes of distances over a constant", function()
    local seen = leaves.see(registry.resolve { "topological", { space = "hidden" } }, { datum(STAR) })
    local states, longest = seen.predictions.hidden[1], 0
    for a = 1, 4 do
      for b = a + 1, 4 do longest = math.max(longest, (states[a] - states[b]):norm():item()) end
    end
    local loss = registry.resolve { "topological", { space = "hidden" } }
    local held = registry.resolve { "topological", { space = "hidden", scale = longest } }
    local value, _, slopes = leaves.compute(loss, seen)
    local same, _, expected = leaves.compute(held, seen)
    assert.near(same, value, 1e-9)
    assert.is_true((slopes[1] - expected[1]):norm():item() < 1e-9 * expected[1]:norm():item())
  end)

  it("of log-probabilities alone says so", function()
    local value, found = value_of({ "topological", { space = "logprobs" } }, STAR)
    assert.is_true(value > 0)
    assert.equal(1, found.logprobs_only)
  end)
end)

describe("The chirality loss", function()
  -- Labels of line l have the probabilities given[l] of supports, refutes, contrasts; ids of documents 0.5 a token.
  local function labels(given)
    local line_of, count = {}, 0
    local column = { s = 1, r = 2, c = 3 }
    local values = candidates_by(function(text, position)
      if not line_of[position] then
        count = count + 1
        line_of[position] = count
      end
      return math.log(given[line_of[position]][column[text]])
    end)
    local row = datum(STAR)
    values.logprobs = { lists.fill(#row.tokens - 1, math.log(0.5)) }
    return values
  end

  it("is 0.6·d²/(1+d²) of the Fisher-Rao distance and 0.2 of what coverage lacks", function()
    local rows = { { 0.5, 0.3, 0.2 }, { 0.2, 0.2, 0.1 }, { 0.1, 0.6, 0.1 } }
    local share = { 0, 0, 0 }
    for _, row in ipairs(rows) do
      for k = 1, 3 do share[k] = share[k] + row[k] / (row[1] + row[2] + row[3]) / 3 end
    end
    local d = chirality.distribution_distance(share, { 2 / 3, 1 / 3, 0 })
    local value, found = value_of("chirality", STAR, labels(rows))
    assert.near(0.6 * d ^ 2 / (1 + d ^ 2) + 0.2 * (1 - 0.5), value, 1e-12)
    assert.near(1 - d / math.pi, found.balance_score.sum, 1e-12)
    assert.near(0.5, found.evidence_coverage.sum, 1e-12)
    assert.near(chirality.score(d, 0.5, true), found.score.sum, 1e-12)
    assert.equal(1, found.polarity_conflict.sum)
  end)

  it("is 0 with a slope of 0 at the target's shares, and smooth beside them", function()
    local row = tokenizer:datum("go: ", "CLAIM[c1]: a\nCLAIM[c2]: b\nRELATION: c2 refutes c1")
    local loss = registry.resolve "chirality"
    local before
    for _, rest in ipairs { 0, 1e-9, 1e-6, 1e-5, 4e-5, 6e-5, 1e-4, 1e-3 } do
      local values = candidates_by(function(text) return text == "r" and math.log(1 - rest) or math.log(rest / 2) end)
      local value, found, slopes = leaves.compute(loss, leaves.see(loss, { row }, values))
      local d = chirality.distribution_distance({ rest / 2, 1 - rest, rest / 2 }, { 0, 1, 0 })
      assert.near(0.6 * d ^ 2 / (1 + d ^ 2), value, 1e-7)
      for _, slope in ipairs(slopes) do
        for _, x in ipairs(slope:totable()) do assert.is_true(finite(x)) end
      end
      assert.is_nil(found.evidence_coverage) -- nothing is cited
      assert.is_true(before == nil or value > before)
      before = value
    end
  end)

  it("asks for balance where labels are mixed: right shares on the wrong lines cost nothing", function()
    local value = value_of("chirality", STAR, labels { { 0, 1, 0 }, { 1, 0, 0 }, { 1, 0, 0 } })
    assert.near(0.1, value, 1e-9)
    assert.near(0.1 + 0.6 * math.pi ^ 2 / (1 + math.pi ^ 2),
      (value_of("chirality", STAR, labels { { 0, 0, 1 }, { 0, 0, 1 }, { 0, 0, 1 } })), 1e-9)
  end)

  it("of log-probabilities alone says so", function()
    local _, found = value_of({ "chirality", { space = "logprobs" } }, STAR)
    assert.equal(1, found.logprobs_only)
  end)
end)

describe("Distances of the chirality score", function()
  it("are Fisher and Rao's", function()
    assert.equal(0, chirality.distribution_distance({ 0.25, 0.75 }, { 0.25, 0.75 }))
    assert.near(math.pi, chirality.distribution_distance({ 1, 0 }, { 0, 1 }), 1e-15)
    assert.near(math.sqrt(4 / (1 + 1e-6) + 1 / (0.25 + 1e-6)),
      chirality.embedding_distance({ 1, 0 }, { 3, 1 }, { 1, 0.25 }), 1e-12)
    assert.near(0.3 + 0.1 + 0.25, chirality.score(1, 0.5, true), 1e-15)
    assert.equal(1, chirality.score(1e9, 0, true))
    assert.near(0.3, chirality.score(1, nil, false), 1e-15)
  end)
end)

describe("The citation loss", function()
  it("is −log of the probability that the pool allows, summed over tokens of the tries", function()
    -- pool 12, 125, 34: at the first digit 1 and 3, after 1 only 2, after 12 the bracket and 5, after 3 only 4
    local answer = "CLAIM[c1] (Document 12): a\nCLAIM[c2] (Document 34): b"
    local p = { ["1"] = 0.3, ["3"] = 0.4, ["2"] = 0.5, ["5"] = 0.1, [")"] = 0.6, ["4"] = 0.7 }
    local values = candidates_by(function(text) return math.log(p[text]) end)
    local value, found = value_of("citation_validity", answer, values)
    local first, second = 0.7 * 0.5 * 0.7, 0.7 * 0.7 * 0.6
    assert.near(-math.log(first) - math.log(second), value, 1e-12)
    assert.equal(6, registry.get("citation_validity").count(datum(answer)))
    assert.near(1 - first + 1 - second, found.invalid_rate.sum, 1e-12)
    -- 12: 0.3·0.5·0.6 beside 125: 0.3·0.5·0.1 and 34: 0.4; then 34: 0.4 beside 12 and 125, which share 0.3
    assert.near(0.09 / (0.09 + 0.015 + 0.4) + 0.4 / 0.7, found.precision.sum, 1e-12)
    assert.same({ sum = 0, count = 2 }, found.one_id_pool)
  end)

  it("is the cross-entropy of the id where the pool holds one", function()
    local answer, metadata = "CLAIM[c1] (Document 12): a", { evidence_pool = { "12" } }
    local values = candidates_by(function() return math.log(0.5) end)
    local value, found = value_of("citation_validity", answer, values, metadata)
    assert.near(3 * math.log(2), value, 1e-12)
    assert.is_nil(found.precision)
    assert.same({ sum = 1, count = 1 }, found.one_id_pool)
  end)

  it("recalls a gold citation whose every token is the likeliest of the vocabulary", function()
    local answer = "CLAIM[c1] (Document 12): a\nCLAIM[c2] (Document 34): b"
    local p = { ["1"] = 0.5, ["3"] = 0.5, ["2"] = 0.6, ["5"] = 0.1, [")"] = 0.9, ["4"] = 0.7 }
    local function recall(most)
      local values = candidates_by(function(text) return math.log(p[text]) end)
      values.likeliest = { lists.fill(#datum(answer).tokens - 1, math.log(most)) }
      local _, found = value_of("citation_validity", answer, values)
      return { found.recall.sum, found.recall.count }
    end
    assert.same({ 2, 2 }, recall(0.5)) -- to the bit: the target's own token has that probability
    assert.same({ 0, 2 }, recall(0.55))
  end)

  it("charges a document that is not in the pool at the token with which it leaves", function()
    local value, found, slopes = value_of("citation_validity", "CLAIM[c1] (Document 19): a",
      candidates_by(function(text) return math.log(text == "9" and 0.8 or 0.1) end))
    assert.near(-math.log(0.2) - math.log(0.1), value, 1e-12) -- 1 or 3, then 2 instead of 9
    assert.is_nil(found.precision)
    assert.near(0.98, found.invalid_rate.sum, 1e-12)
    -- what is allowed is pulled up, the target's own token is not
    local pulled = slopes[2]:totable()
    assert.same({ true, true, true, true }, { pulled[1] < 0, pulled[2] < 0, pulled[3] < 0, pulled[4] == 0 })
  end)

  it("of log-probabilities alone says so", function()
    local value, found = value_of({ "citation_validity", { space = "logprobs" } }, STAR)
    assert.is_true(value > 0)
    assert.equal(1, found.logprobs_only)
    assert.is_nil(found.precision)
  end)
end)

local VARIANTS = {
  "topological", { "topological", { matching = "diagram" } }, { "topological", { space = "hidden" } },
  { "topological", { space = "logprobs" } }, "chirality", { "chirality", { space = "logprobs" } }, "citation_validity",
  { "citation_validity", { space = "logprobs" } },
}

local function title(given)
  if type(given) == "string" then return given end
  local key, value = next(given[2])
  return ("%s, %s = %s"):format(given[1], key, value)
end

describe("Slopes beside finite differences", function()
  for _, given in ipairs(VARIANTS) do
    it(title(given), function()
      local loss = registry.resolve(given)
      if given[2] and given[2].space == "hidden" then
        -- the largest distance is a constant of the slopes: hold it still for the differences too
        loss = registry.resolve { "topological", { space = "hidden", scale = 3 } }
      end
      local seen = leaves.see(loss, { datum(STAR), datum(LOOP) })
      local worst = leaves.difference(loss, seen, 1e-5)
      assert.is_true(worst < 1e-5, tostring(worst))
    end)
  end
end)

describe("Degenerate rows", function()
  local rows = {
    { "no relations", CLAIMS },
    { "one claim", "CLAIM[c1]: a" },
    { "nothing", "" },
    { "a self-loop", CLAIMS .. "RELATION: c2 supports c2" },
    { "self-loops alone among two claims",
      "CLAIM[c1]: a\nCLAIM[c2]: b\nRELATION: c1 refutes c1\nRELATION: c2 supports c2" },
    { "duplicate ids", "CLAIM[c1]: a\nCLAIM[C1]: b\nCLAIM[c2]: c\nRELATION: c2 supports c1\nRELATION: c2 supports c1" },
    { "no citations", "CLAIM[c1]: a\nCLAIM[c2]: b\nRELATION: c2 supports c1" },
    { "an empty pool", STAR, { evidence_pool = {} } },
    { "pool ids that share prefixes", STAR, { evidence_pool = { "1", "12", "123", "1234", "34", "345" } } },
    { "a cited document that the pool lacks", STAR, { evidence_pool = { "7", "9" } } },
    { "relations to claims that are not there", CLAIMS .. "RELATION: c2 supports c9\nRELATION: c8 refutes c1" },
    { "all refutes", CLAIMS .. "RELATION: c2 refutes c1\nRELATION: c3 refutes c1\nRELATION: c4 refutes c1" },
    { "an id cut off", CLAIMS .. "RELATION: c2 refutes c", nil, true },
    { "a label cut off", CLAIMS .. "RELATION: c2 supports c1\nRELATION: c3 ref", nil, true },
    { "a document cut off", "CLAIM[c1]: a\nCLAIM[c2] (Document 1", nil, true },
    { "every claim joined to every other", CLAIMS .. "RELATION: c1 supports c2\nRELATION: c1 refutes c3\n"
      .. "RELATION: c1 supports c4\nRELATION: c2 supports c3\nRELATION: c2 refutes c4\nRELATION: c3 supports c4" },
  }
  local certainties = {
    { "drawn probabilities", nil },
    { "probability 0", function() return -math.huge end },
    { "probability next to 0", function() return -500 end },
    { "probability 1", function() return 0 end },
    { "ties", function() return math.log(0.25) end },
  }

  local function values_of(certainty, row)
    if not certainty then return nil end
    return { candidate = certainty, logprobs = { lists.fill(#row.tokens - 1, certainty()) } }
  end

  for _, case in ipairs(rows) do
    it("of " .. case[1] .. " count 0 or give finite values and slopes", function()
      for _, given in ipairs(VARIANTS) do
        local loss, row = registry.resolve(given), datum(case[2], case[3], case[4])
        local count = loss.count(row)
        assert.is_true(count == 0 or count > 0 and math.type(count) == "integer")
        for _, certainty in ipairs(count > 0 and certainties or {}) do
          local what = title(given) .. ", " .. certainty[1]
          local seen = leaves.see(loss, { row }, values_of(certainty[2], row))
          local found = loss.compute(seen.predictions, seen.targets)
          assert.is_true(finite(found.loss:item()), what)
          if found.loss.requires_grad then found.loss:backward() end
          for _, one in ipairs(seen.leaves) do
            for _, x in ipairs(one.grad and one.grad:flatten():totable() or {}) do assert.is_true(finite(x), what) end
          end
        end
      end
    end)
  end

  it("count what the design says", function()
    local function count(name, answer, metadata) return registry.get(name).count(datum(answer, metadata)) end
    local rows_of = { "CLAIM[c1]: a", CLAIMS, STAR }
    local expected = { topological = { 0, 1, 1 }, chirality = { 0, 0, 1 }, citation_validity = { 0, 9, 9 } }
    for name, counts in pairs(expected) do
      for i, answer in ipairs(rows_of) do assert.equal(counts[i], count(name, answer), name) end
    end
    assert.equal(0, count("citation_validity", STAR, { pool = {} }))
    local hidden = registry.resolve({ "topological", { space = "hidden" } }).count
    assert.same({ 0, 1 }, { hidden(datum "CLAIM[c1]: a\nCLAIM[c2]: b"), hidden(datum(STAR)) })
  end)
end)
