-- What a call that must not succeed does: raise, or return nil, message, code.
local assert = require "luassert"
local errors_seen = require "spec.support.errors_seen"

local expect = {}

--- Calls f(...), which must raise a message that holds `text`.
---@param text string
---@param f function
function expect.raises(text, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok, "expected an error with: " .. text)
  assert.is_string(message)
  errors_seen.note(message)
  assert.truthy(message:find(text, 1, true), ("expected %q in: %s"):format(text, message))
end

--- Checks the results of a call that failed: nil, a message that holds `text`, the code.
---@param code string
---@param text string
function expect.fails(code, text, result, message, found)
  assert.is_nil(result)
  assert.equal(code, found, message)
  errors_seen.note(message)
  assert.truthy(message:find(text, 1, true), ("expected %q in: %s"):format(text, message))
end

return expect
