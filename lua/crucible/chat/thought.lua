-- Answers that hold what a model thought before it spoke: <think>…</think>, as Qwen3 writes it.
local thought = {}

local OPEN, CLOSE = "<think>", "</think>"

--- The pieces of a block that holds nothing: what stands before an answer without thought.
---@return (string|table)[]
function thought.empty() return { { OPEN }, "\n\n", { CLOSE }, "\n\n" } end

--- Whether an answer brings its thought along.
---@param content string
---@return boolean
function thought.present(content) return content:find(CLOSE, 1, true) ~= nil end

-- What stands behind the last end of a thought.
local function answer(content)
  local last = 0
  while true do
    local stop = select(2, content:find(CLOSE, last + 1, true))
    if not stop then break end
    last = stop
  end
  return last == 0 and content or (content:sub(last + 1):gsub("^\n+", ""))
end

--- Messages as Qwen3 sees them: answers before the last question lose their thought; `bare` marks later ones that
--- have none.
---@param messages crucible.chat.Message[]
---@return crucible.chat.Message[]
function thought.prepare(messages)
  local question, seen = 0, {}
  for i, message in ipairs(messages) do
    if message.role == "user" then question = i end
  end
  for i, message in ipairs(messages) do
    if message.role ~= "assistant" then
      seen[i] = message
    elseif i < question then
      seen[i] = { role = "assistant", content = answer(message.content), train = message.train }
    else
      seen[i] = { role = "assistant", content = message.content, train = message.train,
        bare = not thought.present(message.content) }
    end
  end
  return seen
end

--- A content cut at the tokens around thoughts: strings and { token }.
---@param content string
---@return (string|table)[]
function thought.cut(content)
  local parts, at = {}, 1
  while true do
    local from, last = content:find("</?think>", at)
    if not from then break end
    if from > at then parts[#parts + 1] = content:sub(at, from - 1) end
    parts[#parts + 1] = { content:sub(from, last) }
    at = last + 1
  end
  if at <= #content or #parts == 0 then parts[#parts + 1] = content:sub(at) end
  return parts
end

return thought
