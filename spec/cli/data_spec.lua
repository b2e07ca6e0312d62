-- crucible data: rows inspected from the command line.
local cli = require "crucible.cli"
local json = require "crucible.json"
local streams = require "spec.support.streams"
local temp = require "spec.support.temp"

local TINY = "spec/fixtures/tiny/tiny.gguf"

local function run(...)
  local out, err = streams.new(), streams.new()
  local code = cli.main({ "data", ... }, { out = out, err = err })
  return code, out.text(), err.text()
end

describe("crucible data", function()
  after_each(temp.clean)

  local function file(text) return temp.file(temp.folder(), "rows.jsonl", text) end

  local good = '{"input":"Ask:","output":"yes"}\n{"input":"Ask more:","output":"no"}\n'

  it("inspects a data set: counts, warnings and a row with its mask", function()
    local code, out = run("inspect", "scifact", "--model", TINY)
    assert.equal(0, code)
    for _, part in ipairs { "505, of which 505 are trained", "warning: 1 row repeats an earlier one: 29",
      "among the evaluation rows: 0", "row 1, trained between ⟪ and ⟫:", "Verdict:⟪ CONTRADICT<|im_end|>⟫" } do
      assert.truthy(out:find(part, 1, true), part)
    end
  end)

  it("shows another row, in colour on request", function()
    local code, out = run("inspect", file(good), "--model", TINY, "--row", "2", "--color", "always")
    assert.equal(0, code)
    assert.truthy(out:find("row 2, trained in green:\n\27[2mAsk more:\27[0m\27[32m no<|im_end|>\27[0m\n", 1, true))
  end)

  it("writes figures as JSON", function()
    local _, out = run("inspect", file(good), "--model", TINY, "--json")
    local report = json.decode(out)
    assert.equal(2, report.rows)
    assert.equal("Ask:", report.sample.prompt)
  end)

  it("exits with 1 where a run would stop, saying why", function()
    local code, out, err = run("inspect", file '{"input":"Ask:","output":""}', "--model", TINY)
    assert.equal(1, code)
    assert.equal("", out)
    assert.truthy(err:find("row 1 has no supervised token", 1, true))
    local _
    code, _, err = run("inspect", file '{"question":"q"}', "--model", TINY, "--formatter", "gsm8k")
    assert.equal(1, code)
    assert.truthy(err:find('row 1: "answer" is missing, expected a string', 1, true))
  end)

  it("is used wrongly with exit code 2", function()
    local code, _, err = run("inspect", "--model", TINY)
    assert.equal(2, code)
    assert.truthy(err:find("inspect what?", 1, true))
    code, _, err = run("inspect", file(good), "--model", TINY, "--row", "9")
    assert.equal(2, code)
    assert.truthy(err:find("row 9: there are 2", 1, true))
    assert.equal(2, (run("look", "scifact")))
  end)

  it("lists data sets, formatters and templates", function()
    local code, out = run "list"
    assert.equal(0, code)
    for _, name in ipairs { "scifact_cns", "gsm8k", "preference", "chatml" } do
      assert.truthy(out:find(name, 1, true), name)
    end
  end)
end)
