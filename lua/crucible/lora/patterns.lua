-- Ranks and alphas of single modules: PEFT's rank_pattern and alpha_pattern.
--
-- A pattern is a table of keys and numbers or, where several keys mean one module, a list of pairs of which
-- the first that means it counts:
--
--     { k_proj = 4, ["layers\\.0\\.self_attn\\.q_proj"] = 8 }
--     { { "layers\\.0\\..*", 8 }, { "k_proj", 4 } }
--
-- A key is a regular expression. It means the modules whose name ("model.layers.0.self_attn.q_proj") it matches as
-- a whole or from behind a dot on; core.module_matches decides.
local errors = require "crucible.errors"
local schema = require "crucible.schema"

local patterns = {}

---@alias crucible.lora.Pattern table<string, number>|{ [1]: string, [2]: number }[]

local function check_pairs(list, member)
  for i, pair in ipairs(list) do
    local named = type(pair) == "table" and #pair == 2 and type(pair[1]) == "string" and pair[1] ~= ""
    if not named then return false, ("entry %d: expected a pair of a key and %s"):format(i, member.what) end
    if not member.read(pair[2]) then
      return false, ("%s: expected %s, got %s"):format(schema.show(pair[1]), member.what, schema.show(pair[2]))
    end
  end
  return true
end

--- The pairs of a pattern in the order in which they count; those of a table by key.
---@param pattern crucible.lora.Pattern?
---@return { [1]: string, [2]: number }[]
function patterns.list(pattern)
  if pattern == nil then return {} end
  if #pattern > 0 then return pattern end
  local list = {}
  for key, value in pairs(pattern) do list[#list + 1] = { key, value } end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  return list
end

--- A check for crucible.schema: a pattern whose numbers satisfy `member`.
---@param member crucible.schema.Check
---@return crucible.schema.Check
function patterns.check(member)
  return schema.test("a table of keys and numbers, or a list of such pairs", function(value)
    if type(value) ~= "table" then return false end
    if #value == 0 then
      for key in pairs(value) do
        if type(key) ~= "string" then return false end
      end
    end
    return check_pairs(patterns.list(value), member)
  end)
end

-- The first pair that means a module.
local function find(list, module)
  local matches = require("crucible.core").module_matches
  for i, pair in ipairs(list) do
    local found, message = matches(pair[1], module)
    if found == nil then errors.raise("%s", message) end
    if found then return pair, i end
  end
end

--- What a pattern gives a module.
---@param pattern crucible.lora.Pattern?
---@param module string
---@param default number
---@return number
function patterns.value(pattern, module, default)
  local pair = find(patterns.list(pattern), module)
  return pair and pair[2] or default
end

--- What is wrong with a table whose keys, which have no order, give a module different numbers; nil when
--- nothing is.
---@param pattern crucible.lora.Pattern?
---@param modules { name: string }[]
---@return string? message
function patterns.ambiguity(pattern, modules)
  if not pattern or #pattern > 0 then return nil end
  local list = patterns.list(pattern)
  for _, module in ipairs(modules) do
    local pair, at = find(list, module.name)
    local other = pair and find(table.move(list, at + 1, #list, 1, {}), module.name)
    if other and other[2] ~= pair[2] then
      local text = '"%s" and "%s" both mean %s; give a list of pairs, of which the first counts: { { "%s", %s }, … }'
      return text:format(pair[1], other[1], module.name, pair[1], pair[2])
    end
  end
end

return patterns
