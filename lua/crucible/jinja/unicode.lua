-- Characters of UTF-8 text as Python counts them: one a code point. A byte that belongs to no character
-- is one of its own, so that any text has a length and slices.
local unicode = {}

local CHARACTER = "[\0-\x7F\xC2-\xF4][\x80-\xBF]*"

--- Whether a text is ASCII, where bytes are characters.
---@param text string
---@return boolean
function unicode.is_ascii(text) return not text:find "[\x80-\xFF]" end

--- The last byte of the character that begins at `at`.
---@param text string
---@param at integer
---@return integer
function unicode.ends(text, at)
  local byte = text:byte(at)
  if byte < 0xC2 or byte > 0xF4 then return at end
  local length = byte < 0xE0 and 2 or byte < 0xF0 and 3 or 4
  local _, last = text:find("^" .. CHARACTER, at)
  return last - at + 1 >= length and at + length - 1 or at
end

--- The first byte of the character that ends at `last`.
---@param text string
---@param last integer
---@return integer
function unicode.begins(text, last)
  for at = last, math.max(1, last - 3), -1 do
    local byte = text:byte(at)
    if byte < 0x80 then return last end
    if byte >= 0xC0 then return unicode.ends(text, at) == last and at or last end
  end
  return last
end

--- The characters of a text.
---@param text string
---@return string[]
function unicode.characters(text)
  local list, at = {}, 1
  while at <= #text do
    local last = unicode.ends(text, at)
    list[#list + 1] = text:sub(at, last)
    at = last + 1
  end
  return list
end

--- Their number.
---@param text string
---@return integer
function unicode.length(text)
  if unicode.is_ascii(text) then return #text end
  local known = utf8.len(text)
  return known or #unicode.characters(text)
end

-- str.isspace of Python 3.
local spaces = { [" "] = true, ["\u{85}"] = true, ["\u{A0}"] = true, ["\u{1680}"] = true, ["\u{3000}"] = true }
for code = 0x09, 0x0D do spaces[string.char(code)] = true end
for code = 0x1C, 0x1F do spaces[string.char(code)] = true end
for code = 0x2000, 0x200A do spaces[utf8.char(code)] = true end
for _, code in ipairs { 0x2028, 0x2029, 0x202F, 0x205F } do spaces[utf8.char(code)] = true end

--- The white space of Python's str.strip, as a set of characters.
unicode.spaces = spaces

--- The first place from `at` on where no character of a set stands; #text + 1 when there is none.
---@param text string
---@param at integer
---@param set table<string, boolean>
---@return integer
function unicode.skip(text, at, set)
  while at <= #text do
    local last = unicode.ends(text, at)
    if not set[text:sub(at, last)] then return at end
    at = last + 1
  end
  return at
end

--- The last place up to `last` where no character of a set stands; `from` - 1 when there is none.
---@param text string
---@param from integer
---@param last integer
---@param set table<string, boolean>
---@return integer
function unicode.skip_back(text, from, last, set)
  while last >= from do
    local at = unicode.begins(text, last)
    if not set[text:sub(at, last)] then return last end
    last = at - 1
  end
  return last
end

--- A text without the characters of a set (default: white space) at its ends.
---@param text string
---@param set table<string, boolean>?
---@param left boolean?   only there
---@param right boolean?
---@return string
function unicode.strip(text, set, left, right)
  set = set or spaces
  local both = not left and not right
  local from = (both or left) and unicode.skip(text, 1, set) or 1
  local last = (both or right) and unicode.skip_back(text, from, #text, set) or #text
  return text:sub(from, last)
end

return unicode
