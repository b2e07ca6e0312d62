-- What a server makes of the weights that it is sent is what was wanted.
local expect = require "spec.support.expect"
local reduction = require "crucible.adapters.tinker.reduction"

local function row(...) return { tokens = {}, targets = {}, weights = { ... } } end

-- The coefficient of each target, by row, in the gradient of a server that divides as it says.
local function gradient_of(kind, requests)
  local rows, divisors = {}, {}
  for _, list in ipairs(requests) do
    local sum = 0
    for _, one in ipairs(list) do
      for _, weight in ipairs(one.weights) do sum = sum + weight end
    end
    for _, one in ipairs(list) do
      local own = 0
      for _, weight in ipairs(one.weights) do own = own + weight end
      rows[#rows + 1] = one
      divisors[#divisors + 1] = kind == "token_mean" and math.max(1, sum) or kind == "sequence_mean" and own or 1
    end
  end
  local total = {}
  for r, one in ipairs(rows) do
    local by = divisors[r] * (kind == "sequence_mean" and #rows or 1)
    total[one.tokens] = total[one.tokens] or {}
    for t, weight in ipairs(one.weights) do total[one.tokens][t] = (total[one.tokens][t] or 0) + weight / by end
  end
  return total
end

local function assert_had(kind, rows, step)
  local found = gradient_of(kind, reduction.requests(kind, rows, step or {}))
  for r, one in ipairs(rows) do
    for t, weight in ipairs(one.weights) do
      local had = found[one.tokens] and found[one.tokens][t] or 0
      assert.is_true(math.abs(had - weight) < 1e-6, ("%s %d.%d: %g for %g"):format(kind, r, t, had, weight))
    end
  end
end

describe("a server's reduction", function()
  it("of a sum brings any weights", function()
    assert_had("sum", { row(0.25, 0, -3), row(5, 5), row(0, 0) })
  end)

  it("of a mean over tokens brings any weights: requests stay where its denominator is 1", function()
    assert_had("token_mean", { row(0.1, 0.2), row(0.3, 0, 0.4) })
    assert_had("token_mean", { row(0.6, 0.2), row(0.5), row(0.4, 0.4) })
    assert_had("token_mean", { row(2.5, 1), row(0.1), row(-0.5, 7) })
    assert_had("token_mean", { row(-4, 0.5), row(0.9) })
    assert.equal(1, #reduction.requests("token_mean", { row(1 / 3, 1 / 3), row(1 / 3) }, {}))
    assert.equal(2, #reduction.requests("token_mean", { row(0.6), row(0.6) }, {}))
  end)

  it("of a mean over rows brings what gives each row the same share, and says why no more", function()
    assert_had("sequence_mean", { row(0.25, 0.25), row(0.5, 0), row(0, 0) })
    expect.raises('{ "cross_entropy", { reduction = "sequence_mean" } } means the same', reduction.requests,
      "sequence_mean", { row(0.25, 0.25), row(0.25) }, {})
    expect.raises("negative weights", reduction.requests, "sequence_mean", { row(0.5, -0.25) }, {})
  end)

  it("of a mean over rows needs the counts of the whole step", function()
    local step = {}
    reduction.requests("sequence_mean", { row(0.25, 0.25) }, step)
    expect.raises("give forward_backward the counts of the whole step", reduction.check_step, "sequence_mean", step)
    reduction.requests("sequence_mean", { row(0.1, 0.4) }, step)
    reduction.check_step("sequence_mean", step)
    reduction.check_step("sum", { rows = 3, row_sum = 1 })
  end)

  it("leaves out rows without weight", function()
    assert.same({}, reduction.requests("sum", { row(0, 0) }, {}))
  end)
end)
