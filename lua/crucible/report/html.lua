-- HTML made of nodes. A string is text and always escaped; only nodes are markup, so that nothing a run
-- holds can become any. `h.td({ class = "n" }, "a < b", h.b({}, 1))`.
local html = {}

---@class crucible.report.Node
---@field markup string
local Node = { __name = "crucible.report.node" }
Node.__index = Node
Node.__tostring = function(self) return self.markup end

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

-- Text that HTML can hold: valid UTF-8 without control characters other than tab and line breaks.
local function clean(text)
  if not utf8.len(text) then
    local parts, at = {}, 1
    while at <= #text do
      local length, bad = utf8.len(text, at)
      parts[#parts + 1] = text:sub(at, length and #text or bad - 1)
      if length then break end
      parts[#parts + 1], at = "\u{FFFD}", bad + 1
    end
    text = table.concat(parts)
  end
  return (text:gsub("\r\n?", "\n"):gsub("[%z\1-\8\11\12\14-\31\127]", "\u{FFFD}"))
end

--- Text as it stands in HTML, between tags or in quotes.
---@param value any
---@return string
function html.escape(value) return (clean(tostring(value)):gsub("[&<>\"']", escapes)) end

--- Markup as it is: only for what this library itself writes.
---@param markup string
---@return crucible.report.Node
function html.raw(markup) return setmetatable({ markup = markup }, Node) end

-- Adds children: nodes as they are, lists in turn, everything else as text; nil and false are left out.
local function add(parts, child)
  if child == nil or child == false then return end
  if getmetatable(child) == Node then
    parts[#parts + 1] = child.markup
  elseif type(child) == "table" then
    for i = 1, #child do add(parts, child[i]) end
  else
    parts[#parts + 1] = html.escape(child)
  end
end

local function sorted_keys(attributes)
  local names = {}
  for name in pairs(attributes) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function attribute_text(attributes)
  local parts = {}
  for _, name in ipairs(sorted_keys(attributes)) do
    local value = attributes[name]
    if value == true then
      parts[#parts + 1] = " " .. name
    elseif value then
      parts[#parts + 1] = (' %s="%s"'):format(name, html.escape(value))
    end
  end
  return table.concat(parts)
end

local void = { br = true, col = true, hr = true, input = true, meta = true }

--- An element.
---@param name string
---@param attributes table<string, any>  true: without value; false: left out
---@param ... any  children
---@return crucible.report.Node
function html.element(name, attributes, ...)
  local parts = { "<" .. name .. attribute_text(attributes) .. ">" }
  if void[name] then return html.raw(parts[1]) end
  for i = 1, select("#", ...) do add(parts, (select(i, ...))) end
  parts[#parts + 1] = "</" .. name .. ">"
  return html.raw(table.concat(parts))
end

return setmetatable(html, {
  __index = function(self, name)
    local function element(attributes, ...) return html.element(name, attributes, ...) end
    rawset(self, name, element)
    return element
  end,
})
