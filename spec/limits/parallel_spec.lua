-- The pool of threads under many short loops. In builds with crucible.core.debug alone.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local expect = require "spec.support.expect"

describe("a parallel loop", function()
  it("runs every task once at any number of threads (it once waited for every thread to wake up)", function()
    for threads = 1, 5 do
      for _, count in ipairs({ 0, 1, 2, 3, 37 }) do assert.equal(0, native.parallel(threads, count, 1000)) end
    end
  end)

  it("is refused with fewer threads than one or more than can be", function()
    expect.fails("argument", "threads must be 1 to 256, got -1", native.parallel(-1, 2, 1))
    expect.fails("argument", "threads must be 1 to 256, got 257", native.parallel(257, 2, 1))
  end)
end)
