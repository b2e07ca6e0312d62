-- What the program says of itself: help that fits a screen, the manual page, completions of shells.
local cli = require "crucible.cli"
local manual = require "crucible.manual"
local shell = require "spec.support.shell"
local streams = require "spec.support.streams"
local terminal = require "crucible.terminal"

local function run(...)
  local out, err = streams.new(), streams.new()
  local code = cli.main({ ... }, { out = out, err = err })
  return code, out.text(), err.text()
end

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "(.-)\n" do lines[#lines + 1] = line end
  return lines
end

describe("the help of the program", function()
  for _, name in ipairs(cli.commands) do
    it(("fits a screen for `%s`, and --help=all has every option"):format(name), function()
      local code, short = run(name, "--help")
      assert.equal(0, code)
      local lines = lines_of(short)
      assert.truthy(#lines <= 24, ("%d lines:\n%s"):format(#lines, short))
      for _, line in ipairs(lines) do assert.truthy(terminal.width(line) <= 80, line) end
      local _, all = run(name, "--help=all")
      for _, entry in ipairs(cli.command(name).options.entries) do
        local form = entry.positional and entry.name:upper() or entry.name:gsub("_", "-")
        assert.truthy(all:find(form, 1, true), form .. " in\n" .. all)
      end
    end)
  end

  it("fits 80 columns for the list of commands", function()
    local _, text = run "--help"
    for _, line in ipairs(lines_of(text)) do assert.truthy(terminal.width(line) <= 80, line) end
    assert.truthy(#lines_of(text) <= 30)
  end)

  it("counts what a short help leaves out", function()
    local _, short = run("train", "--help")
    local left_out = math.tointeger(short:match "and (%d+) more: crucible train %-%-help=all")
    local _, all = run("train", "--help=all")
    local function options_in(text) return select(2, ("\n" .. text):gsub("\n  %-%-", "")) end
    assert.equal(options_in(all), options_in(short) + left_out)
  end)
end)

describe("the manual page", function()
  it("has every command, option and exit code", function()
    local page = manual.page():gsub("\\%-", "-"):gsub("\\e", "\\")
    for _, name in ipairs(cli.commands) do
      assert.truthy(page:find(".SS crucible " .. name, 1, true), name)
      for _, entry in ipairs(cli.command(name).options.entries) do
        local form = entry.positional and entry.name:upper() or entry.name:gsub("_", "-")
        assert.truthy(page:find(form, 1, true), name .. " " .. form)
      end
    end
    for _, row in ipairs(cli.exit_codes) do assert.truthy(page:find(".B " .. row[1], 1, true)) end
  end)

  it("is roff that the formatter takes without a warning", function()
    local _, there = shell.run "command -v groff"
    if there ~= 0 then return pending "groff is not installed" end
    local folder = shell.temporary_folder()
    shell.write(folder .. "/crucible.1", manual.page())
    local output = shell.run(("groff -man -Tutf8 -ww -z %s/crucible.1"):format(folder))
    shell.remove_tree(folder)
    assert.equal("", output)
  end)
end)

describe("the completion of bash", function()
  local folder

  setup(function()
    folder = shell.temporary_folder()
    shell.write(folder .. "/crucible", manual.bash())
  end)
  teardown(function() shell.remove_tree(folder) end)

  -- What bash would offer for words, the last of which is being typed.
  local function offers(...)
    local words = {}
    for i, word in ipairs { "crucible", ... } do words[i] = shell.quote(word) end
    local script = ("source %s/crucible; COMP_WORDS=(%s); COMP_CWORD=%d; _crucible; "
      .. "printf '%%s\\n' \"${COMPREPLY[@]}\""):format(folder, table.concat(words, " "), #words - 1)
    local found = {}
    local output, status = shell.run("bash -c " .. shell.quote(script))
    assert.equal(0, status, output)
    for word in output:gmatch "%S+" do found[word] = true end
    return found
  end

  it("offers commands, options, values and names", function()
    assert.truthy(offers("tra")["train"])
    assert.truthy(offers("train", "--learning")["--learning-rate"])
    assert.truthy(offers("train", "--schedule", "cos")["cosine"])
    assert.truthy(offers("evaluate", "scif")["scifact"])
    assert.truthy(offers("train", "--model", "smol")["smollm2-135m-instruct"])
    assert.truthy(offers("completion", "z")["zsh"])
    assert.is_nil(offers("runs", "--learning")["--learning-rate"])
  end)
end)

describe("the completion of zsh", function()
  it("is a script that zsh takes", function()
    local script = manual.zsh()
    assert.truthy(script:find("^#compdef crucible\n"))
    for _, name in ipairs(cli.commands) do assert.truthy(script:find("'" .. name .. ":", 1, true), name) end
    local _, there = shell.run "command -v zsh"
    if there ~= 0 then return pending "zsh is not installed" end
    local folder = shell.temporary_folder()
    shell.write(folder .. "/_crucible", script)
    local output, status = shell.run(("zsh -n %s/_crucible"):format(folder))
    shell.remove_tree(folder)
    assert.same({ "", 0 }, { output, status })
  end)

  it("is printed by the program", function()
    assert.same({ 0, manual.zsh(), "" }, { run("completion", "zsh") })
    assert.same({ 0, manual.bash(), "" }, { run("completion", "bash") })
    assert.equal(2, (run("completion", "fish")))
  end)
end)
