-- Option tables: defaults, refusals, help; and the same options from a program's arguments.
local arguments = require "crucible.arguments"
local expect = require "spec.support.expect"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local function sample()
  return schema.new("make", {
    { name = "rank", default = 4, check = schema.integer { min = 1 }, doc = "size" },
    { name = "rate", default = 0.5, check = schema.number { above = 0, below = 1 }, doc = "speed" },
    { name = "kind", default = "plain", check = schema.one_of { "plain", "fancy" }, doc = "sort" },
    { name = "names", default = { "a" }, check = schema.list(schema.nonempty_string), doc = "who" },
    { name = "loud", default = false, check = schema.boolean, doc = "noise" },
    { name = "path", check = schema.string, doc = "where" },
  })
end

describe("an option table", function()
  local options = sample()

  it("fills in defaults and keeps what is given, false included", function()
    local resolved = options:resolve { rank = 8.0, loud = false }
    assert.same({ rank = 8, rate = 0.5, kind = "plain", names = { "a" }, loud = false }, resolved)
    assert.equal("integer", math.type(resolved.rank))
  end)

  it("gives each caller a default table of its own", function()
    options:resolve({}).names[1] = "changed"
    assert.same({ "a" }, options:resolve({}).names)
  end)

  for _, case in ipairs {
    { { rnak = 1 }, 'make: unknown option "rnak"; did you mean "rank"?' },
    { { zzzzzzzz = 1 }, 'unknown option "zzzzzzzz"; known: rank, rate, kind, names, loud, path' },
    { { 5 }, "make: options are named, got one without a name at 1" },
    { { rank = 0 }, "make: rank must be an integer of at least 1, got 0" },
    { { rank = 1.5 }, "rank must be an integer of at least 1, got 1.5" },
    { { rank = "4" }, 'got "4"' },
    { { rate = 0 }, "rate must be a number above 0 and below 1, got 0" },
    { { rate = 0 / 0 }, "rate must be a number" },
    { { rate = math.huge }, "rate must be a number" },
    { { kind = "odd" }, 'kind must be one of "plain", "fancy", got "odd"' },
    { { names = {} , loud = 1 }, "loud must be true or false, got 1" },
    { { names = { "a", "" } }, "names must be a list, each member a string that is not empty, got a table" },
    { { names = { a = 1 } }, "names must be a list" },
    { { path = {} }, "path must be a string, got an empty table" },
    { "rank", 'make: expected a table of options, got "rank"' },
  } do
    it("refuses: " .. case[2], function()
      expect.raises(case[2], options.resolve, options, case[1])
    end)
  end

  it("blames the line that called the library", function()
    local config = require "crucible.lora.config"
    local ok, message = pcall(function() config.new { lora_rank = 0 } end)
    assert.is_false(ok)
    assert.truthy(message:find("schema_spec.lua:", 1, true), message)
  end)

  it("prints its help from the same entries", function()
    local help = options:help()
    assert.truthy(help:find("rank = 4\n      size (an integer of at least 1)", 1, true))
    assert.truthy(help:find("path = -", 1, true))
  end)
end)

describe("a program's arguments", function()
  local options = sample()

  it("are read by the schema", function()
    local resolved = arguments.parse(options, { "--rank", "8", "--rate=0.25", "--names", "x,y", "--loud" })
    assert.same({ rank = 8, rate = 0.25, kind = "plain", names = { "x", "y" }, loud = true }, resolved)
    assert.is_false(arguments.parse(options, { "--no-loud" }).loud)
  end)

  for _, case in ipairs {
    { { "--rnak", "1" }, 'unknown option --rnak; did you mean "--rank"?' },
    { { "--rank", "many" }, "--rank must be an integer of at least 1, got many" },
    { { "--rank" }, "--rank needs a value" },
    { { "plain" }, "unexpected argument: plain" },
  } do
    it("are refused: " .. case[2], function()
      expect.fails("argument", case[2], arguments.parse(options, case[1]))
    end)
  end
end)

describe("a suggestion", function()
  it("is the nearest word, or none when nothing is near", function()
    assert.equal("lora_rank", suggest.nearest("lora_rnk", { "lora_alpha", "lora_rank" }))
    assert.equal("q_proj", suggest.nearest("Q_proj", { "q_proj", "k_proj" }))
    assert.is_nil(suggest.nearest("banana", { "lora_alpha", "lora_rank" }))
  end)
end)
