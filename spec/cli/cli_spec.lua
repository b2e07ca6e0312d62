-- The program `crucible`: commands, options, messages, exit codes.
local arguments = require "crucible.arguments"
local cli = require "crucible.cli"
local schema = require "crucible.schema"
local shell = require "spec.support.shell"
local streams = require "spec.support.streams"

local function run(...)
  local out, err = streams.new(), streams.new()
  local code = cli.main({ ... }, { out = out, err = err })
  return code, out.text(), err.text()
end

-- A command for these specs: it says what it was given.
local sample = {
  summary = "says what it was given",
  usage = "[options] FIRST [MORE …]",
  description = "Nothing else.",
  options = schema.new("crucible sample", {
    { name = "first", positional = true, required = true, check = schema.nonempty_string, doc = "a word" },
    { name = "more", positional = true, default = {}, check = schema.list(schema.string), doc = "more words" },
    { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows" },
    { name = "loud", default = false, check = schema.boolean, doc = "in capitals" },
    { name = "kinds", default = { "a", "b" }, check = schema.list(schema.string), doc = "a list" },
  }),
}

describe("the program crucible", function()
  local commands, answer

  before_each(function()
    commands, cli.commands = cli.commands, { "sample", "elsewhere" }
    package.loaded["crucible.cli.sample"] = sample
    package.loaded["crucible.cli.elsewhere"] = { summary = "goes", options = schema.new("crucible elsewhere", {}) }
    answer = function() end
    sample.run = function(given, out) return answer(given, out) end
  end)
  after_each(function()
    cli.commands = commands
    package.loaded["crucible.cli.sample"], package.loaded["crucible.cli.elsewhere"] = nil, nil
  end)

  it("lists its commands and exit codes", function()
    local code, out = run "--help"
    assert.equal(0, code)
    for _, part in ipairs { "sample", "says what it was given", "elsewhere", "exit codes:", "130  interrupted" } do
      assert.truthy(out:find(part, 1, true), part)
    end
    assert.same({ 0, out, "" }, { run "help" })
    assert.same({ 0, out, "" }, { run "-h" })
  end)

  it("has a help text for each command, from its schema", function()
    local code, out = run("sample", "--help")
    assert.equal(0, code)
    for _, part in ipairs { "usage: crucible sample [options] FIRST [MORE …]", "Nothing else.", "--batch-size", "[8]",
      "MORE", "--kinds", "[a,b]", "--help" } do
      assert.truthy(out:find(part, 1, true), part .. " in\n" .. out)
    end
    assert.same({ 0, out, "" }, { run("help", "sample") })
  end)

  it("hands a command its options with defaults", function()
    local seen
    answer = function(given) seen = given end
    assert.equal(0, (run("sample", "x", "--batch-size", "3", "y", "--loud", "--", "--z")))
    assert.same({ first = "x", more = { "y", "--z" }, batch_size = 3, loud = true, kinds = { "a", "b" }, help = false },
      seen)
  end)

  for _, case in ipairs {
    { { "smaple" }, 'unknown command "smaple"; did you mean "sample"?' },
    { { "help", "smaple" }, 'unknown command "smaple"; did you mean "sample"?' },
    { { "zzzzzzzz" }, "known: sample, elsewhere" },
    { { "--verbose" }, "unknown option --verbose; known: --help, --version" },
    { {}, "which command?" },
    { { "sample", "x", "--bach-size", "3" }, 'unknown option --bach-size; did you mean "--batch-size"?' },
    { { "sample", "x", "--batch-size", "0" }, "--batch-size must be an integer of at least 1, got 0" },
    { { "sample" }, "crucible sample: first missing: a word" },
    { { "sample", "-x" }, "unexpected argument: -x" },
    { { "elsewhere", "x" }, "unexpected argument: x" },
  } do
    it(("ends `%s` with 2, saying why"):format(table.concat(case[1], " ")), function()
      local code, out, err = run(table.unpack(case[1]))
      assert.equal(2, code)
      assert.equal("", out)
      assert.truthy(err:find(case[2], 1, true), err)
    end)
  end

  for title, case in pairs {
    ["a failure of the world with 1"] = { { nil, "x.gguf: no such file", "not_found" }, 1 },
    ["a wrong argument with 2"] = { { nil, "rank must be positive", "argument" }, 2 },
    ["a cancelled command with 130"] = { { nil, "stopped", "cancelled" }, 130 },
    ["a command's own code with that code"] = { { 7 }, 7 },
    ["a value with 0"] = { { {} }, 0 },
  } do
    it("ends " .. title, function()
      answer = function() return table.unpack(case[1], 1, 3) end
      local code, _, err = run("sample", "x")
      assert.equal(case[2], code)
      assert.equal(case[1][2] and "crucible sample: " .. case[1][2] .. "\n" or "", err)
    end)
  end

  it("shows misuse as one line and an error of the library with its traceback", function()
    answer = function() error("rank must be positive", 0) end
    assert.same({ 1, "", "crucible sample: rank must be positive\n" }, { run("sample", "x") })
    answer = function() return arguments.parse(nil, { "--x" }) end
    local code, _, err = run("sample", "x")
    assert.equal(1, code)
    assert.truthy(err:find("stack traceback", 1, true), err)
  end)

  it("ends with 130 when the interpreter is interrupted", function()
    answer = function() error "interrupted!" end
    assert.same({ 130, "", "crucible sample: interrupted\n" }, { run("sample", "x") })
  end)

  it("knows every command file and has no other", function()
    local listed, found = {}, {}
    for _, name in ipairs(commands) do listed[#listed + 1] = name end
    for name in shell.run("ls lua/crucible/cli"):gmatch "(%S+)%.lua" do found[#found + 1] = name end
    table.sort(listed)
    assert.same(found, listed)
  end)
end)

describe("scripts/crucible", function()
  -- An interpreter that is started bare cannot load a core with sanitizers.
  local folder_of_build = os.getenv "CRUCIBLE_BUILD" or "build/release"
  if folder_of_build:find "sanitize" then folder_of_build = "build/release" end
  local command = "CRUCIBLE_BUILD=" .. shell.quote(folder_of_build) .. " "

  it("runs in the source tree and through a link", function()
    local folder = shell.temporary_folder()
    shell.run(("ln -s \"$PWD/scripts/crucible\" %s/crucible"):format(folder))
    local output, status = shell.run(command .. "scripts/crucible --version")
    assert.same({ require("crucible")._VERSION .. "\n", 0 }, { output, status })
    assert.same({ output, 0 }, { shell.run(command .. folder .. "/crucible --version") })
    shell.remove_tree(folder)
  end)

  it("passes on exit codes and says when nothing is built", function()
    local _, status = shell.run(command .. "scripts/crucible nonsense")
    assert.equal(2, status)
    local output
    output, status = shell.run "CRUCIBLE_BUILD=/nowhere scripts/crucible --help"
    assert.equal(1, status)
    assert.truthy(output:find("cmake --build --preset release", 1, true), output)
  end)
end)
