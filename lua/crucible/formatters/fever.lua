-- A claim to its label, without evidence.
local fields = require "crucible.formatters.fields"

--- { id, claim, label } to "Claim: …\n\nVerify:" and the label.
---@param example table
---@return { input: string, output: string, metadata: table }
return function(example)
  return {
    input = ("Claim: %s\n\nVerify:"):format(fields.string(example, "claim")),
    output = fields.string(example, "label"),
    metadata = { id = example.id },
  }
end
