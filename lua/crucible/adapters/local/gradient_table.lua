-- All gradients of a session as a table for the terminal: a line a layer with the norms of its matrices A and B as
-- bars, and the matrices that stand out. What session:gradients() prints as.
local terminal = require "crucible.terminal"

local gradient_table = {}

local BAR, NOTABLE = 16, 3

local function layers_of(views)
  local layers, last = {}, 0
  for _, view in pairs(views) do
    local layer = layers[view.layer] or { A = 0, B = 0, nonfinite = 0 }
    local norm = view:norm()
    layer[view.matrix] = layer[view.matrix] + norm * norm
    layer.nonfinite = layer.nonfinite + view:nonfinite()
    layers[view.layer], last = layer, math.max(last, view.layer)
  end
  return layers, last
end

local function sum_of(layers)
  local sum, most = 0, 0
  for _, layer in pairs(layers) do
    sum = sum + layer.A + layer.B
    most = math.max(most, math.sqrt(layer.A), math.sqrt(layer.B))
  end
  return math.sqrt(sum), most
end

local function bar_text(squares, most)
  local norm = math.sqrt(squares)
  return ("%s %.3g"):format(terminal.bar(most > 0 and norm / most or 0, BAR), norm)
end

local function largest(views)
  local list = {}
  for _, view in pairs(views) do list[#list + 1] = view end
  table.sort(list, function(a, b)
    if a:norm() ~= b:norm() then return a:norm() > b:norm() end
    return a.name < b.name
  end)
  local texts = {}
  for i = 1, math.min(NOTABLE, #list) do texts[i] = ("%s %.3g"):format(list[i].name, list[i]:norm()) end
  return #list, table.concat(texts, ", ")
end

--- The table. Views whose gradients were used already say so.
---@param views table<string, crucible.lora.Gradient>
---@return string
function gradient_table.text(views)
  local any = select(2, next(views))
  if not any then return "crucible.gradients(none)" end
  if any:is_gone() then return "crucible.gradients(gone: read them between forward_backward and optim_step)" end
  local layers, last = layers_of(views)
  local total, most = sum_of(layers)
  local rows = {}
  for number = 1, last do
    local layer = layers[number]
    if layer then
      rows[#rows + 1] = { tostring(number), bar_text(layer.A, most), bar_text(layer.B, most),
        layer.nonfinite > 0 and layer.nonfinite .. " not finite" or "" }
    end
  end
  local count, notable = largest(views)
  return ("%d gradients, norm %.4g\n%slargest: %s"):format(count, total,
    terminal.table({ "layer", "A", "B", "" }, rows), notable)
end

return gradient_table
