-- A template's source as tokens, cut as Jinja 2 cuts it (jinja2/lexer.py) with trim_blocks and lstrip_blocks
-- on, the settings that chat templates are written for: the line end behind a block tag goes, and so do
-- blanks between a line's beginning and a block tag or comment.
local fault = require "crucible.jinja.fault"
local unicode = require "crucible.jinja.unicode"

local lexer = {}

---@class crucible.jinja.Token
---@field type string  "data", "block_begin", "block_end", "variable_begin", "variable_end", "name", "string", "number", "eof", or an operator as it is written
---@field value any
---@field line integer

local SOURCE_BYTES = 1 << 20 -- of a template at most; the longest published one has 30 kB

---@class crucible.jinja.Lexer
---@field source string
---@field at integer
---@field line integer
---@field tokens crucible.jinja.Token[]
---@field line_starts boolean  what was taken last ended a line
local Lexer = {}
Lexer.__index = Lexer

local function raise(self, format, ...) fault.raise("format", self.line, format, ...) end

local function count_lines(text)
  local _, count = text:gsub("\n", "")
  return count
end

-- Moves on to behind `last`.
function Lexer:take(last)
  local taken = self.source:sub(self.at, last)
  self.line = self.line + count_lines(taken)
  if taken ~= "" then self.line_starts = taken:sub(-1) == "\n" end
  self.at = last + 1
  return taken
end

