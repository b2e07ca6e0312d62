-- Cancelling a call from a signal handler. In builds with crucible.core.debug alone: it has the handler.
require "crucible.core"
local found, native = pcall(require, "crucible.core.debug")
if not found then return end

local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local tiny_model = require "spec.support.tiny_model"

local function rows(count)
  local out = {}
  for i = 1, count do
    out[i] = { tokens = lists.map(lists.uniform(i, 500, 32768), function(x) return x // 1 % 320 end) }
  end
  return out
end

describe("a cancelled call", function()
  local session

  before_each(function() session = tiny_model.session({ dropout = 0.1 }) end)

  after_each(function()
    native.cancel_every()
    session:close()
  end)

  -- Calls take many milliseconds, so that a cancellation every one of them comes between two layers.
  local function cancelled(call, ...)
    native.cancel_every(session, 1000)
    local result, message, code = call(...)
    native.cancel_every()
    expect.fails("cancelled", "cancelled", result, message, code)
  end

  it("of training leaves no gradients and the same step to be made again", function()
    local reference <close> = tiny_model.session({ dropout = 0.1 })
    local expected = assert(reference:forward_backward(rows(4))).loss
    cancelled(session.forward_backward, session, rows(30))
    for _, p in ipairs(session:parameters()) do assert.equal(0, session:norm(p.name, "gradient")) end
    assert.equal(0, session:step())
    assert.equal(expected, assert(session:forward_backward(rows(4))).loss)
  end)

  it("of a forward pass and of scoring leave the session usable", function()
    local expected = assert(session:forward(rows(1)))
    cancelled(session.forward, session, rows(40))
    local continuations = {}
    for i = 1, 40 do continuations[i] = { lists.fill(100, i) } end
    local prompts = lists.map(rows(40), function(row) return lists.slice(row.tokens, 1, 300) end)
    cancelled(session.score, session, prompts, continuations)
    assert.same(expected, session:forward(rows(1)))
  end)

  it("of generation lets it go on", function()
    local prompts = lists.map(rows(12), function(row) return lists.slice(row.tokens, 1, 300) end)
    local params = { max_tokens = 3, max_batch = 12 }
    local function rest(generation, tokens)
      for events in function() return (generation:step()) end do
        for _, event in ipairs(events) do tokens[#tokens + 1] = event.token end
      end
      return tokens
    end
    local whole <close> = assert(session:generate(prompts, params))
    local broken <close> = assert(session:generate(prompts, params))
    local expected = rest(whole, {})
    cancelled(broken.step, broken)
    assert.same(expected, rest(broken, {}))
  end)

  it("is none when the cancellation came before it", function()
    session:cancel()
    assert(session:forward(rows(1)))
    assert(session:forward_backward(rows(1)))
  end)
end)
