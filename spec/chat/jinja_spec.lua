-- The language of templates, beside what jinja2 makes of the same sources (scripts/make_template_fixtures.py).
local expect = require "spec.support.expect"
local jinja = require "crucible.jinja"
local json = require "crucible.json"

local function read(name)
  local file <close> = assert(io.open("spec/fixtures/chat/" .. name, "rb"))
  return assert(json.decode(file:read "a"))
end

local language = read "language.json"

-- What jinja2 gives and crucible refuses with "unsupported", on purpose.
local lacking = {
  ["{{ u|upper|length }}"] = true,
}

local function rendered(source, given)
  local template, message, code = jinja.compile(source)
  if not template then return nil, message, code end
  return template:render(given or {})
end

describe("a template", function()
  for _, case in ipairs(language.cases) do
    local source, expected = case[1], case[2]
    it("gives what Jinja gives: " .. source:gsub("%c", " "):sub(1, 100), function()
      local text, message, code = rendered(source, language.given)
      if lacking[source] then
        assert.equal("unsupported", code)
      elseif expected then
        assert.equal(expected, text, message)
      else
        assert.is_nil(text)
        assert.truthy(code == "format" or code == "data" or code == "unsupported", code)
        assert.truthy(message:find "^template")
      end
    end)
  end

  it("names the line of what it refuses", function()
    expect.fails("format", "template line 3: unknown filter 'trimm'; did you mean \"trim\"?",
      rendered "a\n\n{{ x | trimm }}")
    expect.fails("format", "template line 2: unknown test 'defind'; did you mean \"defined\"?",
      rendered "a\n{{ x is defind }}")
    expect.fails("format", "template line 2: unknown statement 'fro'; did you mean \"for\"?",
      rendered "a\n{% fro x in y %}")
    expect.fails("unsupported", "template line 2: the statement 'include' is not supported",
      rendered "a\n{% include 'b' %}")
    expect.fails("format", "template line 4: 'x' is undefined", rendered "a\n{% if true %}\n\n{{ x.y }}{% endif %}")
    expect.fails("format", "template line 1: a tag does not end: expected '%}'", rendered "{% if x")
  end)

  it("refuses what it lacks only where it is reached", function()
    assert.equal("ok", rendered "{% if false %}{{ x | groupby('a') }}{% endif %}ok")
    expect.fails("unsupported", "line 2: the filter 'groupby' is not supported", rendered "\n{{ x | groupby('a') }}")
    expect.fails("unsupported", "the method format() of a str is not supported", rendered "{{ '{}'.format(1) }}")
    expect.fails("unsupported", "formatting a str by % is not supported", rendered "{{ '%s' % 1 }}")
    expect.fails("unsupported", "upper() is supported on ASCII text alone", rendered "{{ 'é'.upper() }}")
  end)

  it("says what a template raises", function()
    expect.fails("data", "template line 1: roles must alternate",
      rendered "{{ raise_exception('roles must alternate') }}")
  end)

  it("tells a day that does not change, or the one that is asked for", function()
    local template = assert(jinja.compile "{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %Y %-d %B %%') }}")
    assert.equal("2024-07-26 00:00:00 26 Jul 2024 26 July %", template:render {})
    local others = assert(jinja.compile "{{ strftime_now('%A %a %j %I %p %y %e %F %T %w') }}")
    assert.equal("Friday Fri 208 12 AM 24 26 2024-07-26 00:00:00 5", others:render {})
    assert.equal("Saturday Sat 365 11 PM 22 31 2022-12-31 23:59:58 6", (others:render({}, { now = 1672531198 })))
    assert.equal("1970-01-02 00:00:01 02 Jan 1970 2 January %", template:render({}, { now = 86401 }))
    expect.fails("unsupported", "strftime_now: '%Q' is not supported", rendered "{{ strftime_now('%Q') }}")
  end)

  it("takes the keys of a message in the order people write them", function()
    assert.equal('{"role": "user", "content": "x", "name": "n"}',
      rendered("{{ m | tojson }}", { m = { name = "n", content = "x", role = "user" } }))
    assert.equal("[][]{}", rendered("{{ a }}{{ a | tojson }}{{ b }}", { a = json.array {}, b = {} }))
    assert.equal("None", rendered("{{ a }}", { a = json.null }))
  end)

  it("keeps bytes that are no UTF-8", function()
    assert.equal("\xFF\xFEa|2|\xFE", rendered("{{ x }}a|{{ x|length }}|{{ x[1] }}", { x = "\xFF\xFE" }))
  end)

  it("does not change what it is given", function()
    local given = { list = { 1, 2 } }
    rendered("{% set list = list + [3] %}{{ list }}", given)
    assert.same({ list = { 1, 2 } }, given)
  end)

  it("refuses what is no template or no value", function()
    expect.raises("expected the text of a template, got a number", jinja.compile, 5)
    expect.fails("format", "a template cannot be given a function", rendered("{{ x }}", { x = print }))
  end)
end)
