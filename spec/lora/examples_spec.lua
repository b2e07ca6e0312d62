-- The examples run, on the tiny model: each ends well and says what its header promises.
local temp = require "spec.support.temp"

local tiny = "spec/fixtures/tiny/tiny.gguf"

local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read "a"
  return text, pipe:close() == true
end

local function expect_parts(text, parts)
  for _, part in ipairs(parts) do assert.truthy(text:find(part, 1, true), part .. " in:\n" .. text) end
end

local without_runs = { ["flat_loop.lua"] = true, ["gradient_surgery.lua"] = true }

describe("the example", function()
  after_each(temp.clean)

  for _, case in ipairs {
    { "flat_loop.lua", tiny .. " 1", { "step 1  loss ", "Verdict:" } },
    { "train_scifact.lua", "--model " .. tiny .. " --steps 2 --limit-dev 4 --threads 1",
      { "505 rows", "Verdict:⟪ CONTRADICT<|im_end|>⟫", "dev of scifact, 4 rows: accuracy ", "quality targets met",
        "run folder: " } },
    { "demo.lua", "--model " .. tiny .. " --steps 2 --limit-dev 4 --threads 1",
      { "Before", "After", "Loss by step", "SciFact dev", "accuracy", "base model, by likelihood",
        "paired by row", "best checkpoint: ", "report: ", "/report.html" } },
    { "gradient_research.lua", "--model " .. tiny .. " --steps 4 --freeze 1 --threads 1",
      { "Gradients by layer, step 4", "By projection", "Magnitudes", "gradient noise scale",
        "step 2: freeze layers.2 by", "effective rank of the branches: ", "picture: " } },
    { "gradient_surgery.lua", "--model " .. tiny .. " --steps 2 --threads 1",
      { "plain sum", "PCGrad", "steps in conflict", "at the last step" } },
    { "train_judge.lua", "--model " .. tiny .. " --steps 2 --limit 6 --threads 1",
      { "12 rows to train, 12 held out", "held-out rows", "always SUPPORT", "untrained", "judge  ",
        "claim and other evidence", "of 6 right", "judge: " } },
    { "cns_scifact.lua", "--model " .. tiny .. " --steps 3 --batch-size 2 --limit 4 --limit-dev 3 --max-tokens 16"
      .. " --threads 1", { "4 rows", "step 3/3  epoch 2", "Loss by step", "dev of scifact_cns, 3 rows",
        "schema_compliance", "overall_pass_rate", "quality targets met", "run folder: " } },
    { "rollouts_scifact.lua", "--model " .. tiny .. " --limit 4 --start-steps 1 --steps 2 --max-tokens 8 --held-out 2"
      .. " --threads 1", { "before, 2 dev prompts at temperature 0", "step  2  reward ", "Mean reward by step",
        "after, 2 dev prompts at temperature 1", "run folder: " } },
    { "learning_curve.lua", "--model " .. tiny .. " --seeds 2 --epochs 1 --limit 16 --limit-dev 4 --threads 1",
      { "seed  epoch 1", "mean" } },
  } do
    it(case[1] .. " runs", function()
      local runs = without_runs[case[1]] and "" or " --runs " .. temp.folder()
      local text, ended_well = run(("lua5.4 examples/%s %s%s"):format(case[1], case[2], runs))
      assert.is_true(ended_well, text)
      expect_parts(text, case[3])
    end)
  end

  it("remote.lua runs", function()
    local server = require("spec.support.tinker_standin").start { kind = "hatchery", alpha_by_rank = 2 }
    if not server then return pending "LuaSocket is not installed" end
    local text, ended_well = run(("TINKER_BASE_URL=%s lua5.4 examples/remote.lua %s --remote-model tiny --steps 2 "
      .. "--limit 20 --limit-dev 2 --max-length 200 --runs %s"):format(server.url, tiny, temp.folder()))
    server:stop()
    assert.is_true(ended_well, text)
    expect_parts(text, { "lora_dropout: the config says 0.05, the server has 0", "20 rows",
      "dev of scifact, 2 rows: accuracy ", "run folder: " })
  end)

  it("custom_loss.lua runs", function()
    local text, ended_well = run(("lua5.4 examples/custom_loss.lua %s 2 %s"):format(tiny, temp.folder()))
    assert.is_true(ended_well, text)
    expect_parts(text, { "check_gradient margin: passed", "step 2  loss ", "right verdict leads " })
  end)

  it("custom_loss.lua has a loss of fewer than 25 lines", function()
    local lines = 0
    for line in io.lines "examples/custom_loss.lua" do
      if lines > 0 or line:find("^loss_functions.register") then lines = lines + 1 end
      if line == "})" then break end
    end
    assert.is_true(lines > 5 and lines < 25, tostring(lines))
  end)

  it("teaching_table.lua runs its cells once and prints the table", function()
    local folder = temp.folder()
    local command = ("lua5.4 examples/teaching_table.lua --model %s --run --steps 1 --batch-size 2 --seeds 0 "
      .. "--dev-rows 24 --distractors 1 --threads 1 --terms before,all --folder %s"):format(tiny, folder)
    local text, ended_well = run(command)
    assert.is_true(ended_well, text)
    expect_parts(text, { "all, seed 0", "trained with", "balance_distance", "betti_1_error", "before      " })
    text = run(command)
    assert.is_nil(text:find("seed 0", 1, true))
    expect_parts(text, { "trained with" })
  end)

  it("gsm8k.lua runs", function()
    local folder, lines = temp.folder(), {}
    for i = 1, 8 do
      lines[i] = ('{"question":"What is %d and 1?","answer":"It is %d.\\n#### %d"}'):format(i, i + 1, i + 1)
    end
    temp.file(folder, "train.jsonl", table.concat(lines, "\n"))
    temp.file(folder, "test.jsonl", table.concat(lines, "\n", 1, 3))
    local text, ended_well = run(("lua5.4 examples/gsm8k.lua --model %s --steps 2 --max-tokens 8 --data %s --runs %s")
      :format(tiny, folder, folder))
    assert.is_true(ended_well, text)
    expect_parts(text, { "base: 3 problems", "gsm8k_strict", "paired by problem", "problem 1, tuned: " })
  end)

  for _, case in ipairs {
    { "demo.lua", "--stps 3", 'unknown option --stps; did you mean "--steps"?' },
    { "demo.lua", "--model nowhere.gguf", "nowhere.gguf: no such file" },
    { "train_scifact.lua", "--epochs 0", "--epochs must be an integer of at least 1, got 0" },
    { "flat_loop.lua", "", "usage: " },
  } do
    it(("%s %s ends badly, saying why"):format(case[1], case[2]), function()
      local text, ended_well = run(("lua5.4 examples/%s %s"):format(case[1], case[2]))
      assert.is_false(ended_well)
      expect_parts(text, { case[3] })
    end)
  end
end)
