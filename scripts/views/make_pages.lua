-- Reports for scripts/check_report: prints a name and a path a line, with a tab between them.
--
--     lua5.4 scripts/views/make_pages.lua FOLDER
local fs = require "crucible.fs"
local json = require "crucible.json"
local report = require "crucible.report"

local folder = assert(arg[1], "usage: make_pages.lua FOLDER")

local function write(run, name, bytes)
  assert(fs.make_folder(folder .. "/" .. run))
  assert(fs.write_file(folder .. "/" .. run .. "/" .. name, bytes))
end

local function lines(list)
  for i, value in ipairs(list) do list[i] = json.encode(value) .. "\n" end
  return table.concat(list)
end

local function real_run(name, ...)
  local before = arg
  arg = { folder, "--name", name, ... } -- luacheck: ignore
  local quiet = print
  print = function() end -- luacheck: ignore
  dofile "scripts/views/make_run.lua"
  arg, print = before, quiet -- luacheck: ignore
end

-- ---- 10,000 steps --------------------------------------------------------------------------

local function noise(step, salt) return math.sin(step * 12.9898 + salt * 78.233) * 43758.5453 % 1 end

local function long_step(step)
  local layers, ratios, counts = {}, {}, {}
  for layer = 1, 30 do
    layers[layer] = math.exp(-layer / 12 - step / 6000) * (0.7 + 0.6 * noise(step, layer))
    ratios[layer] = 1e-3 * math.exp(-step / 4000) * (0.9 + 0.2 * noise(step, 40 + layer))
  end
  for i = 1, 24 do counts[i] = math.floor(1e5 * math.exp(-((i - 14 + step / 3000) / 4) ^ 2)) end
  local loss = 1.2 + 4 * math.exp(-step / 900) + 0.8 * noise(step, 1) ^ 3
  return {
    step = step, epoch = (step - 1) // 1250 + 1, loss = loss, lr = 2e-4 * (1 - step / 10001),
    components = { cross_entropy = loss * 0.8, topological = loss * 0.15, chirality = 0.3 * noise(step, 2) },
    grad_norm = 1 + noise(step, 3) + (step % 977 == 0 and 20 or 0), update_norm = 0.01 * (1 - step / 10001),
    skipped = false, tokens = 1024, supervised = 200, seconds = 2, tokens_per_s = 500 + 40 * noise(step, 4),
    timestamp = "2026-01-01T00:00:00Z",
    hooks = { layers = layers, ratios = ratios, histogram = { least = -26, counts = counts }, gradient_issues = {} },
  }
end

local function long_run()
  local steps = {}
  for step = 1, 10000 do steps[step] = long_step(step) end
  write("long", "telemetry.jsonl", lines(steps))
  write("long", "manifest.json", json.encode { experiment_id = "long", status = "finished",
    started_at = "2026-01-01T00:00:00Z", plan = { loss = "composite", total_steps = 10000 } })
end

-- ---- hostile strings -----------------------------------------------------------------------

local bad = {
  "</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", '"><svg onload=alert(3)>', "'; alert(4) //",
  "<!--", "]]>", "\u{202E}reversed\u{202C}", "\0\1\27[31m", "\xFF\xFE broken", ("x"):rep(5000), "&lt;b&gt;", "{{7*7}}",
  "javascript:alert(5)", "<a href=\"http://example.com/\">away</a>", "\u{2028}\u{2029}",
  "url(http://example.com/x.png)",
}

local function any(i) return bad[i % #bad + 1] end

local function hostile_step(step)
  local components = {}
  for i = 1, 6 do components[any(i)] = i * step end
  return {
    step = step, epoch = 1, loss = ({ 1e308, -1e308, 0, 1e-308, json.null, 5e-324 })[step % 6 + 1], lr = any(step),
    components = components, grad_norm = step % 2 == 0 and json.null or 1e300, skipped = "</script>", tokens = -5,
    seconds = 0, tokens_per_s = 0 / 0,
    hooks = { layers = { 1e300, any(step), 0, -1, json.null and 1e-300 }, gradient_issues = { { layer = any(step),
      status = any(step + 1) }, any(step) }, actions = { { action = any(step), hook = any(step), point = any(step) } },
      histogram = { least = -3, counts = { 0, 1, "2", -7 } } },
  }
end

local function hostile_run()
  local steps, evaluations = {}, {}
  for step = 1, 40 do steps[step] = hostile_step(step) end
  for i = 1, 4 do
    local labels, counts, examples = { any(1), any(2), any(9) }, { { 1, 2, 3 }, { 0, 0, 0 } }, {}
    for e = 1, #bad do
      examples[e] = { input = bad[e] .. e, expected = any(e), predicted = any(e + i), text = any(e + 2 * i),
        correct = e % 2 == 0 }
    end
    evaluations[i] = { step = 10 * i, moment = i == 1 and "before" or any(i), mode = any(i), samples = any(1),
      metrics = { accuracy = 0.5, [any(i)] = 1e300 * i, text = any(3) }, classes = { { label = any(2) }, any(1) },
      confusion = { labels = labels, counts = counts, other = { "1" } }, examples = examples,
      likelihood = { metrics = { accuracy = "</script>" } } }
  end
  write("hostile", "telemetry.jsonl", lines(steps) .. "[1, 2]\n\"step\"\n{\"step\": 1e99}\n")
  write("hostile", "evaluations.jsonl", lines(evaluations))
  write("hostile", "manifest.json", json.encode {
    experiment_id = bad[1], status = bad[2], started_at = bad[3],
    config = { base_model = bad[2], [bad[1]] = bad, lora_rank = bad[3],
      quality_targets = { accuracy = 0.4, [bad[1]] = 1 } },
    dataset = { name = bad[1], split = bad[2], sha256 = bad[1],
      gate = { rows = "many", sample = { prompt = bad[1], answer = bad[2] } } },
    plan = { loss = bad[1], total_steps = bad[1] }, engine = { model = bad[1] }, versions = bad[4],
    results = { reason = bad[1], checkpoints = { { name = bad[1], step = bad[2] }, bad[3] },
      best_checkpoint = "x/" .. bad[1] },
  })
end

-- ---- pieces missing ------------------------------------------------------------------------

local function partial_run()
  local steps = {}
  for step = 1, 9 do steps[step] = { step = step, epoch = 1, loss = 10 / step } end
  write("partial", "telemetry.jsonl", lines(steps) .. '{"step": 10, "lo')
  write("partial", "evaluations.jsonl", '{"metrics": {"accuracy": 0.')
end

-- ---- all of them ---------------------------------------------------------------------------

real_run("everything", "--steps", "24", "--evaluate-every", "6", "--stop-at", "12")
real_run("slower", "--steps", "24", "--learning-rate", "5e-5", "--seed", "1")
real_run("shorter", "--steps", "10", "--learning-rate", "1e-3")
long_run()
hostile_run()
partial_run()

for _, name in ipairs { "everything", "long", "hostile", "partial" } do
  print(name .. "\t" .. assert(report.write(folder .. "/" .. name)))
end
local compared = { folder .. "/everything", folder .. "/slower", folder .. "/shorter" }
print("compared\t" .. assert(report.write(compared, folder .. "/compared.html")))
