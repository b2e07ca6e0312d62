-- The filter tojson of chat templates: json.dumps with ensure_ascii off, without the escapes for HTML.
local fault = require "crucible.jinja.fault"
local values = require "crucible.jinja.values"

local escapes = {
  ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b", ["\f"] = "\\f",
}

local function escape(char) return escapes[char] or ("\\u%04x"):format(char:byte()) end

local function escape_wide(char)
  local code = utf8.codepoint(char)
  if code < 0x10000 then return ("\\u%04x"):format(code) end
  code = code - 0x10000
  return ("\\u%04x\\u%04x"):format(0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))
end

local function string_text(text, style)
  text = text:gsub('[\0-\x1F"\\]', escape)
  if style.ascii then
    if not utf8.len(text) then fault.raise("format", nil, "tojson: the text is not UTF-8") end
    text = text:gsub("\x7F", "\\u007f"):gsub("[\xC2-\xF4][\x80-\xBF]+", escape_wide)
  end
  return '"' .. text .. '"'
end

local function number_text(value)
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if value ~= value then return "NaN" end
  if value == math.huge then return "Infinity" end
  if value == -math.huge then return "-Infinity" end
  return values.float_text(value)
end

local encode -- forward: containers and their parts

-- Parts between brackets, on lines of their own where the style has an indent.
local function enclosed(run, style, level, open, close, parts)
  if #parts == 0 then return open .. close end
  local pad, last = "", ""
  if style.indent then
    pad, last = "\n" .. style.indent:rep(level + 1), "\n" .. style.indent:rep(level)
    run:bytes(#parts * #pad)
  end
  return open .. pad .. table.concat(parts, style.comma .. pad) .. last .. close
end

local function encode_list(run, list, style, level)
  local parts = {}
  if list.kind ~= "list" and list.kind ~= "tuple" then
    fault.raise("format", nil, "tojson: a %s has no JSON form", list.kind)
  end
  for i = 1, list.n do parts[i] = encode(run, list[i], style, level + 1) end
  return enclosed(run, style, level, "[", "]", parts)
end

local function key_text(run, key, style)
  if type(key) == "string" then return string_text(key, style) end
  return '"' .. encode(run, key, style, 0) .. '"'
end

local function encode_dict(run, dict, style, level)
  local parts, keys = {}, dict.keys
  if style.sorted then
    keys = table.move(keys, 1, #keys, 1, {})
    for _, key in ipairs(keys) do
      if type(key) ~= "string" then fault.raise("unsupported", nil, "tojson: sort_keys of keys that are no str") end
    end
    table.sort(keys, values.less_text)
  end
  for i, key in ipairs(keys) do
    parts[i] = key_text(run, key, style) .. style.colon .. encode(run, dict.map[key], style, level + 1)
  end
  return enclosed(run, style, level, "{", "}", parts)
end

function encode(run, value, style, level)
  local kind, text = type(value), nil
  if kind == "string" then
    text = string_text(value, style)
  elseif kind == "number" then
    text = number_text(value)
  elseif kind == "boolean" then
    text = tostring(value)
  elseif value == values.none then
    text = "null"
  elseif values.is_list(value) then
    text = run:nested(encode_list, value, style, level)
  elseif values.is_dict(value) then
    text = run:nested(encode_dict, value, style, level)
  else
    values.refuse_undefined(value)
    fault.raise("format", nil, "tojson: a %s has no JSON form", values.type_name(value))
  end
  run:work(1 + #text / 16)
  return run:made(text)
end

local MOST_INDENT = 100

local function indent_of(indent)
  if indent == nil or indent == values.none then return nil end
  if type(indent) == "string" then return indent end
  local width = values.number(indent)
  if math.type(width) ~= "integer" or width > MOST_INDENT then
    fault.raise("format", nil, "tojson: indent is an int up to %d or a str", MOST_INDENT)
  end
  return (" "):rep(width)
end

local function style_of(ascii, indent, separators, sorted)
  local style = { ascii = ascii and values.truth(ascii), indent = indent_of(indent), colon = ": ",
    sorted = sorted and values.truth(sorted) }
  style.comma = style.indent and "," or ", "
  if separators and separators ~= values.none then
    local pair = values.is_list(separators) and separators.n == 2 and type(separators[1]) == "string"
      and type(separators[2]) == "string"
    if not pair then fault.raise("format", nil, "tojson: separators are two str") end
    style.comma, style.colon = separators[1], separators[2]
  end
  return style
end

return {
  parameters = { "ensure_ascii", "indent", "separators", "sort_keys" }, required = 0,
  call = function(run, value, ascii, indent, separators, sorted)
    return encode(run, value, style_of(ascii, indent, separators, sorted), 0)
  end,
}
