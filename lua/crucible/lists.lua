-- Small things done with lists.
local lists = {}

--- Whether a value stands in a list.
---@param list any[]
---@param value any
---@return boolean
function lists.contains(list, value)
  for _, member in ipairs(list) do
    if member == value then return true end
  end
  return false
end

--- The keys of several tables together, sorted.
---@param tables table<string, any>[]
---@return string[]
function lists.names(tables)
  local known, names = {}, {}
  for _, values in ipairs(tables) do
    for name in pairs(values) do
      if not known[name] then
        known[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names
end

return lists
