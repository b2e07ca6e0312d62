-- One rendering: what it may use, and what it has used. A template is a program by a stranger; steps bound its
-- time, bytes made bound its memory, and the depth of nesting bounds the stack.
local fault = require "crucible.jinja.fault"

local run = {}

---@class crucible.jinja.Limits
---@field steps integer   nodes evaluated, items visited, stretches of text looked through
---@field bytes integer   made in all, kept or not: never more than that is held
---@field depth integer   expressions, loops, conditions and macros within one another
---@field output integer  bytes of the text

--- What a template may use unless told otherwise: about a second, 128 MB.
---@type crucible.jinja.Limits
run.limits = { steps = 4000000, bytes = 1 << 27, depth = 400, output = 1 << 25 }

---@class crucible.jinja.Run
---@field limits crucible.jinja.Limits
---@field now integer    time of strftime_now, seconds since 1970 (UTC)
---@field line integer?  where the template is
---@field out string[]   parts of the text that is being made
---@field out_bytes integer
local Run = {}
Run.__index = Run

---@param limits crucible.jinja.Limits
---@param now integer
---@return crucible.jinja.Run
function run.new(limits, now)
  return setmetatable({
    limits = limits, now = now, steps_used = 0, bytes_used = 0, depth = 0, out = {}, out_bytes = 0,
  }, Run)
end

--- Counts steps.
---@param steps number
function Run:work(steps)
  self.steps_used = self.steps_used + steps
  if self.steps_used > self.limits.steps then
    fault.raise("format", self.line, "the template takes more than %d steps: is there a loop that does not end?",
      self.limits.steps)
  end
end

--- Counts bytes about to be made; raises before they are.
---@param count number
function Run:bytes(count)
  self.bytes_used = self.bytes_used + count
  if self.bytes_used > self.limits.bytes then
    fault.raise("format", self.line, "the template makes more than %d bytes of values", self.limits.bytes)
  end
end

--- Counts a text that was made and the time it took; returns it.
---@param text string
---@return string
function Run:made(text)
  self:bytes(#text + 40)
  self:work(#text / 64)
  return text
end

--- Counts the search for a text in another. Lua compares at each place where the first byte stands, which
--- takes the product of both lengths when all bytes are alike.
---@param text string
---@param sought string
function Run:searched(text, sought) self:work(#text / 64 + #text * (#sought // 64) / 256) end

--- Calls a function one level deeper.
---@param inner fun(run: crucible.jinja.Run, ...): any
---@param ... any
---@return any
function Run:nested(inner, ...)
  self.depth = self.depth + 1
  if self.depth > self.limits.depth then
    fault.raise("format", self.line, "the template nests deeper than %d levels", self.limits.depth)
  end
  local value = inner(self, ...)
  self.depth = self.depth - 1
  return value
end

--- Writes to the text.
---@param text string
function Run:write(text)
  self.out_bytes = self.out_bytes + #text
  if self.out_bytes > self.limits.output then
    fault.raise("format", self.line, "the template writes more than %d bytes", self.limits.output)
  end
  self:work(#text / 64)
  self:bytes(40) -- the text itself exists already: only its place in the list is new
  self.out[#self.out + 1] = text
end

--- Calls a function and returns what it writes instead of writing it.
---@param inner fun(...): any
---@param ... any
---@return string
function Run:captured(inner, ...)
  local out, bytes = self.out, self.out_bytes
  self.out, self.out_bytes = {}, 0
  inner(...)
  local text = table.concat(self.out)
  self.out, self.out_bytes = out, bytes
  return self:made(text)
end

return run
