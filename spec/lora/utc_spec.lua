-- Dates without the host's help.
local utc = require "crucible.utc"

describe("utc", function()
  it("writes moments as the C library does, over four centuries", function()
    for day = -40000, 110000, 97 do
      local seconds = day * 86400 + (day * 7919) % 86400
      assert.equal(os.date("!%Y-%m-%dT%H:%M:%SZ", seconds), utc.text(seconds))
    end
    for _, seconds in ipairs { 0, -1, 951782399, 951782400, 951868800, 4107542399, 4107542400 } do
      assert.equal(os.date("!%Y-%m-%dT%H:%M:%SZ", seconds), utc.text(seconds))
    end
  end)

  it("reads back what it writes", function()
    for seconds = -3e9 // 1, 9e9 // 1, 123456789 do
      seconds = math.tointeger(seconds)
      local fields = { utc.text(seconds):match "^(%-?%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)Z$" }
      for i, text in ipairs(fields) do fields[i] = math.tointeger(tonumber(text)) end
      assert.equal(seconds, utc.seconds(table.unpack(fields)))
    end
  end)

  it("knows what time it is", function()
    local before = os.time()
    local now = utc.time()
    assert.is_true(now >= before and now <= os.time())
    assert.equal("integer", math.type(now))
  end)
end)
