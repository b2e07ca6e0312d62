-- report.html: what is on the page, what it does with damaged and hostile folders, and that nothing is hidden
-- when long runs are made short. How it looks and behaves: scripts/check_report.
require("spec.support.fake_core").install()
local charts = require "crucible.report.charts"
local cli = require "crucible.cli"
local fs = require "crucible.fs"
local h = require "crucible.report.html"
local json = require "crucible.json"
local lora = require("crucible").lora
local report = require "crucible.report"
local run_data = require "crucible.report.run_data"
local run_records = require "crucible.lora.run_records"
local series = require "crucible.report.series"
local temp = require "spec.support.temp"
local text = require "crucible.report.text"

after_each(temp.clean)

local function lines(rows)
  local parts = {}
  for i, row in ipairs(rows) do parts[i] = json.encode(row) .. "\n" end
  return table.concat(parts)
end

-- A run folder out of telemetry rows and a manifest; either may be left out or be raw bytes.
local function folder_of(telemetry, manifest, evaluations)
  local folder = temp.folder()
  local files = { ["telemetry.jsonl"] = telemetry, ["manifest.json"] = manifest, ["evaluations.jsonl"] = evaluations }
  for name, value in pairs(files) do
    temp.file(folder, name, type(value) == "string" and value or name == "manifest.json" and json.encode(value)
      or lines(value))
  end
  return folder
end

local function steps(count, change)
  local rows = {}
  for step = 1, count do
    rows[step] = { step = step, epoch = 1, loss = 1 / step, components = { cross_entropy = 1 / step }, lr = 1e-4,
      grad_norm = 1, update_norm = 0.1, tokens = 10, supervised = 5, seconds = 0.5, tokens_per_s = 20 }
    if change then change(rows[step]) end
  end
  return rows
end

local function data_of(html)
  return json.decode((html:match '<script type="application/json" id="report%-data">(.-)</script>'))
end

local function expect_parts(html, parts)
  for _, part in ipairs(parts) do assert.truthy(html:find(part, 1, true), part) end
end

