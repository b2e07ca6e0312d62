-- Tokenising many texts, and files of tokens, when memory runs out at any point: an error each time, nothing lost.
local core = require "crucible.core"
local expect = require "spec.support.expect"
local temp = require "spec.support.temp"

local has_debug, debugging = pcall(require, "crucible.core.debug")
local KEY = ("0f"):rep(32)

describe("With failing allocations", function()
  if not has_debug then
    pending("needs a debug build")
    return
  end
  after_each(temp.clean)

  -- Runs a call with its 1st, 2nd, 3rd … allocation failing until it succeeds; how often it failed.
  local function starve(call)
    local failures, nth, done = 0, 0, false
    collectgarbage()
    local _, live = debugging.memory_count()
    repeat
      nth = nth + 1
      debugging.memory_fail_at(nth)
      local got, message, code = call()
      debugging.memory_fail_at(0)
      if got then
        done = true
        if type(got) == "userdata" then got:close() end
      else
        expect.fails("memory", "", got, message, code)
        failures = failures + 1
      end
      got = nil -- luacheck: ignore 311
      collectgarbage()
      assert.equal(live, select(2, debugging.memory_count()))
    until done
    return failures
  end

  it("texts encoded at once are all there or none", function()
    local model <close> = assert(core.open_model "spec/fixtures/tiny/tiny.gguf")
    local tokenizer = model:tokenizer()
    local texts = { "one two", ("e"):rep(500), "", "three" }
    assert.truthy(starve(function() return tokenizer:encode_all(texts, true, 1) end) > 5)
    local ids = tokenizer:encode "some \xff text"
    assert.truthy(starve(function() return tokenizer:ends(ids) end) >= 1)
  end)

  it("a file of tokens is whole or not there", function()
    local path = temp.folder() .. "/rows.tokens"
    local function write()
      local writer <close>, message, code = core.write_tokens()
      if not writer then return nil, message, code end
      for i = 1, 3 do
        local ok
        ok, message, code = writer:add { tokens = { i, i }, weights = { 1 } }
        if not ok then return nil, message, code end
      end
      return writer:commit(path, KEY, {})
    end
    assert.truthy(starve(write) > 4)
    assert.truthy(starve(function() return core.open_tokens(path, KEY) end) >= 1)
    local file <close> = assert(core.open_tokens(path, KEY))
    assert.equal(3, #file)
  end)
end)
