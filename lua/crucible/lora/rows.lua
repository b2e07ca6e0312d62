-- Raw rows to rows for training: what a formatter gave, checked and completed.
--
-- A formatter is a function from a raw row (and its number) to { input, output }, to { messages }, or to a
-- list of such; each may carry metadata and a weight. A row of messages also gets `input` and `output`
-- for readers: its prompt as text and the last answer.
local chat = require "crucible.chat"
local errors = require "crucible.errors"

local rows = {}

---@class crucible.lora.RowDefaults
---@field template string?  of rows of messages: of crucible.chat.templates()
---@field train_on string?  of crucible.chat.train_on

local function wrong_extras(row)
  if row.metadata ~= nil and type(row.metadata) ~= "table" then return '"metadata" is not a table' end
  if row.weight ~= nil and (type(row.weight) ~= "number" or row.weight - row.weight ~= 0) then
    return '"weight" is not a finite number'
  end
end

local function wrong_shape(row)
  if type(row) ~= "table" then
    return ("gave a %s, expected { input, output, metadata }, { messages } or a list of them"):format(type(row))
  end
  if row.messages ~= nil then return chat.fault(row.messages) or wrong_extras(row) end
  if type(row.input) ~= "string" then return '"input" is not a string' end
  if type(row.output) ~= "string" then return '"output" is not a string' end
  return wrong_extras(row)
end

-- For readers a conversation is ChatML unless a wording is named: the model and its template are not known here.
local function complete_messages(row, defaults)
  local template = row.template or defaults.template
  local renderer = chat.renderer(template ~= "model" and template or "chatml")
  local last = row.messages[#row.messages]
  return {
    messages = row.messages, template = template, train_on = row.train_on or defaults.train_on,
    input = chat.text(chat.prompt(renderer, row.messages)), output = last.role == "assistant" and last.content or "",
    metadata = row.metadata or {}, weight = row.weight,
  }
end

local function complete(row, defaults)
  if row.messages then return complete_messages(row, defaults) end
  return { input = row.input, output = row.output, metadata = row.metadata or {}, weight = row.weight }
end

-- A formatter's answer as a list.
local function listed(answer)
  if type(answer) == "table" and answer[1] ~= nil then return answer end
  return { answer }
end

-- What a formatter raised: a fault in its code with the way there, what it says of a row as it says it.
local function described(raised)
  local text = tostring(raised)
  return text:find "^[^\n]-:%d+: " and errors.traceback(text, 2) or text
end

--- The rows of a raw one; nil and why when it is no object, the formatter raised or gave another shape.
---@param example any
---@param formatter fun(example: table, number: integer): table
---@param number integer
---@param defaults crucible.lora.RowDefaults
---@return table[]? rows, string? why
function rows.convert(example, formatter, number, defaults)
  if type(example) ~= "table" then return nil, ("is a %s, expected an object"):format(type(example)) end
  local ok, answer = xpcall(formatter, described, example, number)
  if not ok then return nil, answer end
  if type(answer) == "table" and answer[1] == nil and answer.messages == nil then -- one row of input and output
    local wrong = wrong_shape(answer)
    if wrong then return nil, wrong end
    return { complete(answer, defaults) }
  end
  local list, made = listed(answer), {}
  for i = 1, math.max(1, #list) do
    local wrong = wrong_shape(list[i])
    if wrong then return nil, #list > 1 and ("part %d: %s"):format(i, wrong) or wrong end
    ok, made[i] = pcall(complete, list[i], defaults)
    if not ok then return nil, tostring(made[i]) end
  end
  return made
end

return rows
