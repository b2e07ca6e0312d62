-- The text of claims and relations: what is read, where it stands, what is an error.
local parser = require "crucible.domain.parser"

local function at(parsed, span) return parsed.text:sub(span[1], span[2]) end

local WHOLE = [[
CLAIM[c1]: the hypothesis
CLAIM[c2] (Document 13734012): an atomic claim
RELATION: c2 refutes c1
]]

describe("domain.parser", function()
  it("reads claims, documents and relations", function()
    local parsed = parser.parse(WHOLE)
    assert.same({ "c1", "c2" }, { parsed.claims[1].id, parsed.claims[2].id })
    assert.equal("the hypothesis", parsed.claims[1].text)
    assert.is_nil(parsed.claims[1].document)
    assert.equal("13734012", parsed.claims[2].document)
    local relation = parsed.relations[1]
    assert.same({ "c2", "refutes", "c1", 3 }, { relation.source, relation.label, relation.target, relation.line })
    assert.same({}, parsed.errors)
    assert.equal(3, #parsed.lines)
  end)

  it("gives the bytes of every part", function()
    local parsed = parser.parse("\n  claim [ C2 ]  ( document 77 ) :  text of  it \r\n"
      .. "\trelation c2   Contrasts C10.\r\n")
    local claim, relation = parsed.claims[1], parsed.relations[1]
    assert.same({ "C2", "77", "text of  it" },
      { at(parsed, claim.id_span), at(parsed, claim.document_span), at(parsed, claim.text_span) })
    assert.same({ "c2", "Contrasts", "C10" },
      { at(parsed, relation.source_span), at(parsed, relation.label_span), at(parsed, relation.target_span) })
    assert.same({ "c2", "contrasts", "c10" }, { relation.source, relation.label, relation.target })
    assert.equal("relation c2   Contrasts C10.", at(parsed, relation.span))
    assert.same({ 2, 3 }, { claim.line, relation.line })
  end)

  for _, separator in ipairs { " ", ":", ": ", " - ", "-", " : " } do
    it(("takes %q after RELATION"):format(separator), function()
      local parsed = parser.parse("RELATION" .. separator .. "c3 supports c1")
      assert.equal(1, #parsed.relations)
      assert.same({}, parsed.errors)
    end)
  end

  it("keeps duplicates, self-loops and relations to claims that are not there", function()
    local parsed = parser.parse "CLAIM[c1]: a\nCLAIM[C1]: b\nRELATION: c1 supports c1\nRELATION: c9 refutes c1"
    assert.equal(2, #parsed.claims)
    assert.equal(2, #parsed.relations)
  end)

  it("finds citations in every form, with their claim", function()
    local parsed = parser.parse "CLAIM[c1] (Document 12): see [123:4], [DocID: ab7]\nand [ref: x-1] or document 9."
    local found = {}
    for i, citation in ipairs(parsed.citations) do
      assert.equal(citation.id, at(parsed, citation.id_span))
      found[i] = { citation.form, citation.id, citation.sentence or false, citation.claim or false, citation.line }
    end
    assert.same({
      { "document", "12", false, 1, 1 }, { "sentence", "123", 4, 1, 1 }, { "docid", "ab7", false, 1, 1 },
      { "ref", "x-1", false, false, 2 }, { "document", "9", false, false, 2 },
    }, found)
  end)

  it("leaves prose alone", function()
    local parsed = parser.parse("Claim: this is one.\nRelation between the two is unclear\n"
      .. "Relations: none\nclaims[c1]: x")
    assert.same({}, parsed.claims)
    assert.same({}, parsed.errors)
    for _, line in ipairs(parsed.lines) do assert.equal("text", line.kind) end
    assert.equal(4, #parsed.lines)
  end)

  it("calls a line in the middle malformed and the last one truncated", function()
    local parsed = parser.parse "CLAIM[c1] no colon\nRELATION: c2 entails c1\nRELATION c2\nCLAIM[c4] (Docum"
    local kinds = {}
    for i, fault in ipairs(parsed.errors) do kinds[i] = { fault.kind, fault.line } end
    assert.same({ { "malformed", 1 }, { "malformed", 2 }, { "malformed", 3 }, { "truncated", 4 } }, kinds)
    assert.truthy(parsed.errors[1].message:find("no colon after CLAIM[c1]", 1, true))
  end)

  it("survives every truncation and never loses a line", function()
    for last = 0, #WHOLE do
      local parsed = parser.parse(WHOLE:sub(1, last))
      local written = select(2, WHOLE:sub(1, last):gsub("[^\n]+", ""))
      assert.equal(written, #parsed.lines)
      assert.equal(written, #parsed.claims + #parsed.relations + #parsed.errors
        + (parsed.lines[written] and parsed.lines[written].kind == "text" and 1 or 0))
    end
  end)

  it("takes any bytes", function()
    for byte = 0, 255 do
      local parsed = parser.parse("CLAIM[" .. string.char(byte) .. "]: x\n" .. string.char(byte):rep(3))
      assert.is_table(parsed.lines)
    end
    assert.same({}, parser.parse("").lines)
  end)

  it("lists the documents of a prompt once each", function()
    assert.same({ "12", "7" },
      parser.documents "Passage:\nDocument 12: a\n\nDocument 7: b\nDocument 12: c\n(Document <id>): x")
  end)
end)
