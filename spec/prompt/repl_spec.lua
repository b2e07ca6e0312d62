-- The prompt, fed lines through a pipe: what it shows, what it refuses, what it completes.
local complete = require "crucible.repl.complete"
local crucible = require "crucible"
local inspect = require "crucible.inspect"
local shell = require "spec.support.shell"
local tiny_model = require "spec.support.tiny_model"

local folder

setup(function() folder = shell.temporary_folder() end)
teardown(function() shell.remove_tree(folder) end)

-- What the prompt writes for lines of input.
local function prompt(input, options)
  shell.write(folder .. "/input", input)
  return shell.run(("NO_COLOR=1 %s lua/crucible/main.lua repl --history %s/history %s < %s/input"):format(shell.lua,
    folder, options or "", folder))
end

describe("the prompt", function()
  it("shows values, runs statements and asks for the rest of an unfinished text", function()
    local output, status = prompt "1 + 1\nx = { 1, 2, name = 'n' }\nx\nfor i = 1, 2 do\nprint(i)\nend\n_.name\n"
    assert.same({ '2\n{ 1, 2, name = "n" }\n1\n2\n"n"\n', 0 }, { output, status })
  end)

  it("has crucible, lora and help at hand", function()
    local output = prompt 'crucible\nlora.config.defaults().lora_rank\n? "lora_rank"\n'
    assert.truthy(output:find("crucible 0.1.0\n16\nlora_rank = 16\n  rank of the lora matrices", 1, true), output)
  end)

  it("shows failures of the world and misuse as one line and goes on", function()
    local output = prompt 'crucible.model "nowhere.gguf"\nlora.config.new { lora_rnk = 1 }\nnonsense(\n)\n=\n"after"\n'
    assert.truthy(output:find("nil, not_found: nowhere.gguf: no such file", 1, true), output)
    assert.truthy(output:find('unknown option "lora_rnk"; did you mean "lora_rank"?\n', 1, true), output)
    assert.truthy(output:find('\n"after"\n$'), output)
    assert.is_nil(output:find("traceback", 1, true), output)
  end)

  it("keeps the trace of the last error", function()
    local output = prompt "error 'x'\ntraceback()\n"
    assert.truthy(output:find("stack traceback", 1, true), output)
  end)

  it("says that a local ends with its line", function()
    assert.truthy(prompt("local a = 1\n"):find("a ends with its line", 1, true))
  end)

  it("opens a session of a model and trains, looks, samples, changes and goes on", function()
    local output, status = prompt(([[
rows = {} for i = 1, 4 do rows[i] = { input = "Q" .. i .. ":", output = "yes" } end
options = { max_steps = 9, batch_size = 2, checkpoint_every = 0, run_dir = "%s/run" }
run = assert(lora.training_loop.start(session, rows, options))
run:go(2).step
#session:sample({ "Q1:" }, { max_tokens = 2 })
run:change { learning_rate = 7e-4, warmup_steps = 0, loss_fn = "focal" }
run:go(1).lr
run
run:go(20)
run.results.status
]]):format(folder), "--quiet --model " .. tiny_model.path)
    assert.equal(0, status, output)
    for _, part in ipairs { "\n1\n", "7e-04", "step 3 of 9", '"finished"' } do
      assert.truthy(("\n" .. output):gsub("0%.0007", "7e-04"):find(part, 1, true), part .. " in\n" .. output)
    end
  end)
end)

