-- The candidate rule: where candidates branch off, what their masses are made of, tries of ids.
local byte_tokenizer = require "spec.support.byte_tokenizer"
local example = require "crucible.domain.example"
local expect = require "spec.support.expect"
local slots = require "crucible.domain.slots"
local tensor = require "crucible.tensor"

local tokenizer = byte_tokenizer.new()

local CLAIMS = "CLAIM[c1]: a\nCLAIM[c10]: b\nCLAIM[c2]: c\n"

-- What is asked for as text: { "12: 1 2" … }, targets' positions and the tokens.
local function asked(slot)
  local list = {}
  for p, ids in ipairs(slot.ids) do
    local texts = {}
    for k, id in ipairs(ids) do texts[k] = (tokenizer:decode { id }:gsub("\n", "\\n")) end
    list[p] = table.concat(texts, " ")
  end
  return list
end

-- Log masses under given probabilities of tokens by position.
local function masses(slot, probabilities)
  local values = {}
  for p, ids in ipairs(slot.ids) do
    for _, id in ipairs(ids) do values[#values + 1] = math.log(probabilities[p][tokenizer:decode { id }]) end
  end
  return slots.log_masses(tensor.new(values), slots.mass_index { slot }):exp():totable()
end

describe("Destinations", function()
  local function slot_of(line)
    local datum = tokenizer:datum("p:", CLAIMS .. line)
    return example.of(datum).destinations[1].slot, datum
  end

  it("begin where candidates differ, and the own mass ends after the last branch", function()
    local slot, datum = slot_of "RELATION: c2 refutes c1\n"
    assert.same({ "1 2", "\\n 0" }, asked(slot)) -- c1, then what tells it from c10
    assert.equal("1", tokenizer:decode { datum.tokens[slot.positions[1] + 1] })
    local found = masses(slot, { { ["1"] = 0.7, ["2"] = 0.2 }, { ["\n"] = 0.6, ["0"] = 0.3 } })
    assert.near(0.7 * 0.6, found[1], 1e-12)
    assert.near(0.7 * 0.3, found[2], 1e-12)
    assert.near(0.2, found[3], 1e-12)
  end)

  it("take the end token as the terminator of the last line", function()
    local slot = slot_of "RELATION: c2 refutes c10"
    assert.same({ "1 2", "0 <end>" }, asked(slot))
  end)

  it("ask for nothing beyond the only branch", function()
    local slot = slot_of "RELATION: c10 supports c2\n"
    assert.same({ "2 1" }, asked(slot))
    -- c1 and c10 branch off with one token: they share its mass
    local found = masses(slot, { { ["2"] = 0.5, ["1"] = 0.4 } })
    assert.near(0.2, found[1], 1e-12)
    assert.near(0.2, found[2], 1e-12)
    assert.near(0.5, found[3], 1e-12)
    assert.equal(2, slot.ambiguous)
  end)

  it("share the target's mass where the answer ends before they can branch", function()
    local datum = tokenizer:datum("p:", CLAIMS .. "RELATION: c2 refutes c1", { open = true })
    local slot = example.of(datum).destinations[1].slot
    assert.same({ "1 2" }, asked(slot))
    local found = masses(slot, { { ["1"] = 0.7, ["2"] = 0.2 } })
    assert.near(0.35, found[1], 1e-12)
    assert.near(0.35, found[2], 1e-12)
    assert.equal(2, slot.ambiguous)
  end)

  it("sum to at most 1 whatever the distribution", function()
    for _, line in ipairs { "RELATION: c2 refutes c1\n", "RELATION: c2 refutes c10\n", "RELATION: c1 refutes c2\n" } do
      local slot = slot_of(line)
      local even = {}
      for p, ids in ipairs(slot.ids) do
        even[p] = {}
        for _, id in ipairs(ids) do even[p][tokenizer:decode { id }] = 1 / #ids end
      end
      local sum = 0
      for _, mass in ipairs(masses(slot, even)) do sum = sum + mass end
      assert.near(1, sum, 1e-12)
    end
  end)

  it("leave out lines whose ends are no claims", function()
    local own = example.of(tokenizer:datum("p:", CLAIMS .. "RELATION: c2 refutes c7\nRELATION: c8 supports c1\n"))
    assert.equal(0, #own.destinations)
    assert.equal(2, #own.labels)
  end)

  it("keep masses finite where probabilities are 0", function()
    local slot = slot_of "RELATION: c2 refutes c1\n"
    local values = tensor.new({ -math.huge, 0, -math.huge, -800 }, { requires_grad = true })
    local found = slots.log_masses(values, slots.mass_index { slot }):exp()
    assert.same({ 0, 0, 1 }, found:totable())
    found:sum():backward()
    assert.same({ 0, 1, 0, 0 }, values.grad:totable())
  end)
end)

describe("Labels", function()
  it("differ at their first token and keep the case of the target's", function()
    local own = example.of(tokenizer:datum("p:", CLAIMS .. "RELATION: c2 Refutes c1\n"))
    assert.same({ "R S C" }, asked(own.labels[1].slot))
    own = example.of(tokenizer:datum("p:", CLAIMS .. "RELATION: c2 SUPPORTS c1\n"))
    assert.same({ "S R C" }, asked(own.labels[1].slot))
  end)
end)

describe("Tries of documents", function()
  local function lines(pool, answer, longer, open)
    local with = byte_tokenizer.new(longer)
    return example.of(with:datum("p:", answer, { metadata = { evidence_pool = pool }, open = open })).citations, with
  end

  local function children(trie, with)
    local list = {}
    for p, ids in ipairs(trie.ids) do
      local texts = {}
      for k = 1, trie.allowed[p] do texts[k] = with:decode { ids[k] } end
      list[p] = table.concat(texts, " ")
    end
    return list
  end

  it("allow the children of the target's prefix, and the terminator", function()
    local found, with = lines({ "12", "123", 45 }, "CLAIM[c1] (Document 12): a")
    assert.same({ "1 4", "2", ") 3" }, children(found[1].trie, with))
    assert.is_true(found[1].gold)
    found, with = lines({ "12", "123", 45 }, "CLAIM[c1] (Document 123): a")
    assert.same({ "1 4", "2", "3 )", ")" }, children(found[1].trie, with))
  end)

  it("know ids that are written with other tokens", function()
    local found, with = lines({ "12", "123" }, "CLAIM[c1] (Document 12): a", { "123", "12" })
    assert.same({ "12 123", ")" }, children(found[1].trie, with))
  end)

  it("end at the token with which a citation leaves the pool", function()
    local found, with = lines({ "12", "345" }, "CLAIM[c1] (Document 129): a")
    assert.is_false(found[1].gold)
    assert.same({ "1 3", "2", ")" }, children(found[1].trie, with))
    assert.same({ 1, 1, 2 }, found[1].trie.own)
    assert.equal("9", with:decode { found[1].trie.ids[3][2] })
  end)

  it("end with an answer that is cut off", function()
    local found, with = lines({ "12", "123" }, "see [ref: x] and Document 12", nil, true)
    assert.equal(2, #found)
    assert.same({ "1", "2" }, children(found[2].trie, with))
  end)

  it("are none without a pool", function() assert.equal(0, #lines({}, "CLAIM[c1] (Document 12): a")) end)
end)

describe("An answer", function()
  it("needs a tokenizer", function()
    expect.raises("give each a tokenizer, as lora.datums.row does", slots.answer, { tokens = { 1, 2 } })
  end)

  it("begins where the weights do when nobody says", function()
    local datum = tokenizer:datum("prompt ", "CLAIM[c1]: a")
    datum.prompt_length = nil
    assert.equal("CLAIM[c1]: a", slots.answer(datum).text)
  end)

  it("may be encoded in a way that its text is not: its lines have no slots then", function()
    local with = byte_tokenizer.new { "c1" }
    local datum = with:datum("p:", CLAIMS .. "RELATION: c2 refutes c1\n")
    local plain = byte_tokenizer.new()
    local bytes = plain:datum("p:", CLAIMS .. "RELATION: c2 refutes c1\n")
    datum.tokens, datum.weights = bytes.tokens, bytes.weights
    local own = example.of(datum)
    assert.same({ 0, 1 }, { #own.destinations, own.destinations.unplaced })
  end)

  it("takes the pool from the prompt where it is not given", function()
    local datum = tokenizer:datum("Document 12: a\nDocument 7: b\nGo:", "CLAIM[c1]: a", {
      metadata = { evidence_ids = { 12 } },
    })
    assert.same({ "12", "7" }, example.of(datum).pool)
    datum = tokenizer:datum("Go:", "CLAIM[c1]: a", { metadata = { evidence_ids = { 12, 12.0 } } })
    assert.same({ "12" }, example.of(datum).pool)
  end)

  it("may be given its structure", function()
    local datum = tokenizer:datum("Go:", "CLAIM[c1]: a (Document 5)\nRELATION: c2 supports c1", { metadata = {
      graph_structure = { claims = { "c1", "c2", "c3" }, relations = { { source = "c3", target = "c1" } } },
      dialectical_structure = { supports = 3, refutes = 1 }, citations = { 9 },
    } })
    local own = example.of(datum)
    assert.same({ "c1", "c2", "c3" }, own.graph.claims)
    assert.equal(1, #own.destinations)
    assert.same({ 0.75, 0.25, 0 }, own.label_shares)
    assert.equal(0, #own.cited)
    datum.metadata.dialectical_structure = { "supports", "agrees" }
    rawset(own, "label_shares", nil)
    expect.raises('dialectical_structure: there is no label "agrees"', function() return own.label_shares end)
  end)
end)
