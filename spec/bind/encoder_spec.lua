-- crucible.encoder: likeness of texts and entailment, over the encoders of crucible.core.
local core = require "crucible.core"
local crucible = require "crucible"
local expect = require "spec.support.expect"

local FOLDER = "spec/fixtures/encoder"

describe("crucible.encoder", function()
  local encoder

  before_each(function() encoder = assert(crucible.encoder(FOLDER .. "/bert")) end)
  after_each(function() encoder:close() end)

  it("finds a text most like itself, in either order", function()
    local a, b = "the drug lowers blood pressure", "cells died"
    assert.near(1, encoder:similarity(a, a), 1e-6)
    assert.near(encoder:similarity(a, b), encoder:similarity(b, a), 1e-9)
    assert.is_true(encoder:similarity(a, b) < 0.999)
  end)

  it("compares lists pair by pair", function()
    local all = encoder:similarity({ "cells", "drug", "cells" }, { "cells", "cells", "drug" })
    assert.near(1, all[1], 1e-6)
    assert.near(all[2], all[3], 1e-9)
    assert.near(encoder:similarity("cells", "drug"), all[2], 1e-9)
    expect.raises("two lists of strings of the same length", encoder.similarity, encoder, { "a" }, { "b", "c" })
    expect.raises("two lists of strings of the same length", encoder.similarity, encoder, "a", { "b" })
  end)

  it("gives labels with shares that sum to 1, and the share of entailment", function()
    local texts = { { "cells died", "the cells live" }, { "drug", "adults" } }
    local all, shares = assert(encoder:classify(texts)), assert(encoder:entailment(texts))
    for i, found in ipairs(all) do
      local total, largest = 0, 0
      for _, share in pairs(found.probabilities) do total, largest = total + share, math.max(largest, share) end
      assert.near(1, total, 1e-9)
      assert.equal(largest, found.probabilities[found.label])
      assert.equal(found.probabilities.entailment, shares[i])
      assert.near(found.logits[2] - found.logits[1],
        math.log(found.probabilities.entailment / found.probabilities.contradiction), 1e-6)
    end
  end)

  it("says what cannot be: an unknown name, a folder that is none, an option, use after close", function()
    expect.fails("not_found", 'unknown encoder "all-minilm-l6-v3"; did you mean "all-minilm-l6-v2"',
      crucible.encoder "all-minilm-l6-v3")
    expect.fails("not_found", "no/such: no folder with a config.json", crucible.encoder "no/such")
    expect.raises("thread", crucible.encoder, FOLDER .. "/bert", { thread = 1 })
    encoder:close()
    expect.raises("closed", encoder.embed, encoder, "a")
    assert.matches("bert, 2 layers, width 24, closed", tostring(encoder))
  end)
end)

describe("core.open_encoder", function()
  it("refuses options and texts that are none", function()
    local encoder <close> = assert(core.open_encoder(FOLDER .. "/bert"))
    expect.raises("unknown field 'thread'", core.open_encoder, FOLDER .. "/bert", { thread = 1 })
    expect.raises("texts[2]: expected a string, got number", encoder.embed, encoder, { "a", 1 })
    expect.raises("texts[1]: expected two strings", encoder.classify, encoder, { { "a" } })
    expect.raises("texts[1][2]: expected a string, got boolean", encoder.classify, encoder, { { "a", true } })
    assert.equal(24, encoder:info().width)
    encoder:close()
    expect.raises("encoder is closed", encoder.embed, encoder, { "a" })
  end)
end)
