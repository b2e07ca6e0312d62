-- What a run remembers of its steps for its metrics: a few numbers a step, however long it runs, read as the
-- list of steps that lora.calculate_metrics takes.
local history = {}

---@class crucible.lora.History
---@field [integer] { step: integer, loss: number, skipped: boolean, citation_invalid_rate: number? }

-- The rate that a citation loss reports among its components, whatever the composite is called.
local function invalid_rate(components)
  if type(components) ~= "table" then return nil end
  local plain = components.citation_invalid_rate
  if plain ~= nil then return plain end
  for name, value in pairs(components) do
    if type(name) == "string" and name:find "citation" and name:find "invalid_rate$" then return value end
  end
end

local function finite_number(value) return type(value) == "number" and value or 0 / 0 end

--- An empty history.
---@return crucible.lora.History steps, fun(step: table) add
function history.new()
  local losses, rates, count = {}, {}, 0
  local steps = setmetatable({}, {
    __len = function() return count end,
    __index = function(_, i)
      local loss = losses[i]
      if loss == nil then return nil end
      return { step = i, loss = loss or 0 / 0, skipped = loss == false, citation_invalid_rate = rates[i] }
    end,
  })
  return steps, function(step)
    count = count + 1
    losses[count] = not step.skipped and finite_number(step.loss)
    local rate = invalid_rate(step.components)
    if type(rate) == "number" then rates[count] = rate end
  end
end

return history
