-- Rows to datums: `{ tokens, weights, metadata, row, prompt_length, seam }`. weights has one value a
-- target, and tokens[i + 1] is the target at i: 0 on the prompt, the row's weight on the answer
-- and on the end token that follows it. seam is the number of bytes (0 or 1) that stand between prompt
-- and output; datums.positions finds the tokens of a stretch of the output.
--
-- A row over the limit loses tokens of its prompt from the left (a BOS stays), or is dropped;
-- the answer is never cut. Both are counted.
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local tokenizer_module = require "crucible.tokenizer"

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
  return {
    tokens = tokens, weights = weights, metadata = row.metadata, prompt_length = #prompt,
    seam = #tokenizer_module.seam(row.input, row.output),
  }, nil, over
end

-- The first place in an ascending list whose value is at least `least`.
local function first_at_least(ends, least)
  local low, high = 1, #ends
  while low < high do
    local middle = (low + high) // 2
    if ends[middle] >= least then high = middle else low = middle + 1 end
  end
  return low
end

--- The tokens that spell stretches of an output: for spans { first, last } of its bytes (from 1, both
--- included, as string.find gives them) the positions { first, last } in datum.tokens. A token that
--- reaches into a span belongs to it. tokens[p] is the target at p - 1, so the target positions of
--- a span are first - 1 to last - 1.
---@param tokenizer crucible.Tokenizer
---@param datum { tokens: integer[], prompt_length: integer, seam: integer }
---@param spans integer[][]
---@return integer[][] positions  one a span
function datums.positions(tokenizer, datum, spans)
  local answer = table.move(datum.tokens, datum.prompt_length + 1, #datum.tokens, 1, {})
  local ends, positions = assert(tokenizer:ends(answer)), {}
  local length = (ends[#ends] or 0) - datum.seam
  for i, span in ipairs(spans) do
    local first, last = span[1], span[2]
    if not (first and last and 1 <= first and first <= last and last <= length) then
      errors.raise("datums.positions: span %d is %s to %s, expected bytes of an output of %d at most", i,
        tostring(first), tostring(last), length)
    end
    positions[i] = {
      datum.prompt_length + first_at_least(ends, first + datum.seam),
      datum.prompt_length + first_at_least(ends, last + datum.seam),
    }
  end
  return positions
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
