-- What goes wrong in a template: a value that is raised inside and becomes nil, message, code at the door.
local fault = {}

---@class crucible.jinja.Fault
---@field code string      "format" (the template), "unsupported" (what this interpreter lacks), "data" (raised by the template)
---@field message string
---@field line integer?
local Fault = { __name = "crucible.jinja.fault" }

--- Raises a fault; `line` nil = the place is found by whoever catches it.
---@param code string
---@param line integer?
---@param format string
---@param ... any  of string.format
function fault.raise(code, line, format, ...)
  error(setmetatable({ code = code, message = format:format(...), line = line }, Fault), 0)
end

--- Whether a raised value is a fault.
---@param value any
---@return boolean
function fault.is(value) return getmetatable(value) == Fault end

--- A text of a template, short and on one line, for messages.
---@param text string
---@return string
function fault.show(text)
  if #text > 60 then text = text:sub(1, 57):gsub("[\x80-\xBF]*$", "") .. "..." end
  return (text:gsub("%c", function(char) return ("\\x%02x"):format(char:byte()) end))
end

return fault
