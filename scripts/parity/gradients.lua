-- Our side of scripts/check_gradstat: gradients of a real model after one update, and what the engine says of
-- them.
--   lua5.4 scripts/parity/gradients.lua MODEL FOLDER
-- Writes FOLDER/<i>.gradient and FOLDER/<i>.value, 4-byte floats in the order of the matrices, and
-- FOLDER/figures.json.
local cjson = require "cjson"
local core = require "crucible.core"

local QUANTILES = { 0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1 }

local model = assert(core.open_model(arg[1]))
local session = assert(model:session {
  rank = 16, alpha = 32, dropout = 0.05, seed = 3, targets = { "q_proj", "k_proj", "v_proj", "o_proj" },
})

local function batch()
  local rows, size = {}, model:tokenizer():info().size
  for row = 1, 2 do
    local tokens = {}
    for i = 1, 65 do tokens[i] = math.random(0, size - 1) end
    rows[row] = { tokens = tokens }
  end
  return rows
end

local function write(path, values)
  local file = assert(io.open(path, "wb"))
  for first = 1, #values, 200 do
    local last = math.min(first + 199, #values)
    file:write(string.pack("<" .. ("f"):rep(last - first + 1), table.unpack(values, first, last)))
  end
  file:close()
end

-- Numbers as text that reads back exactly.
local function exact(value)
  if math.type(value) == "float" then return ("%.17g"):format(value) end
  if type(value) ~= "table" then return value end
  local copy = {}
  for key, inner in pairs(value) do copy[key] = exact(inner) end
  return copy
end

math.randomseed(1)
assert(session:forward_backward(batch()))
assert(session:optim_step { lr = 1e-3 })
assert(session:forward_backward(batch()))

local figures = assert(session:statistics("gradient", { quantiles = QUANTILES, magnitudes = true }))
for i, parameter in ipairs(session:parameters()) do
  local found = figures[i]
  found.name, found.rows, found.columns = parameter.name, parameter.rows, parameter.columns
  local bins = found.magnitudes
  found.magnitudes = { least = bins.least, counts = table.move(bins, 1, #bins, 1, {}) }
  found.singular = assert(session:singular_values(parameter.name))
  figures[i] = exact(found)
  for _, which in ipairs { "gradient", "value" } do
    write(("%s/%d.%s"):format(arg[2], i, which), session:read(parameter.name, which))
  end
end
local file = assert(io.open(arg[2] .. "/figures.json", "w"))
file:write(cjson.encode { quantiles = exact(QUANTILES), matrices = figures, scale = 2 })
file:close()
