-- The topological and chirality losses beside PyTorch, SciPy and gudhi (spec/fixtures/domain_losses.json, made by
-- scripts/make_domain_loss_fixtures.py).
local byte_tokenizer = require "spec.support.byte_tokenizer"
local json = require "crucible.json"
local leaves = require "spec.support.leaves"
local loss_functions = require "crucible.lora.loss_functions"

local registry = loss_functions.new()
registry.register_topological_loss()
registry.register_chirality_loss()

local tokenizer = byte_tokenizer.new()

local function read_cases()
  local file = assert(io.open("spec/fixtures/domain_losses.json", "rb"))
  local text = file:read "a"
  file:close()
  return assert(json.decode(text))
end

local function datum_of(case)
  local lines = {}
  for claim = 1, case.claims do lines[claim] = ("CLAIM[c%d]: text"):format(claim) end
  for _, line in ipairs(case.lines) do
    lines[#lines + 1] = ("RELATION: c%d %s c%d"):format(line[1], line[2], line[3])
  end
  return tokenizer:datum("go: ", table.concat(lines, "\n"))
end

local COLUMN = { s = 1, r = 2, c = 3 }

-- What a candidate is at its position: the number of its line there and its column.
local function reader()
  local lines, counts = {}, { digit = 0, letter = 0 }
  return function(position, id)
    local text = tokenizer:decode { id }
    local kind = text:find "%d" and "digit" or "letter"
    if not lines[position] then
      counts[kind] = counts[kind] + 1
      lines[position] = counts[kind]
    end
    return kind, lines[position], tonumber(text) or COLUMN[text]
  end
end

local function see(loss, case)
  local read = reader()
  return leaves.see(loss, { datum_of(case) }, { candidate = function(_, position, id)
    local kind, line, column = read(position, id)
    return case[kind == "digit" and "destinations" or "labels"][line][column]
  end })
end

-- Compares the slopes of the values of one group with those expected, line by line and column by column.
local function assert_slopes(expected, group, slope)
  local read, at = reader(), 0
  local own = slope:totable()
  for p, ids in ipairs(group.ids) do
    for _, id in ipairs(ids) do
      at = at + 1
      local _, line, column = read(group.positions[p], id)
      assert.near(expected[line][column], own[at], 1e-9)
    end
  end
end

describe("Losses of claims beside other implementations", function()
  local cases = read_cases()

  for _, part in ipairs {
    { "topological", "topological", "destinations" },
    { "diagram", { "topological", { matching = "diagram" } }, "destinations" }, { "chirality", "chirality", "labels" },
  } do
    it(("%s on %d random graphs"):format(part[1], #cases), function()
      local loss = registry.resolve(part[2])
      for _, case in ipairs(cases) do
        local seen = see(loss, case)
        local value, _, slopes = leaves.compute(loss, seen)
        assert.near(case[part[1]].loss, value, 1e-9)
        local group = seen.predictions.candidates[1][part[3]]
        for k, leaf in ipairs(seen.leaves) do
          if leaf == group.values then assert_slopes(case[part[1]].slopes, group, slopes[k]) end
        end
      end
    end)
  end
end)
