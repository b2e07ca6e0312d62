-- The prompt and the chat in a real terminal: scripts/check_prompt drives them by tmux.
local shell = require "spec.support.shell"

local build = os.getenv "CRUCIBLE_BUILD" or "build/release"

-- The sanitizers slow the terminal's program too much to be waited for.
if build:match "[^/]*$" ~= "release" then return end

describe("the prompt in a terminal #slow", function()
  it("edits, completes, and is interrupted without harm", function()
    local _, there = shell.run "command -v tmux"
    if there ~= 0 then return pending "tmux is not installed" end
    local output, status = shell.run(("CRUCIBLE_BUILD=%s scripts/check_prompt"):format(shell.quote(build)))
    assert.equal(0, status, output)
  end)
end)
