-- JSON texts as Lua values.
local core = require "crucible.core"
local expect = require "spec.support.expect"

local null = core.decode_json "null"

describe("decode_json", function()
  it("gives values of every kind", function()
    assert.same({ a = { 1, -2, 2.5, 1e300 }, b = { c = true, d = false }, e = "ä\n", f = {} },
      core.decode_json [[{"a": [1, -2, 2.5, 1e300], "b": {"c": true, "d": false}, "e": "\u00e4\n", "f": {}}]])
    assert.equal("integer", math.type(core.decode_json "9007199254740993"))
    assert.equal(9007199254740993, core.decode_json "9007199254740993")
    assert.equal("float", math.type(core.decode_json "1.0"))
    assert.equal("userdata", type(null))
    assert.equal(null, core.decode_json "[null]"[1])
    assert.equal("text", core.decode_json '"text"')
  end)

  it("takes the later of two values for one key", function()
    assert.same({ a = 2 }, core.decode_json '{"a": 1, "a": 2}')
  end)

  it("refuses what is no JSON, and says where", function()
    for _, text in ipairs { "", "{", "[1,]", "nul", "01", "'a'", "1 2", "\"\xff\"", ("["):rep(300) } do
      local value, message, code = core.decode_json(text)
      expect.fails("format", "", value, message, code)
      assert.truthy(message:find "byte %d" or message:find "%d", message)
    end
    expect.raises("string expected", core.decode_json, {})
  end)

  it("leaves the text as it is", function()
    local text = '"a\\u0062c"'
    assert.equal("abc", core.decode_json(text))
    assert.equal('"a\\u0062c"', text)
  end)
end)
