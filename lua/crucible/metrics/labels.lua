-- Labels in what a model writes: " Supports." is SUPPORT where the labels say so.
local errors = require "crucible.errors"
local text = require "crucible.metrics.text"

local labels = {}

-- Without case, white space and punctuation at the ends; nothing where that is all there is.
local function fold(value)
  local folded = text.lower(text.trim(value)):match "^[%p%s]*(.-)[%p%s]*$"
  return folded ~= "" and text.trim(folded) or nil
end

local function check_aliases(known, aliases)
  for alias, label in pairs(aliases) do
    if not known[label] then
      errors.raise('evaluation.evaluate: aliases: "%s" stands for "%s", which is no label', tostring(alias),
        tostring(label))
    end
  end
end

-- Folded form → label; false where two labels share it.
local function folded_forms(list, aliases)
  local forms = {}
  local function add(form, label)
    local key = fold(form)
    if not key then return end
    if forms[key] ~= nil and forms[key] ~= label then label = false end
    forms[key] = label
  end
  for _, label in ipairs(list) do add(label, label) end
  for alias, label in pairs(aliases) do add(alias, label) end
  return forms
end

--- A function from text to the label it is, or nil when it is none: the label itself first, then what
--- differs from one in case and in white space and punctuation at its ends alone. Raises on an alias
--- of no label.
---@param list string[]
---@param aliases table<string, string>?  other words for a label
---@return fun(value: string): string?
function labels.reader(list, aliases)
  local known = {}
  for _, label in ipairs(list) do known[label] = true end
  check_aliases(known, aliases or {})
  local forms = folded_forms(list, aliases or {})
  return function(value)
    if known[value] then return value end
    local key = fold(value)
    return key and forms[key] or nil
  end
end

return labels
