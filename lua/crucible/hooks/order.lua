-- Where a matrix stands in the network, read from its name: depth, projection, A before B before magnitudes.
local order = {}

--- Projections in the order in which a layer computes them.
order.targets = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local rank = {}
for i, target in ipairs(order.targets) do rank[target] = i end

---@class crucible.hooks.Place
---@field depth integer    from 1; 0 for a name without a layer
---@field target string    "q_proj"; the name itself where there is none
---@field matrix string    "A", "B", "magnitude" or ""
---@field branch string    the name without its last part

--- "layers.9.self_attn.q_proj.lora_B" stands at depth 10, on q_proj, as B.
---@param name string
---@return crucible.hooks.Place
function order.place(name)
  local layer = name:match "layers%.(%d+)%."
  local branch, matrix = name:match "^(.*)%.lora_([AB])$"
  if not branch then branch, matrix = name:match "^(.*)%.lora_(magnitude)_vector$" end
  branch = branch or name
  return {
    depth = layer and math.tointeger(tonumber(layer)) + 1 or 0, target = branch:match "[^.]*$", matrix = matrix or "",
    branch = branch,
  }
end

local function before(a, b)
  if a.place.depth ~= b.place.depth then return a.place.depth < b.place.depth end
  local first, second = rank[a.place.target] or math.huge, rank[b.place.target] or math.huge
  if first ~= second then return first < second end
  if a.place.branch ~= b.place.branch then return a.place.branch < b.place.branch end
  return a.name < b.name
end

--- The names that are keys of a table, in order, each with its place.
---@param by_name table<string, any>
---@return { name: string, place: crucible.hooks.Place }[]
function order.sorted(by_name)
  local list = {}
  for name in pairs(by_name) do list[#list + 1] = { name = name, place = order.place(name) } end
  table.sort(list, before)
  return list
end

--- A function that sorts as order.sorted does and remembers the last answer: the same names come
--- step after step.
---@return fun(by_name: table<string, any>): { name: string, place: crucible.hooks.Place }[]
function order.remembering()
  local list, known = {}, {}
  local function is_known(by_name)
    local count = 0
    for name in pairs(by_name) do
      if not known[name] then return false end
      count = count + 1
    end
    return count == #list
  end
  return function(by_name)
    if is_known(by_name) then return list end
    list, known = order.sorted(by_name), {}
    for _, entry in ipairs(list) do known[entry.name] = true end
    return list
  end
end

return order
