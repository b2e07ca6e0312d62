-- The look at the data before step 1: one pass over rows and datums that stops a run which could not
-- learn what it should, warns of what is doubtful, and counts what a reader of its results will ask for.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local supervised = require "crucible.losses.supervised"

local gate = {}

---@class crucible.lora.gate.Report
---@field rows integer        given
---@field trained_rows integer  left after dropping
---@field tokens integer      input positions of one epoch
---@field supervised integer  targets of weight other than 0 in one epoch
---@field longest integer     tokens
---@field mean_length number  tokens
---@field lengths { share: number, tokens: integer }[]  quantiles of row lengths
---@field padding number      share of padding if batches were padded to their longest row; the local engine pads nothing
---@field truncated integer   rows whose prompt was cut
---@field dropped integer     rows left out as too long
---@field duplicates integer  rows that repeat an earlier one
---@field overlap integer?    rows that also stand among the evaluation rows; nil when there were none to compare
---@field warnings string[]
---@field sample crucible.lora.gate.Sample  row 1 as the model sees it

---@class crucible.lora.gate.Sample
---@field row integer
---@field prompt string   up to the last answer
---@field answer string
---@field pieces { text: string, weight: number }[]  all of it, cut where the weight changes

---@class crucible.lora.gate.Context
---@field rows crucible.lora.Row[]?        what the datums were made of
---@field evaluation crucible.lora.Row[]?  rows that the run is judged by
---@field batch_size integer?              for the share of padding; 8

local SHOWN = 5 -- rows that a message names

-- ---- faults of datums --------------------------------------------------------------------------

local function unsupervised_reason(row)
  if row and row.messages then return "has no supervised token: none of its messages is trained, or they are empty" end
  return "has no supervised token: its output is empty or its weight is 0"
end

