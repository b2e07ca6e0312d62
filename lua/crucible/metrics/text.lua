-- Text as the reference scripts of text metrics cut it: white space, lower case and word characters
-- of Unicode. Bytes that are not UTF-8 count as letters of their own.
local runs = require "crucible.metrics.lowercase"

local text = {}

-- ---- characters ----------------------------------------------------------------------------

local SPACES = {} -- what Python's str.split() splits at, beyond ASCII's
for _, code in ipairs { 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 } do
  SPACES[utf8.char(code)] = true
end
for code = 0x2000, 0x200A do SPACES[utf8.char(code)] = true end

-- A lead byte and the bytes that go on with it.
local BEYOND_ASCII = "[\xC2-\xF4][\x80-\xBF]*"

local function plain_space(char) return SPACES[char] and " " or nil end

-- White space of all kinds as spaces.
local function with_plain_spaces(value)
  return (value:gsub("[\x1C-\x1F]", " "):gsub(BEYOND_ASCII, plain_space))
end

--- The words between white space, Unicode's included.
---@param value string
---@return string[]
function text.words(value)
  local words = {}
  for word in with_plain_spaces(value):gmatch "%S+" do words[#words + 1] = word end
  return words
end

--- Without white space at its ends.
---@param value string
---@return string
function text.trim(value)
  local char
  repeat
    value = value:match "^%s*(.*)$"
    char = value:match("^" .. BEYOND_ASCII)
    if SPACES[char] then value = value:sub(#char + 1) end
  until not SPACES[char]
  repeat
    value = value:match "^(.-)%s*$"
    char = value:match(BEYOND_ASCII .. "$")
    if SPACES[char] then value = value:sub(1, -#char - 1) end
  until not SPACES[char]
  return value
end

-- Lower-case forms by character, made when the first one is asked for.
local lowered

local function fill_lowered()
  lowered = { ["\u{130}"] = "i\u{307}" } -- the one capital whose lower case is two characters
  for _, run in ipairs(runs) do
    for code = run[1], run[2], run[3] do lowered[utf8.char(code)] = utf8.char(code + run[4]) end
  end
end

--- In lower case, Unicode's letters included (a sigma at the end of a word stays the common one).
---@param value string
---@return string
function text.lower(value)
  value = value:gsub("%u+", string.lower)
  if not value:find "[\x80-\xFF]" then return value end
  if not lowered then fill_lowered() end
  return (value:gsub(BEYOND_ASCII, lowered))
end

-- Code points beyond ASCII that are no part of a word: punctuation and symbols of the blocks that
-- English text draws on. Others count as letters.
local NO_WORD = {
  { 0x80, 0xA9 }, { 0xAB, 0xB1 }, { 0xB4, 0xB4 }, { 0xB6, 0xB8 }, { 0xBB, 0xBB }, { 0xBF, 0xBF }, { 0xD7, 0xD7 },
  { 0xF7, 0xF7 }, { 0x2000, 0x206F }, { 0x20A0, 0x20CF }, { 0x2190, 0x245F }, { 0x2500, 0x2775 }, { 0x2794, 0x2BFF },
  { 0x3000, 0x3004 }, { 0x3008, 0x3020 }, { 0xFE30, 0xFE6F }, { 0xFF01, 0xFF0F }, { 0x1F300, 0x1FAFF },
}

local function is_word(code)
  for _, range in ipairs(NO_WORD) do
    if code >= range[1] and code <= range[2] then return false end
  end
  return true
end

-- Stands around every character that is no part of a word, so that patterns in ASCII see the edge.
local EDGE = "\0"

local function mark_edge(char)
  local code = utf8.len(char) == 1 and utf8.codepoint(char)
  if code and not is_word(code) then return EDGE .. char .. EDGE end
end

-- ---- normal forms --------------------------------------------------------------------------

local ARTICLES = { a = " ", an = " ", the = " " }

--- The normal form of SQuAD's evaluation (Rajpurkar et al. 2016): lower case, without ASCII
--- punctuation, without the articles a, an, the, single spaces.
---@param value string
---@return string
function text.squad(value)
  local plain = text.lower(value):gsub("%p", ""):gsub(BEYOND_ASCII, mark_edge)
  plain = plain:gsub("[%w\x80-\xFF]+", ARTICLES):gsub(EDGE, "")
  return table.concat(text.words(plain), " ")
end

--- The tokens of Google's rouge_score without a stemmer: runs of a–z and 0–9 of the lower-case text.
---@param value string
---@return string[]
function text.rouge_tokens(value)
  local tokens = {}
  -- Only these two letters beyond ASCII have an ASCII letter in their lower case.
  local plain = value:gsub("\u{212A}", "k"):gsub("\u{130}", "i\u{307}"):lower()
  for token in plain:gmatch "[a-z0-9]+" do tokens[#tokens + 1] = token end
  return tokens
end

return text
