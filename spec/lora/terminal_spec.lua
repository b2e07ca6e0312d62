-- The progress bar on a real terminal (tmux): two widths, a resize, Ctrl-C once and twice, a redirected stream.
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local has_tmux = select(2, shell.run "command -v tmux") == 0

-- Trains the tiny model with steps of at least 40 ms, so that there is something to see.
local PROGRAM = [=[
local console = require "crucible.callbacks.console"
local crucible = require "crucible"
local tiny_model = require "spec.support.tiny_model"
local folder, steps = arg[1], tonumber(arg[2])
local rows = {}
for i = 1, steps do rows[i] = { input = "claim " .. i .. ":", output = "yes" } end
local session <close> = assert(crucible.lora.create_session {
  config = { base_model = tiny_model.path, lora_rank = 2, threads = 1 }, seed = 1, experiment_id = "seen",
  runs = folder,
})
local clock = crucible.core.fs.clock
local results = assert(crucible.lora.training_loop.run(session, rows, {
  batch_size = 1, signals = true, callbacks = { console.new(), {
    on_step_end = function()
      local started = clock()
      while clock() - started < 0.04 do end
    end,
  } },
}))
session:close()
os.exit(results.exit_code)
]=]

local socket

local function tmux(arguments) return shell.run("tmux -L " .. socket .. " " .. arguments) end

local function screen() return (tmux "capture-pane -p -t seen") end

-- What the screen shows once it satisfies `test`; fails after a minute.
local function wait_for(test, what)
  for _ = 1, 300 do
    local text = screen()
    if test(text) then return text end
    shell.run "sleep 0.2"
  end
  error(("the terminal never showed %s:\n%s"):format(what, screen()), 2)
end

local function shows(part) return function(text) return text:find(part, 1, true) ~= nil end end

local function bar_of(text)
  local found
  for line in text:gmatch "[^\n]+" do
    if line:find "^epoch 1/1  %d+/%d+ " then found = line end
  end
  return found
end

local function is_drawn(text)
  local bar = bar_of(text)
  return bar ~= nil and bar:find(" left", 1, true) ~= nil
end

-- Starts the program in a terminal of that width.
local function start(columns, steps, environment)
  local folder = temp.folder()
  local program = temp.file(folder, "program.lua", PROGRAM)
  local paths = ("LUA_PATH=%s LUA_CPATH=%s LC_ALL=C.UTF-8 %s"):format(shell.quote(os.getenv "LUA_PATH"),
    shell.quote(os.getenv "LUA_CPATH"), environment or "")
  local command = ("trap : INT; %s lua5.4 %s %s %d; echo exit code $?; read line"):format(paths, program, folder, steps)
  local output, status = tmux(("-u -f /dev/null new-session -d -s seen -x %d -y 24 %s"):format(columns,
    shell.quote("sh -c " .. shell.quote(command))))
  assert(status == 0, output)
  tmux "set-option -g remain-on-exit on"
  return folder
end

describe("the bar on a terminal #slow", function()
  before_each(function() socket = "crucible-spec-" .. tostring(os.time()) .. math.random(1e6) end)
  after_each(function()
    tmux "kill-server"
    temp.clean()
  end)

  if not has_tmux then return it("can be seen", function() pending "needs tmux" end) end

  it("shows everything at 140 columns, and less after a resize to 80, on one line each", function()
    start(140, 2000)
    local wide = bar_of(wait_for(is_drawn, "a bar"))
    for _, part in ipairs { "/2000 ", "loss ", "lr ", "norm ", "tok/s", " MB", " left" } do
      assert.truthy(wide:find(part, 1, true), part .. " in " .. wide)
    end
    assert.is_true(utf8.len(wide) < 140)
    tmux "resize-window -t seen -x 80 -y 24"
    local narrow = bar_of(wait_for(function(text)
      local bar = bar_of(text)
      return bar and utf8.len(bar) < 80 and bar:find(" left", 1, true) and not bar:find(" MB", 1, true)
    end, "a bar of 80 columns"))
    assert.truthy(narrow:find("loss ", 1, true))
    local _, bars = screen():gsub("epoch 1/1  ", "")
    assert.equal(1, bars) -- nothing of the wider line is left
  end)

  it("gives way to the report of an interruption: Ctrl-C finishes the step, saves and exits with 130", function()
    local folder = start(80, 2000)
    wait_for(is_drawn, "a bar")
    tmux "send-keys -t seen C-c"
    local text = wait_for(shows "exit code", "the exit code")
    assert.truthy(text:find("exit code 130", 1, true), text)
    assert.truthy(text:find("interrupted after ", 1, true) and text:find("(SIGINT)", 1, true), text)
    assert.is_nil(bar_of(text))
    local list = assert(require("crucible.lora.checkpoints").list(folder .. "/seen/checkpoints"))
    assert.equal(1, #list)
  end)

  it("is left at once by a second Ctrl-C, and what was saved is whole", function()
    local folder = start(80, 2000)
    wait_for(is_drawn, "a bar")
    tmux "send-keys -t seen C-c C-c"
    wait_for(shows "exit code 130", "the exit code")
    for _, checkpoint in ipairs(assert(require("crucible.lora.checkpoints").list(folder .. "/seen/checkpoints"))) do
      local checkpoints = require "crucible.lora.checkpoints"
      assert(checkpoints.verify(checkpoint.path, assert(checkpoints.read(checkpoint.path))))
    end
  end)

  it("is none with NO_COLOR: plain lines, no escape codes", function()
    start(100, 30, "NO_COLOR=1")
    local text = wait_for(shows "exit code 0", "the end")
    assert.truthy(text:find("step 20/30  epoch 1  loss ", 1, true), text)
    assert.is_nil(bar_of(text))
  end)

  it("is none in a file", function()
    local folder = temp.folder()
    local program = temp.file(folder, "program.lua", PROGRAM)
    local _, status = shell.run(("lua5.4 %s %s 20 2> %s/log"):format(program, folder, folder))
    assert.equal(0, status)
    local text = temp.read(folder .. "/log")
    assert.is_nil(text:find("[\27\r]"))
    assert.truthy(text:find("step 20/20  epoch 1  loss ", 1, true), text)
  end)
end)
