-- crucible train, generate, chat, model, bench and doctor over the tiny model.
local cli = require "crucible.cli"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local shell = require "spec.support.shell"
local streams = require "spec.support.streams"
local tiny_model = require "spec.support.tiny_model"

local folder, rows

local function run(...)
  local out, err = streams.new(), streams.new()
  local code = cli.main({ ... }, { out = out, err = err })
  return code, out.text(), err.text()
end

local function write(name, text)
  local path = folder .. "/" .. name
  shell.write(path, text)
  return path
end

setup(function()
  folder = shell.temporary_folder()
  local lines = {}
  for i = 1, 6 do lines[i] = ('{"input": "Question %d:", "output": "yes"}\n'):format(i) end
  rows = write("rows.jsonl", table.concat(lines))
end)
teardown(function() shell.remove_tree(folder) end)

describe("crucible train", function()
  local function train(...)
    return run("train", rows, "--model", tiny_model.path, "--runs", folder .. "/runs", "--threads", "1", ...)
  end

  it("trains on a file and says where the run lies", function()
    local code, out, err = train("--max-steps", "2", "--experiment-id", "first", "--lora-rank", "2")
    assert.equal(0, code, err)
    assert.truthy(out:find("finished after 2 steps", 1, true), out)
    assert.truthy(out:find(folder .. "/runs/first", 1, true), out)
    local manifest = json.decode(assert(fs.read_file(folder .. "/runs/first/manifest.json")))
    assert.equal(2, manifest.config.lora_rank)
    assert.equal("finished", manifest.status)
  end)

  it("takes lists, booleans and tables from the command line", function()
    local code, out, err = train("--max-steps", "1", "--target-modules", "q_proj,v_proj", "--quality-targets",
      '{"accuracy": 0.5}', "--no-shuffle", "--gradient-hooks", "norm,health", "--json", "--quiet", "--learning-rate",
      "1e-3")
    assert.equal(0, code, err)
    local told = json.decode(out)
    assert.equal(1, told.total_steps)
    local config = json.decode(assert(fs.read_file(told.run_dir .. "/manifest.json"))).config
    assert.same({ "q_proj", "v_proj" }, config.target_modules)
    assert.same({ accuracy = 0.5 }, config.quality_targets)
    assert.equal(1e-3, config.learning_rate)
  end)

  it("goes on where a run ended", function()
    assert.equal(0, (train("--max-steps", "2", "--experiment-id", "second", "--quiet")))
    local code, out, err = train("--max-steps", "4", "--experiment-id", "second", "--resume")
    assert.equal(0, code, err)
    assert.truthy(out:find("finished after 4 steps", 1, true), out)
  end)

  it("runs a Lua file, whose options the command line overrides", function()
    local file = write("run.lua", ([[
      return {
        dataset = %q, model = %q, runs = %q, experiment_id = "from-file", max_steps = 5, threads = 1,
        config = { lora_rank = 3 }, learning_rate = 2e-4,
        callbacks = { on_step_end = function(step) if step.step == 2 then return "stop" end end },
      }]]):format(rows, tiny_model.path, folder .. "/runs"))
    local code, out, err = run("train", file, "--learning-rate", "3e-4", "--quiet")
    assert.equal(0, code, err)
    assert.truthy(out:find("stopped after 2 steps (by a callback)", 1, true), out)
    local manifest = json.decode(assert(fs.read_file(folder .. "/runs/from-file/manifest.json")))
    assert.equal(3, manifest.config.lora_rank)
    assert.equal(3e-4, manifest.config.learning_rate)
  end)

  it("runs a JSON file", function()
    local file = write("run.json", json.encode {
      dataset = rows, model = tiny_model.path, runs = folder .. "/runs", max_steps = 1, threads = 1, loss_fn = "focal",
    })
    local code, out, err = run("train", file, "--quiet")
    assert.equal(0, code, err)
    assert.truthy(out:find("finished after 1 step", 1, true), out)
  end)

  it("makes a composite of several losses", function()
    local code, out, err = train("--max-steps", "1", "--loss-fn", "cross_entropy,focal", "--loss-weights", "0.75,0.25",
      "--json", "--quiet")
    assert.equal(0, code, err)
    local told = json.decode(out)
    local step = json.decode((assert(fs.read_file(told.run_dir .. "/telemetry.jsonl")):match "^[^\n]*"))
    assert.truthy(step.components.cross_entropy and step.components.focal)
  end)

  for title, case in pairs {
    ["an unknown option"] = { { "--learning-rat", "1" }, 2, 'did you mean "--learning-rate"' },
    ["a value out of range"] = { { "--lora-rank", "0" }, 2, "--lora-rank must be an integer of at least 1" },
    ["a loss that there is not"] = { { "--loss-fn", "focul" }, 1, 'unknown loss "focul"; did you mean "focal"' },
  } do
    it("refuses " .. title, function()
      local code, _, err = train(table.unpack(case[1]))
      assert.equal(case[2], code)
      assert.truthy(err:find(case[3], 1, true), err)
    end)
  end

  it("says what is wrong with a run file", function()
    local code, _, err = run("train", write("bad.lua", "return { dataset = 'x', epoch = 3 }"))
    assert.equal(2, code)
    assert.truthy(err:find('bad.lua: unknown option "epoch"; did you mean "epochs"?', 1, true), err)
    code, _, err = run("train", write("worse.lua", "return 3"))
    assert.equal(1, code)
    assert.truthy(err:find("expected a table of options with `dataset`, got 3", 1, true), err)
    code, _, err = run("train", write("broken.lua", "return {"))
    assert.equal(1, code)
    assert.truthy(err:find("broken.lua", 1, true), err)
    code, _, err = run("train", folder .. "/absent.lua")
    assert.equal(1, code)
    assert.truthy(err:find("absent.lua", 1, true), err)
  end)
end)

