-- Conversations: { messages = { { role, content } … } }, or ShareGPT's { conversations = { { from, value } … } }.
local fields = require "crucible.formatters.fields"

local roles = {
  human = "user", user = "user", gpt = "assistant", assistant = "assistant", model = "assistant", system = "system",
  tool = "tool", observation = "tool",
}

local function from_sharegpt(list)
  local messages = {}
  for i, turn in ipairs(list) do
    local from = fields.string(turn, "from")
    if not roles[from] then
      error(('"from" of turn %d is "%s", expected human, gpt, system or tool'):format(i, from), 0)
    end
    messages[i] = { role = roles[from], content = fields.string(turn, "value") }
  end
  return messages
end

--- A row to { messages, metadata }.
---@param example table
---@return { messages: crucible.chat.Message[], metadata: table }
return function(example)
  if example.messages == nil and type(example.conversations) == "table" then
    return { messages = from_sharegpt(example.conversations), metadata = {} }
  end
  return { messages = fields.table(example, "messages"), metadata = {} }
end
