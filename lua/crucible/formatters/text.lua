-- Running text: every token is trained.
local fields = require "crucible.formatters.fields"

--- { text } to an empty prompt and the text.
---@param example table
---@return { input: string, output: string, metadata: table }
return function(example) return { input = "", output = fields.string(example, "text"), metadata = {} } end
