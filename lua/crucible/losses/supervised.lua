-- Number of a datum's targets of weight other than 0: what losses over tokens count.
---@param datum crucible.core.Datum
---@return integer
return function(datum)
  if not datum.weights then return datum.targets and #datum.targets or #datum.tokens - 1 end
  local count = 0
  for _, weight in ipairs(datum.weights) do
    if weight ~= 0 then count = count + 1 end
  end
  return count
end
