-- A word problem to its worked solution.
local fields = require "crucible.formatters.fields"

--- { question, answer } to "Problem: …\n\nSolution:" and the answer.
---@param example table
---@return { input: string, output: string, metadata: table }
return function(example)
  return {
    input = ("Problem: %s\n\nSolution:"):format(fields.string(example, "question")),
    output = fields.string(example, "answer"),
    metadata = {},
  }
end
