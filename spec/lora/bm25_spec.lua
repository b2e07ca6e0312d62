-- Okapi BM25, beside the formula written out.
local bm25 = require "crucible.bm25"

describe("BM25", function()
  local texts = { "the cat sat", "the dog sat down", "a bird" }

  it("scores as its formula says", function()
    local scores = bm25.index(texts):scores "cat sat"
    local function part(found, count, length)
      local idf = math.log(1 + (3 - found + 0.5) / (found + 0.5))
      return idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / 3))
    end
    assert.near(part(1, 1, 3) + part(2, 1, 3), scores[1], 1e-12)
    assert.near(part(2, 1, 4), scores[2], 1e-12)
    assert.is_nil(scores[3])
  end)

  it("ranks the best first, ties in order, and counts a word of the query once", function()
    local index = bm25.index { "x y", "x y", "x x x", "z" }
    assert.same({ 3, 1, 2 }, index:best("X x", 5))
    assert.same({ 3, 1 }, index:best("x", 2))
    assert.same({ 2, 3 }, index:best("y x", 2, function(number) return number ~= 1 end))
    assert.same({}, index:best("nowhere", 2))
  end)

  it("stands an empty list", function() assert.same({}, bm25.index({}):best("a", 1)) end)
end)
