-- Programs that Debian ships with Lua 5.4 inside, whose scripts ask a tuned model: a web server and a solver.
local crucible = require "crucible"
local hosts = require "spec.support.hosts"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local lora = crucible.lora

-- A checkpoint of the tiny model, two steps into scifact.
local function tuned(folder)
  local rows = assert(lora.dataset_integration.prepare_dataset "scifact")
  local session <close> = assert(lora.create_session {
    config = { base_model = hosts.model, lora_rank = 4, threads = 1 }, seed = 0, runs = folder,
  })
  return assert(lora.training_loop.run(session, table.move(rows, 1, 4, 1, {}), { batch_size = 2 })).best_checkpoint
end

-- A shell's prefix: where Lua finds things, and the sanitizers where the module needs them.
local function environment(checkpoint)
  local preload = os.getenv "LD_PRELOAD"
  return ("LUA_PATH='%s/examples/embed/?.lua;%s' LUA_CPATH='%s' CRUCIBLE_MODEL=%s CRUCIBLE_CHECKPOINT=%s %s"):format(
    shell.run "pwd":gsub("\n", ""), os.getenv "LUA_PATH", os.getenv "LUA_CPATH", shell.quote(hosts.model),
    shell.quote(checkpoint), preload and preload ~= "" and "LD_PRELOAD=" .. shell.quote(preload) or "")
end

-- A port that nobody listened at a moment ago.
local function free_port()
  local listener = assert(require("socket").bind("127.0.0.1", 0))
  local _, found = listener:getsockname()
  listener:close()
  return found
end

local function lacks(...)
  local missing = hosts.missing(...)
  if #missing == 0 then return false end
  pending("needs " .. table.concat(missing, ", ") .. " (scripts/setup)")
  return true
end

describe("lighttpd", function()
  local folder, port, pid, output

  local function curl(path)
    return shell.run(("curl -sS --max-time 60 -w '%%{http_code}' 'http://127.0.0.1:%d%s'"):format(port, path))
  end

  local function start()
    folder = temp.folder()
    port = free_port()
    output = folder .. "/lighttpd.log"
    local command = ("%s PORT=%d exec lighttpd -D -f examples/embed/lighttpd/lighttpd.conf"):format(
      environment(tuned(folder)), port)
    pid = shell.run(("PATH=$PATH:/usr/sbin; { %s; } >%s 2>&1 & echo $!"):format(command, output)):match "%d+"
    for _ = 1, 100 do
      if select(2, curl "/") == 0 then return end
      shell.run "sleep 0.1"
    end
    error("lighttpd does not answer: " .. temp.read(output))
  end

  after_each(function()
    if pid then shell.run(("kill -KILL %s 2>/dev/null"):format(pid)) end -- where it was not ended below
    pid = nil
    temp.clean()
  end)

  it("answers requests with the tuned model's verdict, and ends clean", function()
    if lacks("lighttpd", "curl") then return end
    start()
    local first, status = curl "/verdict?claim=Aspirin+lowers+the+risk.&evidence=It%20was%20fewer."
    assert.equal(0, status)
    assert.truthy(first:match '^{"label":"%u+","probability":0%.%d+}\n200$' or
      first:match '^{"label":"%u+","probability":1}\n200$', first .. temp.read(output))
    assert.equal(first, (curl "/verdict?claim=Aspirin+lowers+the+risk.&evidence=It%20was%20fewer."))
    assert.truthy(curl "/verdict":match '"error".*400$')
    assert.truthy(curl "/README.md":match "403$")
    shell.run(("kill -INT %s; for i in $(seq 200); do kill -0 %s 2>/dev/null || break; sleep 0.05; done"):format(
      pid, pid))
    assert.is_true(select(2, shell.run("kill -0 " .. pid)) ~= 0, "it still runs")
    pid = nil
    local log = temp.read(output)
    assert.is_nil(log:find "ERROR: ", log)
  end)
end)

describe("clingo", function()
  after_each(temp.clean)

  it("draws conclusions from the tuned model's verdicts", function()
    if lacks "clingo" then return end
    local answer, status = shell.run(environment(tuned(temp.folder())) .. " clingo examples/embed/clingo/verdict.lp")
    assert.equal(30, status, answer) -- clingo's word for: an optimum was found
    local labels = {}
    for number, label in answer:gmatch "label%((%d),(%l+)%)" do labels[number] = label end
    for number = 1, 3 do
      local label = labels[tostring(number)]
      assert.truthy(label == "support" or label == "contradict", answer)
      if label == "contradict" then assert.is_nil(answer:find(("hold(%d)"):format(number), 1, true), answer) end
    end
    assert.is_nil(answer:find "ERROR: ", answer)
  end)
end)
