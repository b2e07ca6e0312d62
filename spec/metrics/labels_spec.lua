-- Labels read out of what a model writes.
local expect = require "spec.support.expect"
local labels = require "crucible.metrics.labels"

describe("a label", function()
  local read = labels.reader({ "SUPPORT", "CONTRADICT" }, { Supports = "SUPPORT", refuted = "CONTRADICT" })

  for _, case in ipairs {
    { "SUPPORT", "SUPPORT" }, { "support", "SUPPORT" }, { " Support. ", "SUPPORT" }, { '"contradict"', "CONTRADICT" },
    { "SUPPORTS", "SUPPORT" }, { "**Refuted**", "CONTRADICT" }, { "SUPPORT CONTRADICT" }, { "I support it" }, { "" },
    { "..." }, { "unsupport" },
  } do
    it(("is %s in %q"):format(tostring(case[2]), case[1]), function() assert.equal(case[2], read(case[1])) end)
  end

  it("may be a sign, a letter of any script, or differ from another in case alone", function()
    local odd = labels.reader { "+", "-", "ÉTÉ", "yes", "Yes" }
    assert.equal("+", odd "+")
    assert.equal("-", odd "-")
    assert.equal("ÉTÉ", odd "été\u{A0}")
    assert.equal("Yes", odd "Yes")
    assert.equal("yes", odd "yes")
    assert.is_nil(odd "YES")
    assert.is_nil(odd "*")
  end)

  it("must exist for an alias", function()
    expect.raises('"no" stands for "NO", which is no label', labels.reader, { "YES" }, { no = "NO" })
  end)
end)
