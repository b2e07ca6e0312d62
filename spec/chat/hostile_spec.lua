-- Templates that do not end, grow or dig: one clear error, in bounded time and memory.
local hostile = require "spec.support.hostile_templates"
local jinja = require "crucible.jinja"

local codes = { format = true, unsupported = true, data = true }

local function sorted_names()
  local names = {}
  for name in pairs(hostile) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- Steps and bytes a hundredth of the usual ones: what is bounded by them is bounded by their size.
local small = { steps = 100000, bytes = 1 << 22, depth = jinja.limits.depth, output = 1 << 20 }

describe("a hostile template", function()
  for _, name in ipairs(sorted_names()) do
    it("ends: " .. name, function()
      collectgarbage()
      collectgarbage()
      local before = collectgarbage "count"
      local template, message, code = jinja.compile(hostile[name])
      local text
      if template then text, message, code = template:render({ row = {} }, { limits = small }) end
      local held = collectgarbage "count" - before
      assert.truthy(text or codes[code], code)
      if not text then assert.is_nil(message:find "\n") end
      assert.truthy(held < 128 * 1024, held)
    end)
  end

  it("ends within the usual limits #slow", function()
    for _, name in ipairs(sorted_names()) do
      local template, _, code = jinja.compile(hostile[name])
      local text
      if template then text, _, code = template:render { row = {} } end
      assert.truthy(text or codes[code], name)
    end
  end)

  it("says which limit it met", function()
    local function message_of(source)
      local template, why = jinja.compile(source)
      if not template then return why end
      return (select(2, template:render({}, { limits = small })))
    end
    assert.equal("template line 2: the template takes more than 100000 steps: is there a loop that does not end?",
      message_of "\n{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    assert.equal("template line 1: the template makes more than 4194304 bytes of values",
      message_of "{{ 'a' * 10000000 }}")
    assert.equal("template line 1: the template nests deeper than 400 levels",
      message_of "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")
    assert.equal("template line 1: the template nests deeper than 100 levels",
      message_of("{{ " .. ("("):rep(200) .. "1" .. (")"):rep(200) .. " }}"))
    assert.equal("template line 1: the template writes more than 1048576 bytes",
      message_of("{% for i in range(2000) %}" .. ("a"):rep(1000) .. "{% endfor %}"))
  end)
end)