describe("crucible generate", function()
  it("writes on from prompts, as text and as JSON", function()
    local function generate(...)
      return run("generate", "--model", tiny_model.path, "--max-tokens", "3", "--temperature", "0", ...)
    end
    local code, out, err = generate "Hello"
    assert.equal(0, code, err)
    local again = select(2, generate("--json", "Hello", "Again"))
    local first = json.decode(again:match "^[^\n]*")
    assert.equal(first.text .. "\n", out)
    assert.equal("Hello", first.prompt)
    assert.equal(2, select(2, again:gsub("\n", "")))
  end)

  it("uses the checkpoint of a run", function()
    run("train", rows, "--model", tiny_model.path, "--runs", folder .. "/runs", "--experiment-id", "tuned",
      "--max-steps", "1", "--quiet")
    local code, out, err = run("generate", "--run", folder .. "/runs/tuned", "--max-tokens", "2", "--temperature", "0",
      "Hi")
    assert.equal(0, code, err)
    assert.truthy(#out > 0)
  end)

  it("says when the prompt does not fit, or the model is not there", function()
    local code, _, err = run("generate", "--model", tiny_model.path, "--max-tokens", "100000", "Hello")
    assert.equal(1, code)
    assert.truthy(err:find("exceed the context", 1, true), err)
    code, _, err = run("generate", "--model", "nowhere.gguf", "Hello")
    assert.equal(1, code)
    assert.truthy(err:find("nowhere.gguf", 1, true), err)
  end)
end)

describe("crucible chat", function()
  -- The program on lines of input, without a terminal.
  local function chat(input, more)
    local file = write("talk.txt", input)
    return shell.run(("%s lua/crucible/main.lua chat --model %s --max-tokens 4 --temperature 0 %s < %s"):format(
      shell.lua, shell.quote(tiny_model.path), more or "", file))
  end

  it("answers, takes commands and ends with the input", function()
    local output, status = chat "Hello\n/set temperature 0.5\n/again\n/base\n/reset\n/nonsense\n/quit\nnot reached\n"
    assert.equal(0, status, output)
    for _, part in ipairs { "(temperature = 0.5)", "(the base model answers)", "(begun anew)",
      "unknown command /nonsense" } do
      assert.truthy(output:find(part, 1, true), part .. " in\n" .. output)
    end
    assert.is_nil(output:find("not reached", 1, true))
  end)

  it("drops old turns when the context is full", function()
    local lines = {}
    for i = 1, 30 do lines[i] = "This is message number " .. i .. "\n" end
    local output, status = chat(table.concat(lines))
    assert.equal(0, status, output)
    assert.is_nil(output:find("context_overflow", 1, true), output)
  end)

  it("says when a message alone is too long", function()
    local output = chat(("word "):rep(2000) .. "\n")
    assert.truthy(output:find("context_overflow", 1, true), output)
  end)
end)

describe("crucible model", function()
  it("describes a model", function()
    local code, out, err = run("model", "describe", tiny_model.path)
    assert.equal(0, code, err)
    for _, part in ipairs { "3 layers, width 64", "llama", "context", "lora", tiny_model.path } do
      assert.truthy(out:find(part, 1, true), part .. " in\n" .. out)
    end
    local about = json.decode(select(2, run("model", "describe", tiny_model.path, "--json", "--digest")))
    assert.equal(3, about.layers)
    assert.equal(64, #about.sha256)
  end)

  it("tells the size of a lora as a session has it", function()
    local about = json.decode(select(2, run("model", "describe", tiny_model.path, "--json", "--rank", "4")))
    local session <close> = tiny_model.session { rank = 4 }
    local values = 0
    for _, matrix in ipairs(session:parameters()) do values = values + matrix.rows * matrix.columns end
    assert.equal(values, about.lora_parameters_attention)
    local whole <close> = tiny_model.session { rank = 4, targets = require("crucible.lora.config").targets }
    values = 0
    for _, matrix in ipairs(whole:parameters()) do values = values + matrix.rows * matrix.columns end
    assert.equal(values, about.lora_parameters_all)
  end)

  it("lists the known models", function()
    local code, out = run("model", "list")
    assert.equal(0, code)
    assert.truthy(out:find("smollm2-135m-instruct", 1, true))
    assert.equal(2, (run("model", "describe")))
  end)
end)

describe("crucible bench", function()
  it("measures training and writing", function()
    local code, out, err = run("bench", "--model", tiny_model.path, "--batch-size", "2", "--length", "16", "--steps",
      "1", "--new-tokens", "4", "--threads", "1", "--json")
    assert.equal(0, code, err)
    local found = json.decode(out)
    assert.truthy(found.training.tokens_per_s > 0 and found.writing.tokens_per_s > 0)
    assert.truthy(found.peak_memory > 1e6)
  end)
end)

describe("crucible doctor", function()
  it("tells processor, threads, memory and cache", function()
    local code, out, err = run("doctor", "--measure", "--model", tiny_model.path)
    assert.equal(0, code, err)
    for _, part in ipairs { "products by", "no BLAS", "threads", "memory", paths.cache(), "GFLOP/s" } do
      assert.truthy(out:find(part, 1, true), part .. " in\n" .. out)
    end
    local found = json.decode(select(2, run("doctor", "--json")))
    assert.equal(require("crucible.core").kernel_name(), found.processor.kernels)
    assert.equal(require("crucible.core").available_threads(), found.threads.used)
  end)
end)
