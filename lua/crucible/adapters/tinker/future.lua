-- What a remote call will have given: `future:wait()` blocks (or yields, in a coroutine host) until it is
-- there and returns it, or nil, message, code; `future:ready()` says whether wait would return at once.
local errors = require "crucible.errors"

---@class crucible.tinker.Future
---@field state "pending"|"done"|"failed"
---@field value any
---@field message string?
---@field code string?
---@field listener fun()?  hears when it is settled
local Future = { __name = "crucible.future" }
Future.__index = Future

local future = {}

--- A future that somebody will settle. `host` turns the loop: turn(condition) → true, or nil, message, code;
--- and peek() moves what can be moved without waiting.
---@param host { turn: function, peek: function }
---@return crucible.tinker.Future
function future.new(host) return setmetatable({ host = host, state = "pending" }, Future) end

--- One that is settled already.
---@param value any
---@return crucible.tinker.Future
function future.of(value) return setmetatable({ state = "done", value = value }, Future) end

--- Settles it with a value; a second time is ignored.
---@param value any
function Future:resolve(value)
  if self.state ~= "pending" then return end
  self.state, self.value = "done", value
  if self.listener then self.listener() end
end

--- Settles it with a failure; a second time is ignored.
---@param message string
---@param code string
function Future:fail(message, code)
  if self.state ~= "pending" then return end
  self.state, self.message, self.code = "failed", message, code
  if self.listener then self.listener() end
end

--- Makes it pending again: what it was settled with does not hold any more.
function Future:reset()
  self.state, self.value, self.message, self.code = "pending", nil, nil, nil
end

-- Of one that is made of others: works out its value once they are all there.
local function derive(self)
  for _, source in ipairs(self.sources) do
    if source.state == "failed" then return self:fail(source.message, source.code) end
  end
  local values = {}
  for i, source in ipairs(self.sources) do values[i] = source.value end
  local value, message, code = self.make(values)
  if message then return self:fail(message, code) end
  self:resolve(value)
end

local function settled(self)
  if self.state ~= "pending" then return true end
  if not self.sources then return false end
  local all = true
  for _, source in ipairs(self.sources) do
    if not settled(source) then all = false end
  end
  if not all then return false end
  derive(self)
  return true
end

--- Whether wait would return at once. Moves what can be moved, without waiting.
---@return boolean
function Future:ready()
  if not settled(self) and self.host then self.host.peek() end
  return settled(self)
end

--- The value; nil, message, code for a failure. Raises what `make` of a derived one raises.
---@return any value, string? message, string? code
function Future:wait()
  if not settled(self) then
    local ok, message, code = self.host.turn(function() return settled(self) end)
    if not ok then return nil, message, code end
  end
  if self.state == "failed" then return nil, self.message, self.code end
  return self.value
end

--- One whose value `make` works out of the values of others, when it is asked for: make(values) → value, or nil,
--- message, code.
---@param sources crucible.tinker.Future[]
---@param make fun(values: any[]): any, string?, string?
---@return crucible.tinker.Future
function future.all(sources, make)
  if #sources == 0 then return future.of((make {})) end
  return setmetatable({ host = sources[1].host, state = "pending", sources = sources, make = make }, Future)
end

--- True for what this module makes.
---@param value any
---@return boolean
function future.is(value) return getmetatable(value) == Future end

function Future:__tostring() return ("crucible.future(%s)"):format(self.state) end

-- A future is no list and no value: to take it for one is a mistake that would go far.
function Future.__len() errors.raise("this is a future: call :wait() for its value") end

return future
