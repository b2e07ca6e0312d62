-- Rows to datums: `{ tokens, weights, metadata, row, prompt_length }`. weights has one value a
-- target, and tokens[i + 1] is the target at i: 0 on the prompt, the row's weight on the answer
-- and on the end token that follows it.
--
-- A row over the limit loses tokens of its prompt from the left (a BOS stays), or is dropped;
-- the answer is never cut. Both are counted.
local errors = require "crucible.errors"
local schema = require "crucible.schema"

local datums = {}

local options = schema.new("lora.datums.build", {
  { name = "max_length", check = schema.integer { min = 2 }, doc = "longest row in tokens; default: no limit" },
  { name = "truncation", default = "left", check = schema.one_of { "left", "drop" }, doc = "of rows over the limit" },
})

-- The prompt's last tokens, so that all fits; its BOS stays.
local function cut_left(tokenizer, prompt, room)
  local kept = {}
  if tokenizer.add_bos and prompt[1] == tokenizer.bos and room >= 1 then kept[1] = prompt[1] end
  local first = #prompt - (room - #kept) + 1
  return table.move(prompt, math.max(first, 1), #prompt, #kept + 1, kept)
end
datums.cut_left = cut_left

local function join(prompt, answer, weight)
  local tokens = table.move(prompt, 1, #prompt, 1, {})
  table.move(answer, 1, #answer, #tokens + 1, tokens)
  local weights = {}
  for i = 1, #tokens - 1 do weights[i] = i >= #prompt and weight or 0 end
  return tokens, weights
end

--- The datum of one row, or nil and why not: "drop" (over the limit) or "answer" (the answer
--- alone is over the limit). The third value tells that the prompt was cut.
---@param tokenizer crucible.Tokenizer
---@param row { input: string, output: string, weight: number?, metadata: table? }
---@param limits { max_length: integer?, truncation: string }
---@return table? datum, string? reason, boolean? truncated
function datums.row(tokenizer, row, limits)
  local prompt = tokenizer:prompt(row.input)
  local answer = tokenizer:answer(row.input, row.output)
  if row.output ~= "" and tokenizer.eos then answer[#answer + 1] = tokenizer.eos end
  local over = limits.max_length and #prompt + #answer > limits.max_length
  if over then
    if limits.truncation == "drop" then return nil, "drop" end
    local room = limits.max_length - #answer
    if room < 1 then return nil, "answer" end
    prompt = cut_left(tokenizer, prompt, room)
  end
  local tokens, weights = join(prompt, answer, row.weight or 1)
  return { tokens = tokens, weights = weights, metadata = row.metadata, prompt_length = #prompt }, nil, over
end

---@class crucible.lora.datums.Counts
---@field rows integer       given
---@field truncated integer  whose prompt was cut
---@field dropped integer    left out as too long

--- Datums of all rows; datum.row is the row's number. Fails with "data" when an answer alone
--- is longer than max_length, naming the row.
---@param tokenizer crucible.Tokenizer
---@param rows table[]  { input, output, weight?, metadata? }
---@param given { max_length: integer?, truncation: string? }?
---@return table[]? datums, crucible.lora.datums.Counts|string counts_or_message, string? code
function datums.build(tokenizer, rows, given)
  local limits = options:resolve(given)
  local built, counts = {}, { rows = #rows, truncated = 0, dropped = 0 }
  for i, row in ipairs(rows) do
    local datum, reason, truncated = datums.row(tokenizer, row, limits)
    if datum then
      datum.row = i
      built[#built + 1] = datum
      counts.truncated = counts.truncated + (truncated and 1 or 0)
    elseif reason == "drop" then
      counts.dropped = counts.dropped + 1
    else
      return errors.failure("data", "row %d: its answer alone is longer than max_length %d: raise max_length, or "
        .. 'set truncation = "drop"', i, limits.max_length)
    end
  end
  return built, counts
end

return datums
