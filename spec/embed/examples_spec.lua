-- The programs and scripts of examples/embed, on the tiny model.
local core = require "crucible.core"
local hosts = require "spec.support.hosts"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local function expect_parts(text, parts)
  for _, part in ipairs(parts) do assert.truthy(text:find(part, 1, true), part .. " in:\n" .. text) end
end

local function losses_of(text)
  local losses = {}
  for loss in text:gmatch "loss (%d+%.%d+)" do losses[#losses + 1] = tonumber(loss) end
  return losses
end

local function run_lua(...)
  local words = { shell.lua }
  for _, word in ipairs { ... } do words[#words + 1] = shell.quote(word) end
  local output, status = shell.run(table.concat(words, " "))
  assert.equal(0, status, output)
  return output
end

describe("examples/embed", function()
  after_each(temp.clean)

  it("train.c trains and samples without Lua, and leaves a lora that loads", function()
    if not hosts.path "train" then return pending "not built" end
    local file = temp.folder() .. "/lora.safetensors"
    local output = hosts.must("train", hosts.model, "5", file)
    local losses = losses_of(output)
    assert.equal(5, #losses)
    assert.is_true(losses[5] < losses[1])
    expect_parts(output, { "\nThe capital of France is" })
    local model <close> = assert(core.open_model(hosts.model))
    local session <close> = assert(model:session {
      rank = 8, alpha = 16, dropout = 0, targets = { "q_proj", "v_proj" },
    })
    assert(session:load_lora(file))
  end)

  it("train.c says what is wrong", function()
    if not hosts.path "train" then return pending "not built" end
    local output, status = hosts.run("train", "nowhere.gguf")
    assert.equal(1, status)
    expect_parts(output, { "train: not_found: nowhere.gguf" })
  end)

  it("host.c has at most 60 lines", function()
    local count = 0
    for _ in io.lines "examples/embed/host.c" do count = count + 1 end
    assert.is_true(count <= 60, tostring(count))
  end)

  it("host.c runs a script that trains with the engine it carries", function()
    if not hosts.path "host" then return pending "no Lua library to link with" end
    local output = hosts.must("host", "examples/embed/host.lua", hosts.model, "4")
    local losses = losses_of(output)
    assert.equal(4, #losses)
    assert.is_true(losses[4] < losses[1])
    expect_parts(output, { "host: step 4", "\nThe capital of France is" })
  end)

  it("host.c shows where a script failed", function()
    if not hosts.path "host" then return pending "no Lua library to link with" end
    local output, status = hosts.run("host", "examples/embed/host.lua", "nowhere.gguf")
    assert.equal(1, status)
    expect_parts(output, { "nowhere.gguf", "stack traceback:" })
  end)

  it("threads.c trains on several threads at once to the bytes of each alone", function()
    if not hosts.path "threads" then return pending "no Lua library to link with" end
    local output, digests, count = hosts.must("threads", "examples/embed/worker.lua", hosts.model, "3", "3"), {}, 0
    for alone, at_once in output:gmatch "alone (%x+)\n%s+at once (%x+)\n" do
      assert.equal(64, #alone)
      assert.equal(alone, at_once)
      assert.is_nil(digests[alone]) -- another seed, another lora
      digests[alone], count = true, count + 1
    end
    assert.equal(3, count)
  end)

  it("sandbox.lua trains in an environment without the system", function()
    expect_parts(run_lua("examples/embed/sandbox.lua", hosts.model, temp.folder()),
      { "step 3  loss ", "the stranger reads: ", "and reaches no system: true" })
  end)

  it("event_loop.lua gives the host its turn after each step", function()
    local output = run_lua("examples/embed/event_loop.lua", hosts.model, temp.folder())
    expect_parts(output, { "steps     step 4", "callback  step 4", "its checkpoint is of step 2" })
    local order = {}
    for word in output:gmatch "(%l+)%s+%l+ %d" do order[#order + 1] = word end
    assert.same({ "steps", "callback", "dropped", "host", "steps", "callback", "dropped" },
      table.move(order, 1, 7, 1, {}))
  end)
end)
