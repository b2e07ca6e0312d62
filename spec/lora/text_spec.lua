-- Text helpers: streams with stop texts, JSON, tables and charts, orders of rows, names of models.
local expect = require "spec.support.expect"
local json = require "crucible.json"
local models = require "crucible.models"
local paths = require "crucible.paths"
local random = require "crucible.random"
local temp = require "spec.support.temp"
local terminal = require "crucible.terminal"
local text_stream = require "crucible.text_stream"

describe("a text stream", function()
  local function feed(stops, ...)
    local stream, released = text_stream.new(stops), {}
    for i, piece in ipairs { ... } do released[i] = stream:push(piece) end
    released[#released + 1] = stream:finish()
    return stream, table.concat(released, "|")
  end

  for _, case in ipairs {
    { "passes text through", {}, { "ab", "c" }, "ab|c|", "abc", false },
    { "stops inside a piece", { "\n" }, { "ab", "c\nd", "e" }, "ab|c||", "abc", true },
    { "finds a stop text split across pieces", { "END" }, { "aE", "N", "Db" }, "a|||", "a", true },
    { "releases what only looked like one", { "END" }, { "aE", "N", "X" }, "a||ENX|", "aENX", false },
    { "takes the earliest of several", { "yy", "x" }, { "a", "bxyy" }, "a|b|", "ab", true },
    { "lets a stop text begin again inside itself", { "aab" }, { "aa", "ab", "c" }, "|a||", "a", true },
    { "holds back half a character", {}, { "\xC3", "\xA9!" }, "|é!|", "é!", false },
    { "releases bytes that never become one", {}, { "a\xE2\x82" }, "a|\xE2\x82", "a\xE2\x82", false },
    { "holds both at once", { "€x" }, { "\xE2\x82", "\xAC", "x" }, "|||", "", true },
    { "gives held text back at the end", { "END" }, { "aEN" }, "a|EN", "aEN", false },
  } do
    it(case[1], function()
      local stream, released = feed(case[2], table.unpack(case[3]))
      assert.equal(case[4], released)
      assert.equal(case[5], stream.text)
      assert.equal(case[6], stream.stopped)
    end)
  end
end)

describe("json", function()
  for _, case in ipairs {
    { { b = 1, a = { 1, 2.5 } }, '{"a":[1,2.5],"b":1}' },
    { {}, "{}" },
    { json.array {}, "[]" },
    { { 0.1, 1 / 3, 1e300, 2.0, -0.0, 5 }, "[0.1,0.3333333333333333,1e+300,2,-0,5]" },
    { { 0 / 0, math.huge }, "[null,null]" },
    { 'a"\\\n\1é', [["a\"\\\n\u0001é"]] },
    { "a\xFFb", '"a\u{FFFD}b"' },
    { { json.null, true, false }, "[null,true,false]" },
    { { [3] = "x", k = 1 }, '{"3":"x","k":1}' },
  } do
    it("writes " .. case[2], function() assert.equal(case[2], json.encode(case[1])) end)
  end

  it("keeps whole numbers integers and floats exact", function()
    local value = assert(json.decode '{"id": 13734012, "rate": 0.1, "list": [1, 2.5], "none": null}')
    assert.equal("integer", math.type(value.id))
    assert.equal("integer", math.type(value.list[1]))
    assert.equal(0.1, value.rate)
    assert.equal(json.null, value.none)
    for _, x in ipairs { 1 / 3, 5e-324, 1.7976931348623157e308, 0.1 + 0.2 } do
      assert.equal(x, json.decode(json.encode { x })[1])
    end
  end)

  it("says what is not JSON", function()
    expect.fails("format", "not JSON", json.decode "{")
    expect.fails("format", "not JSON", json.decode "[Infinity]")
    expect.fails("format", "not JSON", json.decode(("["):rep(5000)))
    expect.raises("a function has no JSON form", json.encode, { print })
  end)

  it("is read by people with one key a line", function()
    assert.equal('{\n  "a": {\n    "b": [1, 2]\n  }\n}\n', json.encode_pretty { a = { b = { 1, 2 } } })
  end)
end)

describe("terminal text", function()
  it("sets tables with words left and numbers right", function()
    assert.equal("name    value\n──────  ─────\nbefore  0.500\né          12\n",
      terminal.table({ "name", "value" }, { { "before", 0.5 }, { "é", 12 } }))
  end)

  it("draws bars in eighths", function()
    assert.equal("██  ", terminal.bar(0.5, 4))
    assert.equal("▌", terminal.bar(0.5, 1))
    assert.equal("    ", terminal.bar(-1, 4))
    assert.equal("████", terminal.bar(2, 4))
  end)

  it("draws charts from 0 to the highest, condensed to their width", function()
    local drawn = "       4 │█   \n         │█▄  \n         │██▄ \n       0 │███▄\n         └────\n          1  8\n"
    assert.equal(drawn,
      terminal.chart({ 4, 4, 2.5, 2.5, 1.5, 1.5, 0.5, 0.5 }, { width = 4, height = 4 }))
    assert.equal("(no values)\n", terminal.chart({ 0 / 0 }))
  end)

  it("says durations", function()
    assert.equal("42 s", terminal.duration(42))
    assert.equal("3:07", terminal.duration(187))
    assert.equal("2:05:09", terminal.duration(7509))
  end)
end)

describe("an order of rows", function()
  it("is a permutation and a function of seed and stream alone", function()
    local order = random.permutation(1000, 7, 1)
    local seen = {}
    for _, i in ipairs(order) do seen[i] = true end
    assert.equal(1000, #seen)
    assert.same(order, random.permutation(1000, 7, 1))
    assert.not_same(order, random.permutation(1000, 7, 2))
    assert.not_same(order, random.permutation(1000, 8, 1))
    assert.same({ 5, 4, 2, 3, 1 }, random.permutation(5, 0, 1)) -- checkpoints rely on it staying so
  end)

  it("puts each row at each place equally often", function()
    local counts = { 0, 0, 0, 0 }
    for seed = 1, 4000 do
      local order = random.permutation(4, seed, 0)
      counts[order[1]] = counts[order[1]] + 1
    end
    for _, count in ipairs(counts) do assert.is_true(math.abs(count - 1000) < 120, tostring(count)) end
  end)
end)

describe("models", function()
  after_each(temp.clean)

  it("are known by name and found by path", function()
    local path = temp.file(temp.folder(), "m.gguf", "x")
    assert.equal(path, models.resolve(path))
    assert.equal("HuggingFaceTB/SmolLM2-135M-Instruct", models.find("SmolLM2-135M-Instruct").hub)
    local cached = models.cached_path(models.find "smollm2-135m-instruct")
    assert.equal("SmolLM2-135M-Instruct.Q4_1.gguf", paths.basename(cached))
    assert.equal("smollm2-135m-instruct", models.find(cached).name)
  end)

  it("say what is missing and what would help", function()
    expect.fails("not_found", 'unknown model "smollm2-135m"; did you mean "smollm2-135m-instruct"?',
      models.resolve "smollm2-135m")
    expect.fails("not_found", 'unknown model "llama-3-8"; did you mean "llama-3-8b"?', models.resolve "llama-3-8")
    expect.fails("not_found", 'fetch it (4.9 GB) by models.fetch("llama-3-8b")', models.resolve "llama-3-8b")
    expect.fails("not_found", "./none.gguf: no such file, nor a folder", models.resolve "./none.gguf")
    local known = models.cached_path(models.find "smollm2-135m-instruct")
    if not paths.is_file(known) then
      expect.fails("not_found", "run: scripts/fetch_model smollm2-135m-instruct",
        models.resolve("smollm2-135m-instruct", { download = false }))
    end
  end)
end)

describe("paths", function()
  it("join, split and stay absolute", function()
    assert.equal("a/b", paths.join("a/", "b"))
    assert.equal("/b", paths.join("a", "/b"))
    assert.equal("c.txt", paths.basename "a/b/c.txt")
    assert.equal("a/b", paths.dirname "a/b/c.txt")
    assert.equal(".", paths.dirname "c.txt")
    assert.equal("/", paths.dirname "/c.txt")
  end)
end)
