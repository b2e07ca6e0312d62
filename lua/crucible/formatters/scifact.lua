-- A claim and its evidence to a verdict.
local fields = require "crucible.formatters.fields"

--- { id, claim, evidence = { sentence, … }, evidence_ids, label } to
--- "Claim: …\nEvidence: …\n\nVerdict:" and the label.
---@param example table
---@return { input: string, output: string, metadata: table }
return function(example)
  local claim = fields.string(example, "claim")
  local evidence = table.concat(fields.strings(example, "evidence"), " ")
  return {
    input = ("Claim: %s\nEvidence: %s\n\nVerdict:"):format(claim, evidence),
    output = fields.string(example, "label"),
    metadata = { claim_id = example.id, evidence_ids = example.evidence_ids },
  }
end
