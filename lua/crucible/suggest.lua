-- The nearest known word to a mistyped one.
local suggest = {}

-- Edit distance of Levenshtein with a swap of neighbours counted once (optimal string
-- alignment), row by row.
local function distance(a, b)
  local before, previous, current = {}, {}, {}
  for j = 0, #b do previous[j] = j end
  for i = 1, #a do
    current[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local best = math.min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        best = math.min(best, before[j - 2] + 1)
      end
      current[j] = best
    end
    before, previous, current = previous, current, before
  end
  return previous[#b]
end

-- A word that begins another counts as one edit away from it.
local function edits_between(word, name)
  if #word >= 4 and name:sub(1, #word) == word then return 1 end
  return distance(word, name)
end

--- The name nearest to `word`, or nil when none is near (more than a third of it differs).
---@param word string
---@param names string[]
---@return string?
function suggest.nearest(word, names)
  word = word:lower():sub(1, 100)
  local best, least = nil, math.max(2, #word // 3) + 1
  for _, name in ipairs(names) do
    local edits = edits_between(word, name:lower())
    if edits < least then best, least = name, edits end
  end
  return best
end

--- The end of an error message about an unknown word: the nearest name, or all of them.
---@param word string
---@param names string[]
---@return string  '; did you mean "x"?' or '; known: a, b, c'
function suggest.phrase(word, names)
  local nearest = suggest.nearest(word, names)
  if nearest then return ('; did you mean "%s"?'):format(nearest) end
  if #names == 0 then return "; none is known" end
  return "; known: " .. table.concat(names, ", ")
end

return suggest
