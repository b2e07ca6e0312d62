-- Templates in the constructs of published families, on conversations of every kind, beside what transformers renders
-- (scripts/make_template_fixtures.py).
local jinja = require "crucible.jinja"
local json = require "crucible.json"

local function read(name)
  local file <close> = assert(io.open("spec/fixtures/chat/" .. name, "rb"))
  return assert(json.decode(file:read "a"))
end

local fixture = read "families.json"

local function given(messages, opens)
  local values = { messages = messages, tools = json.null, documents = json.null, add_generation_prompt = opens }
  for name, text in pairs(fixture.tokens) do values[name] = text end
  return values
end

-- What transformers renders: text, and with the assistant's turn opened; nil where the template refuses.
local function expected(row)
  if row == json.null then return nil end
  return row[1], type(row[2]) == "table" and row[2].whole or row[1] .. row[2]
end

describe("a chat template", function()
  it("has thirty conversations to render", function() assert.equal(30, #fixture.conversations) end)

  for _, family in ipairs(fixture.families) do
    it("of the family " .. family.name .. " is rendered as transformers renders it", function()
      local template = assert(jinja.compile(family.source))
      for i, messages in ipairs(fixture.conversations) do
        local closed, opened = expected(family.rows[i])
        local text, message, code = template:render(given(messages, false))
        assert.equal(closed, text, message)
        if not closed then assert.equal("data", code) end
        assert.equal(opened, (template:render(given(messages, true))))
      end
    end)
  end
end)