describe("HTML nodes", function()
  it("escape every text and attribute", function()
    local node = h.p({ title = [["><script>]], hidden = true, id = false }, "<b>&'", h.b({}, 1), { "x", h.i({}) }, nil)
    assert.equal('<p hidden title="&quot;&gt;&lt;script&gt;">&lt;b&gt;&amp;&#39;<b>1</b>x<i></i></p>', tostring(node))
  end)

  it("replace bytes that are no text", function()
    assert.equal("a\u{FFFD}\u{FFFD}b\u{FFFD}c\n", h.escape("a\0\27b\xFFc\r\n"))
  end)
end)

describe("series made short", function()
  it("keep the mean, least and largest of each piece", function()
    local condensed = series.condense({ 1, 5, 3, 2, false, 0 / 0 == 0 and 1 or false, 7 }, 7, 3)
    assert.same({ mean = { 3, 2, 7 }, min = { 1, 2, 7 }, max = { 5, 2, 7 } }, {
      mean = { table.unpack(condensed.mean) }, min = { table.unpack(condensed.min) },
      max = { table.unpack(condensed.max) } })
  end)

  it("have no band when pieces are single steps, and are nothing without values", function()
    assert.is_nil(series.condense({ 1, 2 }, 2, 1).max)
    assert.is_nil(series.condense({ false, false }, 2, 1))
  end)

  it("survive values at the ends of the range of numbers", function()
    local condensed = series.condense({ 1.7e308, 1.7e308, -1.7e308, -1.7e308 }, 4, 2)
    assert.same({ 1.7e308, -1.7e308 }, { condensed.mean[1], condensed.mean[2] })
  end)

  it("never lose an outlier", function()
    local folder = folder_of(steps(9000, function(row) if row.step == 4321 then row.grad_norm = 1000 end end))
    local run = charts.of({ assert(run_data.read(folder)) }).runs[1]
    assert.is_true(#run.from <= charts.most_points)
    assert.same({ 1, 9000 }, { run.from[1], run.to[#run.to] })
    local most = 0
    for _, value in ipairs(run.curves.grad_norm.max) do most = math.max(most, value) end
    assert.equal(1000, most)
  end)
end)

describe("figures in a report", function()
  for _, case in ipairs {
    { text.count(1234567), "1,234,567" }, { text.count(-123), "-123" }, { text.count(999), "999" },
    { text.count(0.5), "–" }, { text.score(0.12345), "0.123" }, { text.score(1e300), "1e300" },
    { text.score(nil), "–" }, { text.score(0 / 0), "–" }, { text.change(-0.25), "−0.250" }, { text.change(0), "±0" },
    { text.value { "a", "b" }, "a, b" }, { text.value(1e-8), "1e-8" }, { text.value { x = 1 }, '{"x":1}' },
    { text.bytes(98362432), "98.4 MB" }, { text.time "2026-11-24T10:17:18Z", "2026-11-24 10:17 UTC" },
    { text.label(("é"):rep(200)), ("é"):rep(120) .. "…" },
  } do
    it("read " .. case[2], function() assert.equal(case[2], case[1]) end)
  end
end)

describe("a report", function()
  it("of a real run has every section and is written where the loop is asked to", function()
    local folder = temp.folder()
    local session <close> = assert(lora.create_session {
      config = { base_model = temp.file(folder, "toy.gguf", "toy"), lora_rank = 2 }, runs = folder,
      experiment_id = "real",
    })
    local rows = {}
    for i = 1, 8 do rows[i] = { input = "claim " .. i, output = i % 2 == 0 and "yes" or "no" } end
    local results = assert(lora.training_loop.run(session, rows, { epochs = 2, batch_size = 4, report = true,
      evaluate = { dataset = rows, metrics = { "accuracy", "f1" } } }))
    assert(fs.stat(results.run_dir .. "/report.html"))
    local before = assert(lora.evaluation.evaluate(session, rows, { base = true }))
    assert(run_records.add_evaluation(results.run_dir, before, { step = 0 }))
    local html = assert(report.html(results.run_dir))
    expect_parts(html, { "<!DOCTYPE html>", 'id="overview"', 'id="training"', 'id="evaluation"', 'id="samples"',
      'id="checkpoints"', 'id="data"', 'id="configuration"', "base model", "step 4", "Confusion matrices", "lora_rank",
      "best</span>", "what it is trained to write" })
    assert.equal(4, #data_of(html).runs[1].curves.loss.mean)
  end)

  it("asks for nothing and lets only its own script run", function()
    local html = assert(report.html(folder_of(steps(3))))
    assert.is_nil(html:find "src%s*=")
    assert.is_nil(html:find "<link")
    assert.is_nil(html:find("@import", 1, true))
    expect_parts(html, { "default-src &#39;none&#39;", "script-src &#39;sha256-" })
  end)

  it("keeps hostile strings text", function()
    local bad = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    local folder = folder_of(steps(3, function(row)
      row.components = { [bad] = 1, b = 2 }
      row.hooks = { layers = { 1, 2 }, gradient_issues = { { layer = bad, status = bad } } }
    end), { experiment_id = bad, status = bad, config = { [bad] = bad }, dataset = { name = bad, gate = {
      sample = { prompt = bad, answer = bad } } }, results = { reason = bad, checkpoints = { { name = bad } } } },
      { { metrics = { [bad] = 1 }, moment = bad, examples = { { input = bad, text = bad, expected = bad } },
        confusion = { labels = { bad, "x" }, counts = { { 1, 2 }, { 3, 4 } }, other = { 0, 0 } } } })
    local html = assert(report.html(folder))
    assert.is_nil(html:find("<img", 1, true))
    assert.is_nil(html:find("alert(1)</script>", 1, true))
    assert.equal(2, select(2, html:gsub("</script>", "")))
    assert.equal(bad, data_of(html).charts[2].lines[1].label)
  end)

  it("compares runs, with what differs marked", function()
    local one = folder_of(steps(5), { experiment_id = "one", config = { learning_rate = 1e-4, lora_rank = 8 } })
    local two = folder_of(steps(3), { experiment_id = "two", config = { learning_rate = 2e-4, lora_rank = 8 } })
    local html = assert(report.html { one, two })
    expect_parts(html, { "2 runs compared", ">one<", ">two<", 'class="differs"><th scope="row">learning_rate',
      'class="same"><th scope="row">lora_rank' })
    local lines_of_loss = data_of(html).charts[1].lines
    assert.same({ "one", "two" }, { lines_of_loss[1].label, lines_of_loss[2].label })
  end)

  it("shows held-out loss beside training loss, and what losses report apart", function()
    local folder = folder_of(steps(4, function(row)
      row.components = { cross_entropy = 1, topological = 0.5, ["topological.betti_1"] = 2, reward = 1,
        ["reward.length"] = 9 }
    end), {}, { { step = 2, metrics = { loss = 0.7, cross_entropy = 0.9, accuracy = 0.5 } } })
    local titles, lines_of = {}, {}
    for i, chart in ipairs(data_of(assert(report.html(folder))).charts) do
      titles[i], lines_of[chart.title] = chart.title, {}
      for l, line in ipairs(chart.lines) do lines_of[chart.title][l] = line.label end
    end
    assert.same({ "training", "held-out rows" }, lines_of.Loss)
    assert.same({ "cross_entropy", "topological" }, lines_of["Loss components"])
    assert.same({ "betti_1" }, lines_of.topological)
    assert.same({ "reward" }, lines_of.Reward)
    assert.same({ "length" }, lines_of.reward)
    assert.same({ "accuracy", "cross_entropy" }, lines_of.Metrics)
    assert.equal("Loss", titles[1])
  end)

  it("sets what was written before, at the best and at the end side by side", function()
    local folder = folder_of(steps(9), {})
    for _, entry in ipairs { { 0, "before" }, { 2, "training" }, { 3, "training" }, { 4, "last" }, { 5, "training" },
      { 6, "best" }, { 7, "training" }, { 9, "training" }, { 9, "last" } } do
      assert(run_records.add_samples(folder, { step = entry[1], moment = entry[2],
        samples = { { prompt = "P", text = ("text of %d"):format(entry[1]) } } }))
    end
    local heads = {}
    for head in assert(report.html(folder)):gmatch "<h5>(.-) *</h5>" do heads[#heads + 1] = head end
    assert.same({ "before", "step 3", "step 5", "best · step 6", "last · step 9" }, heads)
  end)

  it("tells runs of the same name apart by their paths", function()
    local one, two = folder_of(steps(2), { experiment_id = "same" }), folder_of(steps(2), { experiment_id = "same" })
    expect_parts(assert(report.html { one, two }), { one, two })
  end)

  for title, case in pairs {
    ["half a line of telemetry"] = { { lines(steps(3)) .. '{"step": 4, "lo', {} }, "telemetry.jsonl:4" },
    ["no telemetry"] = { { nil, { experiment_id = "x" } }, "there is no telemetry.jsonl" },
    ["no manifest"] = { { steps(3) }, "there is no manifest.json" },
    ["a damaged manifest"] = { { steps(3), "{" }, "manifest.json cannot be read" },
    ["a manifest that is a list"] = { { steps(3), "3" }, "manifest.json cannot be read: it is not an object" },
    ["lines that are no steps"] = { { '[1]\n{"step": "x"}\n"y"\n', {} }, "3 lines of telemetry.jsonl are no" },
    ["half an evaluation"] = { { steps(2), {}, '{"metr' }, "evaluations.jsonl:1" },
  } do
    it("of a folder with " .. title .. " says so and shows the rest", function()
      expect_parts(assert(report.html(folder_of(table.unpack(case[1], 1, 3)))), { case[2] })
    end)
  end

  it("takes the later of two lines of a step", function()
    local rows = steps(4)
    rows[5] = { step = 2, loss = 9 }
    local run = assert(run_data.read(folder_of(rows)))
    assert.equal(4, #run.steps)
    assert.equal(9, run.steps[2].loss)
  end)

  it("shows gaps for losses that are not finite", function()
    local run = charts.of({ assert(run_data.read(folder_of(steps(3, function(row)
      if row.step == 2 then row.loss, row.skipped = 0 / 0, true end
    end)))) }).runs[1]
    assert.equal(json.null, run.curves.loss.mean[2])
    assert.same({ 2 }, { table.unpack(run.skipped) })
  end)

  for title, case in pairs {
    ["a folder that is not there"] = { "/nowhere/at/all", "no such run folder", "not_found" },
    ["a file"] = { "README.md", "not a folder", "not_found" },
    ["a folder without a run"] = { "spec", "neither manifest.json nor telemetry.jsonl", "format" },
  } do
    it("of " .. title .. " is refused", function()
      local html, message, code = report.html(case[1])
      assert.is_nil(html)
      assert.truthy(message:find(case[2], 1, true), message)
      assert.equal(case[3], code)
    end)
  end

  it("refuses what is no folder's name, and too many runs", function()
    assert.has_error(function() report.html {} end)
    local list = {}
    for i = 1, report.most_runs + 1 do list[i] = folder_of(steps(1)) end
    local _, message, code = report.html(list)
    assert.equal("argument", code)
    assert.truthy(message:find("at most 8", 1, true))
  end)
end)

describe("crucible report", function()
  local function run(...)
    local parts = {}
    local stream = { write = function(_, ...) for _, part in ipairs { ... } do parts[#parts + 1] = part end end }
    local code = cli.main({ "report", ... }, { out = stream, err = stream })
    return code, table.concat(parts)
  end

  it("writes the page, and CSV on request, and prints where", function()
    local folder = folder_of(steps(3))
    local code, output = run(folder, "--csv")
    assert.equal(0, code)
    assert.equal(folder .. "/report.html\n" .. folder .. "/telemetry.csv\n", output)
    assert(fs.stat(folder .. "/report.html"))
  end)

  it("finds runs by name and writes where it is told", function()
    local folder = folder_of(steps(3))
    local runs, name = folder:match "^(.*)/(.-)$"
    local target = temp.folder() .. "/page.html"
    assert.same({ 0, target .. "\n" }, { run(name, folder, "--runs", runs, "--output", target) })
    assert(fs.stat(target))
  end)

  it("names the nearest run when there is none of that name", function()
    local runs = temp.folder()
    temp.file(runs, "baseline/telemetry.jsonl", lines(steps(1)))
    local code, output = run("basline", "--runs", runs)
    assert.equal(1, code)
    assert.truthy(output:find('did you mean "baseline"?', 1, true), output)
  end)
end)
