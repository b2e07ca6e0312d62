-- A prompt with a better and a worse answer to it: two rows of one group, which no batch separates.
local fields = require "crucible.formatters.fields"

local function row(example, choice, group)
  local metadata, prompt, answer = { group = group, choice = choice }, example.prompt, example[choice]
  if type(answer) ~= "table" then
    return { input = fields.string(example, "prompt"), output = fields.string(example, choice), metadata = metadata }
  end
  local messages = type(prompt) == "table" and table.move(prompt, 1, #prompt, 1, {})
    or { { role = "user", content = fields.string(example, "prompt") } }
  return { messages = table.move(answer, 1, #answer, #messages + 1, messages), metadata = metadata }
end

--- { prompt, chosen, rejected }, each a text or a list of messages, to two rows. metadata.group is the
--- row's number, metadata.choice "chosen" or "rejected".
---@param example table
---@param number integer  of the row in its file
---@return table[] rows
return function(example, number) return { row(example, "chosen", number), row(example, "rejected", number) } end
