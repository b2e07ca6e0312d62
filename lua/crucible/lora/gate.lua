-- The look at the data before step 1: one pass over the datums that stops a run which could not
-- learn, and counts what a reader of its results will ask for.
local errors = require "crucible.errors"

local gate = {}

---@class crucible.lora.gate.Report
---@field rows integer        given
---@field trained_rows integer  left after dropping
---@field tokens integer      input positions of one epoch
---@field supervised integer  targets of weight other than 0 in one epoch
---@field longest integer     tokens
---@field mean_length number  tokens
---@field truncated integer   rows whose prompt was cut
---@field dropped integer     rows left out as too long
---@field sample { prompt: string, answer: string }  row 1 as the model sees it

local function last_weight(datum) return datum.weights[#datum.weights] or 0 end

local function supervised(datum)
  local count = 0
  for _, weight in ipairs(datum.weights) do
    if weight ~= 0 then count = count + 1 end
  end
  return count
end

-- The first fault of a datum, in words, or nil.
local function fault(datum, tokenizer)
  if supervised(datum) == 0 then return "has no supervised token: its output is empty or its weight is 0" end
  local eos, bos = tokenizer.eos, tokenizer.bos
  if eos and (datum.tokens[#datum.tokens] ~= eos or last_weight(datum) == 0) then
    return "does not end in a supervised end token"
  end
  if tokenizer.add_bos and datum.tokens[1] == bos and datum.tokens[2] == bos then
    return "begins with two BOS tokens"
  end
end

local function name_rows(faults)
  local shown = {}
  for i = 1, math.min(#faults, 5) do shown[i] = ("row %d %s"):format(faults[i].row, faults[i].fault) end
  local text = table.concat(shown, "; ")
  if #faults > #shown then text = ("%s; and %d more rows"):format(text, #faults - #shown) end
  return text
end

local function sample(datum, tokenizer)
  local tokens, seam = datum.tokens, datum.prompt_length
  return {
    prompt = tokenizer:decode(table.move(tokens, 1, seam, 1, {})),
    answer = tokenizer:decode(table.move(tokens, seam + 1, #tokens, 1, {})),
  }
end

--- Checks datums made by lora.datums. Fails with "data": no rows, a row without supervision, an
--- answer whose end is not supervised, a doubled BOS; faulty rows are named.
---@param datums table[]
---@param counts crucible.lora.datums.Counts
---@param tokenizer crucible.Tokenizer
---@return crucible.lora.gate.Report? report, string? message, string? code
function gate.check(datums, counts, tokenizer)
  if counts.rows == 0 then return errors.failure("data", "the dataset is empty: there is nothing to train on") end
  if #datums == 0 then return errors.failure("data", "all %d rows are longer than max_length", counts.rows) end
  local report = { rows = counts.rows, trained_rows = #datums, truncated = counts.truncated, dropped = counts.dropped,
    tokens = 0, supervised = 0, longest = 0 }
  local faults = {}
  for _, datum in ipairs(datums) do
    local found = fault(datum, tokenizer)
    if found then faults[#faults + 1] = { row = datum.row, fault = found } end
    report.tokens = report.tokens + #datum.tokens - 1
    report.supervised = report.supervised + supervised(datum)
    report.longest = math.max(report.longest, #datum.tokens)
  end
  if #faults > 0 then return errors.failure("data", "%s (gate = false trains all the same)", name_rows(faults)) end
  report.mean_length = report.tokens / #datums + 1
  report.sample = sample(datums[1], tokenizer)
  return report
end

return gate