describe("what is shown of a value", function()
  for title, case in pairs {
    ["a list"] = { { 1, 2, 3 }, "{ 1, 2, 3 }" },
    ["a float"] = { 0.1, "0.1" },
    ["a text with what cannot be seen"] = { "a\n\0b", '"a\\n\\0b"' },
    ["keys that are no names"] = { { ["a b"] = 1, [2.5] = true }, '{ ["a b"] = 1, [2.5] = true }' },
    ["nothing"] = { {}, "{}" },
    ["a function"] = { print, "builtin" },
  } do
    it("of " .. title, function()
      local text = inspect.text(case[1])
      if case[2] == "builtin" then return assert.truthy(text:find "^function") end
      assert.equal(case[2], text)
    end)
  end

  it("ends at loops, depth and length", function()
    local loop = {}
    loop.self = loop
    assert.equal("{ self = … }", inspect.text(loop))
    assert.truthy(inspect.text({ { { { { 1 } } } } }):find("{ … }", 1, true))
    local long = {}
    for i = 1, 100 do long[i] = i end
    assert.truthy(inspect.text(long):find("… 76 more", 1, true))
  end)

  it("does not fail with a __tostring that fails", function()
    assert.equal("(its __tostring fails)", inspect.text(setmetatable({}, { __tostring = function() error "x" end })))
  end)

  it("colours on request alone", function()
    assert.is_nil(inspect.text({ a = "b" }):find "\27")
    assert.truthy(inspect.text({ a = "b" }, { colour = true }):find "\27")
  end)
end)

describe("completion", function()
  local environment = { crucible = crucible, lora = crucible.lora, settings = { one = 1, once = 2, ["a b"] = 3 } }

  local function candidates(text) return complete.at(text, environment).candidates end

  local function has(list, name)
    for _, one in ipairs(list) do
      if one == name then return true end
    end
    return false
  end

  it("has fields, rooms that are not loaded yet, and methods", function()
    assert.same({ "once", "one" }, candidates "x = settings.on")
    assert.same({ "training_loop" }, candidates "lora.train")
    assert.truthy(has(candidates "lora.config.", "new"))
    assert.same({ "settings" }, candidates "print(set")
  end)

  it("has the options of the function whose braces are open", function()
    local found = complete.at("lora.config.new { lora_", environment)
    assert.same({ "lora_alpha", "lora_dropout", "lora_rank" }, found.candidates)
    assert.equal(" = ", found.close)
    assert.truthy(has(candidates "lora.training_loop.run(session, 'x', { ep", "epochs"))
    assert.truthy(has(candidates "lora.training_loop.run(session, 'x', {\n config = { learn", "learning_rate"))
    assert.same({}, candidates "lora.config.new { lora_rank = 3, x = zzz")
  end)

  it("has names and files inside quotation marks", function()
    assert.truthy(has(candidates 'crucible.model "smol', "smollm2-135m-instruct"))
    assert.truthy(has(candidates "lora.training_loop.run(s, 'scif", "scifact"))
    assert.truthy(has(candidates 'x = "./REA', "./README.md"))
    assert.truthy(has(candidates 'x = "lua/cru', "lua/crucible/"))
    assert.same({ "once", "one" }, candidates 'settings["on')
    assert.equal('"', complete.at('crucible.model "smol', environment).close)
  end)

  it("has nothing in comments and long strings, and calls nothing", function()
    assert.same({}, candidates "x = 1 -- lora.con")
    assert.same({}, candidates "x = [[ lora.con")
    local called = false
    local trap = setmetatable({}, { __index = function() error "x" end, __call = function() called = true end })
    assert.same({}, complete.at("trap.a.b", { trap = trap }).candidates)
    assert.is_false(called)
  end)

  it("finds what candidates share", function()
    assert.equal("on", complete.common { "once", "one" })
    assert.equal("", complete.common { "a", "b" })
    assert.equal("", complete.common {})
  end)

  it("has names of matrices of a session at hand", function()
    local session <close> = assert(crucible.lora.create_session {
      config = { base_model = tiny_model.path, threads = 1 },
    })
    local found = complete.at('session:freeze "layers.1.self_attn.q', { session = session }).candidates
    assert.truthy(has(found, "layers.1.self_attn.q_proj.lora_A"))
    assert.truthy(has(complete.at('session:freeze "lay', { session = session }).candidates, "layers.1"))
  end)
end)