-- The first fault of a datum, in words, or nil.
local function datum_fault(datum, count, row, tokenizer)
  if count == 0 then return unsupervised_reason(row) end
  local last, bos = datum.end_id or tokenizer.eos, tokenizer.bos
  if last and (datum.tokens[#datum.tokens] ~= last or datum.weights[#datum.weights] == 0) then
    return "does not end in a supervised end token"
  end
  if tokenizer.add_bos and datum.tokens[1] == bos and datum.tokens[2] == bos then
    return "begins with two BOS tokens"
  end
end

-- ---- faults of texts ---------------------------------------------------------------------------

local function each_text(row, visit)
  if not row.messages then
    visit("input", row.input)
    visit("output", row.output)
    return
  end
  for i, message in ipairs(row.messages) do visit(("message %d"):format(i), message.content) end
end

-- Texts of the tokens that begin and end what a model reads, and whether the tokeniser step adds the first.
local function special_texts(tokenizer)
  local special = { texts = {}, bos = nil }
  if tokenizer.bos then special.texts[1] = tokenizer:decode { tokenizer.bos } end
  if tokenizer.add_bos then special.bos = special.texts[1] end
  if tokenizer.eos then special.texts[#special.texts + 1] = tokenizer:decode { tokenizer.eos } end
  return special
end

-- The first fault of a row's texts, in words, or nil; and a doubt.
local function text_fault(row, special)
  local fault, doubt
  local first = true
  each_text(row, function(where, text)
    local _, bad = utf8.len(text)
    if bad then fault = fault or ("%s is not UTF-8 at byte %d"):format(where, bad) end
    if special.bos and first and text:sub(1, #special.bos) == special.bos then
      fault = fault or ("begins with the text of BOS, %s, which the tokeniser step adds"):format(special.bos)
    end
    for _, token in ipairs(special.texts) do
      if token ~= "" and text:find(token, 1, true) then
        doubt = doubt or ("%s holds the text of a special token, %s"):format(where, token)
      end
    end
    first = false
  end)
  return fault, doubt
end

-- ---- rows that repeat --------------------------------------------------------------------------

local function key_of(row)
  local parts = {}
  each_text(row, function(_, text) parts[#parts + 1] = #text .. ":" .. text end)
  return fs.sha256(table.concat(parts))
end

local function keys_of(rows)
  local keys = {}
  for i, row in ipairs(rows) do keys[i] = key_of(row) end
  return keys
end

-- Numbers of rows whose key stands earlier in the list.
local function repeated(keys)
  local seen, list = {}, {}
  for i, key in ipairs(keys) do
    if seen[key] then list[#list + 1] = i end
    seen[key] = true
  end
  return list
end

local function shared(keys, others)
  local known, list = {}, {}
  for _, key in ipairs(others) do known[key] = true end
  for i, key in ipairs(keys) do
    if known[key] then list[#list + 1] = i end
  end
  return list
end

-- ---- words -------------------------------------------------------------------------------------

local function name_rows(faults)
  local shown = {}
  for i = 1, math.min(#faults, SHOWN) do shown[i] = ("row %d %s"):format(faults[i].row, faults[i].fault) end
  local text = table.concat(shown, "; ")
  if #faults > #shown then text = ("%s; and %d more rows"):format(text, #faults - #shown) end
  return text
end

local function numbers(list)
  local shown = table.concat(list, ", ", 1, math.min(#list, SHOWN))
  return #list > SHOWN and shown .. ", …" or shown
end

-- "1 row repeats" or "3 rows repeat".
local function rows_do(count, one, many)
  return count == 1 and "1 row " .. one or ("%d rows %s"):format(count, many)
end

-- ---- the sample --------------------------------------------------------------------------------

local function decode_range(tokenizer, tokens, first, last)
  return tokenizer:decode(table.move(tokens, first, last, 1, {}))
end

--- A datum as the model sees it, cut where its weights change.
---@param datum table
---@param tokenizer crucible.Tokenizer
---@return crucible.lora.gate.Sample
function gate.sample(datum, tokenizer)
  local tokens, pieces, first = datum.tokens, {}, 1
  local function weight_of(t) return t == 1 and 0 or datum.weights[t - 1] end
  for t = 1, #tokens do
    if t == #tokens or weight_of(t + 1) ~= weight_of(t) then
      pieces[#pieces + 1] = { text = decode_range(tokenizer, tokens, first, t), weight = weight_of(t) }
      first = t + 1
    end
  end
  local seam = datum.prompt_length
  return {
    row = datum.row, prompt = decode_range(tokenizer, tokens, 1, seam),
    answer = decode_range(tokenizer, tokens, seam + 1, #tokens), pieces = pieces,
  }
end

-- ---- counting ----------------------------------------------------------------------------------

local SHARES = { 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1 }

local function quantiles(lengths)
  local sorted, found = table.move(lengths, 1, #lengths, 1, {}), {}
  table.sort(sorted)
  for i, share in ipairs(SHARES) do
    found[i] = { share = share, tokens = sorted[math.max(1, math.ceil(share * #sorted))] }
  end
  return found
end

--- The share of padding in batches of rows, in order, each padded to its longest.
---@param lengths integer[]
---@param batch_size integer
---@return number
function gate.padding(lengths, batch_size)
  local used, room = 0, 0
  for first = 1, #lengths, batch_size do
    local longest, last = 0, math.min(first + batch_size - 1, #lengths)
    for i = first, last do
      longest, used = math.max(longest, lengths[i]), used + lengths[i]
    end
    room = room + longest * (last - first + 1)
  end
  return room > 0 and 1 - used / room or 0
end

local function count_datums(list, tokenizer, rows, report, faults)
  local lengths = {}
  for i, datum in ipairs(list) do
    local count = supervised(datum)
    local found = datum_fault(datum, count, rows and rows[datum.row], tokenizer)
    if found then faults[#faults + 1] = { row = datum.row, fault = found } end
    lengths[i] = #datum.tokens
    report.tokens = report.tokens + #datum.tokens - 1
    report.supervised = report.supervised + count
    report.longest = math.max(report.longest, #datum.tokens)
  end
  return lengths
end

local function check_texts(rows, tokenizer, report, faults)
  local special, doubts = special_texts(tokenizer), {}
  for number, row in ipairs(rows) do
    local fault, doubt = text_fault(row, special)
    if fault then faults[#faults + 1] = { row = number, fault = fault } end
    if doubt then doubts[#doubts + 1] = { row = number, fault = doubt } end
  end
  if #doubts > 0 then report.warnings[#report.warnings + 1] = name_rows(doubts) .. "; it stays text" end
end

local function warn_of_repeats(context, report)
  local keys = keys_of(context.rows)
  local list = repeated(keys)
  report.duplicates = #list
  local function warn(format, ...) report.warnings[#report.warnings + 1] = format:format(...) end
  if #list > 0 then warn("%s an earlier one: %s", rows_do(#list, "repeats", "repeat"), numbers(list)) end
  if not context.evaluation then return end
  list = shared(keys, keys_of(context.evaluation))
  report.overlap = #list
  if #list > 0 then
    warn("%s among the evaluation rows too: %s", rows_do(#list, "stands", "stand"), numbers(list))
  end
end

local function warn_of_lengths(counts, report)
  if counts.truncated > 0 then
    report.warnings[#report.warnings + 1] = ("%s the left of the prompt to max_length"):format(
      rows_do(counts.truncated, "loses", "lose"))
  end
  if counts.dropped > 0 then
    report.warnings[#report.warnings + 1] = ("%s left out as too long"):format(
      rows_do(counts.dropped, "is", "are"))
  end
end

--- Checks datums made by lora.datums and, if given, the rows they were made of. Fails with "data": no rows, a row
--- without supervision, an answer whose end is not supervised, a doubled BOS, text that begins with BOS's,
--- text that is not UTF-8; faulty rows are named. What is doubtful is in report.warnings.
---@param datums table[]
---@param counts crucible.lora.datums.Counts
---@param tokenizer crucible.Tokenizer
---@param context crucible.lora.gate.Context?
---@return crucible.lora.gate.Report? report, string? message, string? code
function gate.check(datums, counts, tokenizer, context)
  context = context or {}
  if counts.rows == 0 then return errors.failure("data", "the dataset is empty: there is nothing to train on") end
  if #datums == 0 then
    return errors.failure("data", "all %d rows are longer than max_length and were left out: raise it, or set "
      .. 'truncation = "left"', counts.rows)
  end
  local report = { rows = counts.rows, trained_rows = #datums, truncated = counts.truncated, dropped = counts.dropped,
    tokens = 0, supervised = 0, longest = 0, duplicates = 0, warnings = json.array {} }
  local faults = {}
  local lengths = count_datums(datums, tokenizer, context.rows, report, faults)
  if context.rows then check_texts(context.rows, tokenizer, report, faults) end
  table.sort(faults, function(a, b) return a.row < b.row end)
  if #faults > 0 then return errors.failure("data", "%s (gate = false trains all the same)", name_rows(faults)) end
  if context.rows then warn_of_repeats(context, report) end
  warn_of_lengths(counts, report)
  report.mean_length = report.tokens / #datums + 1
  report.lengths, report.padding = quantiles(lengths), gate.padding(lengths, context.batch_size or 8)
  report.sample = gate.sample(datums[1], tokenizer)
  return report
end

return gate
