-- The trained matrices by name.

local expect = require "spec.support.expect"
local bind = require "spec.support.bind"

describe("Session parameters", function()
  local session, first

  before_each(function()
    session = bind.session()
    first = session:parameters()[1]
  end)

  after_each(function() session:close() end)

  it("stand in order of depth, then projection, A before B", function()
    local model <close> = bind.model()
    local info = model:info()
    local parameters = session:parameters()
    assert.equal(info.layers * 2 * 2, #parameters)
    for i, parameter in ipairs(parameters) do
      local layer, place = (i - 1) // 4 + 1, (i - 1) % 4
      assert.equal(layer, parameter.layer)
      assert.equal(place < 2 and "q_proj" or "v_proj", parameter.target)
      local matrix = place % 2 == 0 and "lora_A" or "lora_B"
      assert.equal(("layers.%d.self_attn.%s.%s"):format(layer - 1, parameter.target, matrix), parameter.name)
      assert.equal(4, place % 2 == 0 and parameter.rows or parameter.columns)
    end
    assert.equal(info.width, first.columns)
  end)

  it("are read as flat lists: A drawn at random, B zero", function()
    local values = session:read(first.name)
    assert.equal(first.rows * first.columns, #values)
    assert.truthy(values[1] ~= values[2])
    for _, value in ipairs(session:read(session:parameters()[2].name)) do assert.equal(0, value) end
  end)

  it("are written and read back, each of the four arrays by itself", function()
    for scale, which in ipairs({ "value", "gradient", "moment1", "moment2" }) do
      local values = {}
      for i = 1, first.rows * first.columns do values[i] = scale * i / 8 end
      session:write(first.name, values, which)
      assert.same(values, session:read(first.name, which))
    end
    assert.equal(1 / 8, session:read(first.name)[1])
  end)

  it("have a norm", function()
    local values = {}
    for i = 1, first.rows * first.columns do values[i] = 0 end
    values[1], values[#values] = 3, -4
    session:write(first.name, values)
    assert.equal(5, session:norm(first.name))
    assert.equal(0, session:norm(first.name, "gradient"))
  end)

  it("stay as they are when a list is refused", function()
    local before = session:read(first.name)
    local values = session:read(first.name)
    values[1], values[#values] = 100, 0 / 0
    local count = #values
    expect.raises("values[" .. count .. "]: expected a finite number", session.write, session, first.name, values)
    values[#values] = nil
    expect.raises(("values: expected %d numbers, got %d"):format(count, count - 1), session.write, session,
      first.name, values)
    expect.raises("values: expected a list, got nil", session.write, session, first.name)
    assert.same(before, session:read(first.name))
  end)

  it("are refused by name", function()
    for _, name in ipairs({ "read", "write", "norm" }) do
      expect.raises("no parameter is named 'layers.99.x'", session[name], session, "layers.99.x")
    end
    expect.raises("invalid option 'momentum'", session.read, session, first.name, "momentum")
    expect.raises("string expected", session.norm, session)
  end)
end)