function Lexer:add(kind, value, line)
  self.tokens[#self.tokens + 1] = { type = kind, value = value, line = line or self.line }
end

-- White space behind a tag that ends in "-".
function Lexer:take_spaces() self:take(unicode.skip(self.source, self.at, unicode.spaces) - 1) end

-- ---- tags ----------------------------------------------------------------------------------------

local pairs_of = { ["("] = ")", ["["] = "]", ["{"] = "}" }
local closing = { [")"] = true, ["]"] = true, ["}"] = true }
local long_operators = { ["//"] = true, ["**"] = true, ["=="] = true, ["!="] = true, [">="] = true, ["<="] = true }

function Lexer:operator()
  local text = self.source:sub(self.at, self.at + 1)
  if not long_operators[text] then text = text:sub(1, 1) end
  if not text:find "^[-+/*%%~%[%](){}=!><.:|,;]" or text == "!" then
    raise(self, "unexpected character '%s'", fault.show(self.source:sub(self.at, unicode.ends(self.source, self.at))))
  end
  if pairs_of[text] then
    self.open[#self.open + 1] = pairs_of[text]
  elseif closing[text] then
    local expected = table.remove(self.open)
    if not expected then raise(self, "unexpected '%s'", text) end
    if expected ~= text then raise(self, "unexpected '%s', expected '%s'", text, expected) end
  end
  self:add(text, text)
  self:take(self.at + #text - 1)
end

local simple_escapes = {
  a = "\a", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", v = "\v", ["\\"] = "\\", ["'"] = "'", ['"'] = '"',
  ["\n"] = "",
}

local function code_point(self, digits, base)
  local code = tonumber(digits, base)
  if code > 0x10FFFF or (code >= 0xD800 and code < 0xE000) then raise(self, "no character has the code %s", digits) end
  return utf8.char(code)
end

local hexadecimal = { x = 2, u = 4, U = 8 }

-- The character of an escape at `at`, behind its backslash, and where it ends.
local function escape_at(self, text, at)
  local letter = text:sub(at, at)
  if simple_escapes[letter] then return simple_escapes[letter], at end
  if hexadecimal[letter] then
    local digits = text:sub(at + 1, at + hexadecimal[letter])
    if #digits < hexadecimal[letter] or digits:find "%X" then raise(self, "truncated \\%s escape", letter) end
    return code_point(self, digits, 16), at + #digits
  end
  if letter == "N" then fault.raise("unsupported", self.line, "escapes by name (\\N{...}) are not supported") end
  local octal = text:match("^[0-7][0-7]?[0-7]?", at)
  if octal then return code_point(self, octal, 8), at + #octal - 1 end
  return "\\" .. letter, at
end

local function unescape(self, text)
  if not text:find("\\", 1, true) then return text end
  local parts, at = {}, 1
  while true do
    local slash = text:find("\\", at, true)
    if not slash then break end
    parts[#parts + 1] = text:sub(at, slash - 1)
    parts[#parts + 1], at = escape_at(self, text, slash + 1)
    at = at + 1
  end
  parts[#parts + 1] = text:sub(at)
  return table.concat(parts)
end

function Lexer:string(quote)
  local stop = self.at + 1
  while true do
    stop = self.source:find("[\\" .. quote .. "]", stop)
    if not stop then raise(self, "a string does not end") end
    if self.source:sub(stop, stop) == quote then break end
    stop = stop + 2
  end
  self:add("string", unescape(self, self.source:sub(self.at + 1, stop - 1)))
  self:take(stop)
end

local prefixed = { x = { 16, "^0[xX][_%x]+" }, o = { 8, "^0[oO][_0-7]+" }, b = { 2, "^0[bB][_01]+" } }

local function prefixed_number(self)
  local rule = prefixed[self.source:sub(self.at + 1, self.at + 1):lower()]
  local text = rule and self.source:match(rule[2], self.at)
  if not text then return nil end
  local digits = text:sub(3):gsub("_", "")
  if #digits == 0 or #digits > 15 then raise(self, "number %s: expected 1 to 15 digits", text) end
  return tonumber(digits, rule[1]), #text
end

local function decimal_number(self)
  local whole = self.source:match("^[%d_]+", self.at)
  local behind_dot = self.source:sub(self.at - 1, self.at - 1) == "." -- x.0.1 are two elements
  local fraction = behind_dot and "" or self.source:match("^%.%d[%d_]*", self.at + #whole) or ""
  local exponent = behind_dot and "" or self.source:match("^[eE][-+]?%d+", self.at + #whole + #fraction) or ""
  local text = whole .. fraction .. exponent
  local digits = text:gsub("_", "")
  local value = fraction == "" and exponent == "" and math.tointeger(tonumber(digits)) or tonumber(digits)
  if fraction == "" and exponent == "" and math.type(value) ~= "integer" then
    raise(self, "the number %s is too large", fault.show(text))
  end
  if value ~= value or value == math.huge then raise(self, "the number %s is too large", fault.show(text)) end
  return value, #text
end

function Lexer:number()
  local value, length = prefixed_number(self)
  if not value then value, length = decimal_number(self) end
  self:add("number", value)
  self:take(self.at + length - 1)
end

-- The end of a tag, as it stands here, or nil; and its sign.
local function tag_end(self, mark)
  if #self.open > 0 then return nil end
  local sign = self.source:match("^[-+]", self.at)
  local text = (sign or "") .. mark
  if sign == "+" and mark == "}}" then return nil end
  if self.source:sub(self.at, self.at + #text - 1) == text then return text, sign end
end

function Lexer:finish_tag(kind, text, sign)
  self:add(kind .. "_end")
  self:take(self.at + #text - 1)
  if sign == "-" then
    self:take_spaces()
  elseif sign == nil and kind == "block" and self.source:sub(self.at, self.at) == "\n" then
    self:take(self.at)
  end
end

function Lexer:token()
  local char = self.source:sub(self.at, self.at)
  if char:find "[%a_]" then
    local name = self.source:match("^[%w_]+", self.at)
    self:add("name", name)
    self:take(self.at + #name - 1)
  elseif char:find "%d" then
    self:number()
  elseif char == "'" or char == '"' then
    self:string(char)
  else
    self:operator()
  end
end

-- What stands in a tag up to its end. kind is "block" or "variable".
function Lexer:tag(kind, mark)
  local began = self.line
  self.open = {}
  while true do
    self:take_spaces()
    if self.at > #self.source then fault.raise("format", began, "a tag does not end: expected '%s'", mark) end
    local text, sign = tag_end(self, mark)
    if text then return self:finish_tag(kind, text, sign) end
    self:token()
  end
end

-- ---- text, comments, raw ----------------------------------------------------------------------------

-- A text before a tag without what the tag's sign and lstrip_blocks take from its end.
local function cut_end(text, sign, is_variable, starts)
  if sign == "-" then return unicode.strip(text, nil, false, true) end
  if sign == "+" or is_variable then return text end
  local line_end = text:match "^.*()\n"
  local from = line_end and line_end + 1 or 1
  if (line_end or starts) and unicode.skip(text, from, unicode.spaces) > #text then return text:sub(1, from - 1) end
  return text
end

function Lexer:text_before(begins, mark)
  local starts, line = self.line_starts, self.line
  local sign = self.source:match("^[-+]", begins + 2)
  local text = cut_end(self:take(begins - 1), sign, mark == "{{", starts)
  if text ~= "" then self:add("data", text, line) end
  return sign
end

local function find_comment_end(self)
  local last = select(2, self.source:find("#}", self.at, true))
  if not last then raise(self, "a comment does not end: expected '#}'") end
  local sign = last - 2 >= self.at and self.source:sub(last - 2, last - 2):match "[-+]" or nil
  return last, sign
end

function Lexer:comment()
  local last, sign = find_comment_end(self)
  self:take(last)
  if sign == "-" then
    self:take_spaces()
  elseif not sign and self.source:sub(self.at, self.at) == "\n" then
    self:take(self.at)
  end
end

-- The last byte of "{% raw %}" when it begins here, and whether its end strips.
local function raw_begins(self, begins)
  local _, last, strip = self.source:find("^{%%[-+]?%s*raw%s*(%-?)%%}", begins)
  return last, strip == "-"
end

function Lexer:raw(last, strips)
  self:take(last)
  if strips then self:take_spaces() end
  if self.at > #self.source then return end -- nothing to write: Jinja lets that pass
  local from, stop, sign, end_sign = self.source:find("{%%([-+]?)%s*endraw%s*([-+]?)%%}", self.at)
  if not from then raise(self, "raw does not end: expected '{%% endraw %%}'") end
  local starts, line = self.line_starts, self.line
  local text = cut_end(self:take(from - 1), sign ~= "" and sign or nil, false, starts)
  if text ~= "" then self:add("data", text, line) end
  self:take(stop)
  if end_sign == "-" then
    self:take_spaces()
  elseif end_sign == "" and self.source:sub(self.at, self.at) == "\n" then
    self:take(self.at)
  end
end

local kinds = { ["{%"] = { "block", "%}" }, ["{{"] = { "variable", "}}" } }

-- The next stretch of text and the tag behind it; false at the end.
function Lexer:step()
  local begins = self.source:find("{[%%{#]", self.at)
  if not begins then
    local line, rest = self.line, self:take(#self.source)
    if rest ~= "" then self:add("data", rest, line) end
    return false
  end
  local mark = self.source:sub(begins, begins + 1)
  local sign = self:text_before(begins, mark)
  local raw_last, strips = raw_begins(self, begins)
  if raw_last then
    self:raw(raw_last, strips)
    return true
  end
  local kind = kinds[mark]
  if kind then self:add(kind[1] .. "_begin") end
  self:take(begins + 1 + (sign and 1 or 0))
  if kind then self:tag(kind[1], kind[2]) else self:comment() end
  return true
end

--- The tokens of a source; raises a fault.
---@param source string
---@return crucible.jinja.Token[]
function lexer.tokens(source)
  if #source > SOURCE_BYTES then
    fault.raise("format", nil, "the template has %d bytes: at most %d are read", #source, SOURCE_BYTES)
  end
  source = source:gsub("\r\n?", "\n"):gsub("\n$", "") -- the last line end goes: keep_trailing_newline is off
  local self = setmetatable({ source = source, at = 1, line = 1, tokens = {}, line_starts = true }, Lexer)
  while self:step() do end
  self:add "eof"
  return self.tokens
end

return lexer
