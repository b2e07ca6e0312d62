-- A text as a model sees it: tokens, what is trained of them, what was expected instead, the loss of each.
--
--     print(session:peek "The capital of France is Paris.")
--     print(session:peek { input = "Claim: …", output = "SUPPORT" })
--
-- In colour the background of a token goes from green (expected) to red (a surprise); NO_COLOR and what is no
-- terminal get plain columns.
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local peek = {}

local options = schema.new("session:peek", {
  { name = "top", default = 3, check = schema.integer { min = 1, max = 100 }, doc = "predictions shown a token" },
  { name = "base", default = false, check = schema.boolean, doc = "leave the lora out" },
  { name = "limit", default = 64, check = schema.integer { min = 1 }, doc = "tokens listed; the summary counts all" },
  { name = "color", check = schema.boolean, doc = "colours; default: on a terminal, unless NO_COLOR is set" },
})

---@class crucible.peek.Token
---@field token integer
---@field text string
---@field weight number      0 = not trained; the first token is never
---@field logprob number?    under the model; nil of the first
---@field rank integer?      place among the predictions that were asked for; nil beyond them
---@field expected { token: integer, text: string, logprob: number }[]?  the likeliest at its place

---@class crucible.Peek
---@field tokens crucible.peek.Token[]
---@field loss number        mean −log p of the trained tokens
---@field perplexity number
---@field trained integer    tokens of weight other than 0
---@field row boolean        a row with a mask, no bare text
local Peek = { __name = "crucible.peek" }
Peek.__index = Peek

-- ---- looking -------------------------------------------------------------------------------------

-- A datum and whether it has a mask of its own.
local function datum_of(session, what)
  if type(what) == "string" then
    local ids = session.tokenizer:prompt(what)
    return { tokens = ids }, false
  end
  if type(what) ~= "table" then
    errors.raise("session:peek: expected a text, a row { input, output } or a datum { tokens }, got %s",
      schema.show(what))
  end
  if what.tokens then return what, what.weights ~= nil end
  local list, message, code = datums.build(session.tokenizer, { what }, { max_length = session.context })
  if not list then return nil, message, code end
  if not list[1] then return errors.failure("data", "session:peek: the row is left out as too long") end
  return list[1], true
end

local function place_of(list, id)
  for rank, one in ipairs(list) do
    if one.token == id then return rank end
  end
end

local function tokens_of(session, datum, logprobs, top)
  local list = {}
  for i, id in ipairs(datum.tokens) do
    local token = { token = id, text = session.tokenizer:decode { id }, weight = 0 }
    if i > 1 then
      token.weight = datum.weights and datum.weights[i - 1] or 1
      token.logprob, token.expected = logprobs[i - 1], top[i - 1]
      token.rank = place_of(top[i - 1], id)
    end
    list[i] = token
  end
  return list
end

local function summarise(tokens)
  local sum, count = 0, 0
  for _, token in ipairs(tokens) do
    if token.weight ~= 0 then sum, count = sum - token.logprob, count + 1 end
  end
  return count > 0 and sum / count or 0, count
end

--- Looks at a text, a row or a datum with a session's model.
---@param session crucible.Session
---@param what string|table
---@param given table?
---@return crucible.Peek? peek, string? message, string? code
function peek.look(session, what, given)
  local chosen = options:resolve(given)
  local datum, masked, code = datum_of(session, what)
  if not datum then return nil, masked, code end
  if #datum.tokens < 2 then errors.raise("session:peek: one token says nothing: expected at least 2") end
  local all = { tokens = datum.tokens }
  local found, message
  found, message, code = session:forward({ all }, { base = chosen.base })
  if not found then return nil, message, code end
  local top
  top, message, code = session:top(datum.tokens, { count = chosen.top, base = chosen.base })
  if not top then return nil, message, code end
  local tokens = tokens_of(session, datum, found.logprobs[1], top)
  local loss, count = summarise(tokens)
  return setmetatable({
    tokens = tokens, loss = loss, perplexity = math.exp(loss), trained = count, row = masked, options = chosen,
  }, Peek)
end

-- ---- showing -------------------------------------------------------------------------------------

local OFF, DIM = "\27[0m", "\27[2m"

-- From green over yellow to red in the 6 × 6 × 6 cube of 256 colours, by −log p from 0 to 8.
local function background(logprob)
  local share = math.min(1, -logprob / 8)
  local red, green = math.min(5, math.floor(share * 10 + 0.5)), math.min(5, math.floor((1 - share) * 10 + 0.5))
  return ("\27[30;48;5;%dm"):format(16 + 36 * red + 6 * green)
end

-- A token's text with what cannot be seen made visible.
local function visible(text)
  local shown = text:gsub("\n", "↵"):gsub("\t", "⇥"):gsub("[%z\1-\31\127]", "?")
  if not utf8.len(shown) then shown = shown:gsub("[\128-\255]", function(c) return ("\\x%02X"):format(c:byte()) end) end
  return (shown:gsub(" ", "·"))
end

local function percent(logprob) return ("%.1f%%"):format(100 * math.exp(logprob)) end

local function expected_text(token)
  local parts = {}
  for i, one in ipairs(token.expected) do parts[i] = ("%s %s"):format(visible(one.text), percent(one.logprob)) end
  return table.concat(parts, "  ")
end

-- The text itself, each token coloured by its loss; what is not trained is dim.
local function coloured_text(self)
  local parts = {}
  for i, token in ipairs(self.tokens) do
    local text = token.text:gsub("[%z\1-\9\11-\31\127]", "?")
    local style = (token.weight == 0 or not token.logprob) and DIM or background(token.logprob)
    parts[i] = style .. text:gsub("\n", OFF .. "\n" .. style) .. OFF
  end
  return table.concat(parts) .. "\n\n"
end

local BAR = 10

local function rows_of(self)
  local rows = {}
  for i, token in ipairs(self.tokens) do
    if i > self.options.limit then break end
    local loss = token.logprob and -token.logprob
    rows[i] = {
      tostring(i), visible(token.text), tostring(token.token), token.weight == 0 and "" or ("%g"):format(token.weight),
      loss and ("%7.3f"):format(loss) or "", loss and terminal.bar(math.min(1, loss / 8), BAR) or "",
      token.rank and tostring(token.rank) or "", token.expected and expected_text(token) or "",
    }
  end
  return rows
end

local function paint(self, text, colour)
  if not colour then return text end
  local lines, number = {}, -2
  for line in text:gmatch "([^\n]*)\n" do
    number = number + 1
    local token = self.tokens[number]
    if token and token.weight == 0 then line = DIM .. line .. OFF end
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n") .. "\n"
end

--- All of it as text.
---@param colour boolean
---@return string
function Peek:text(colour)
  local listed = terminal.table({ "", "token", "id", "trained", "loss", "", "place", "expected" }, rows_of(self))
  local more = #self.tokens - self.options.limit
  local rest = more > 0 and ("… %d tokens more\n"):format(more) or ""
  return ("%s%s%s%d tokens, %d trained, mean loss %.4f, perplexity %.4g"):format(colour and coloured_text(self) or "",
    paint(self, listed, colour), rest, #self.tokens, self.trained, self.loss, self.perplexity)
end

function Peek:__tostring()
  local colour = self.options.color
  if colour == nil then colour = terminal.colours "stdout" end
  return self:text(colour)
end

return peek
