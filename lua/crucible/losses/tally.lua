-- What a loss reports beside its value: sums with counts of their own.
local tally = {}

--- Adds `value` to the report of a name; nil is left out.
---@param reports table<string, { sum: number, count: number }>
---@param name string
---@param value number?
---@param count number?  1
function tally.add(reports, name, value, count)
  if value == nil then return end
  local own = reports[name] or { sum = 0, count = 0 }
  own.sum, own.count = own.sum + value, own.count + (count or 1)
  reports[name] = own
end

--- The sum of a list of scalars with the reports beside it.
---@param scalars crucible.Tensor[]
---@param reports table
---@return table
function tally.result(scalars, reports)
  local total
  for _, scalar in ipairs(scalars) do total = total and total + scalar or scalar end
  reports.loss = total
  return reports
end

return tally
