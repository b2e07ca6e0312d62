-- Numeric answers of word problems in the style of GSM8K (Cobbe et al. 2021), whose solutions end
-- in "#### 72".
local numeric = {}

-- The number of a piece of text: without thousands' commas and the full stop of a sentence.
local function number_of(piece)
  return tonumber((piece:gsub(",", ""):gsub("%.+$", "")))
end

-- The last number of a text. A minus counts unless a digit stands before it: "5-3" ends in 3.
local function last_number(solution)
  local last
  for at, sign, digits in solution:gmatch "()(%-?)%$?(%d[%d,]*%.?%d*)" do
    if at > 1 and solution:find("^%d", at - 1) then sign = "" end
    last = number_of(sign .. digits) or last
  end
  return last
end

--- The answer that a solution gives: the number after its first "####", else the last number in it.
---@param solution string
---@return number?
function numeric.answer(solution)
  local marked = solution:match "####%s*%$?%s*(%-?[%d%.,]+)"
  return marked and number_of(marked) or last_number(solution)
end

-- OpenAI's extract_answer: what follows "#### ", as text.
local function strict(solution)
  local marked = solution:match "#### (%-?[%d%.,]+)"
  return marked and marked:gsub(",", "")
end

--- 1 where both texts give the same number.
---@param expected string
---@param predicted string
---@return number
function numeric.gsm8k(expected, predicted)
  local right, found = numeric.answer(expected), numeric.answer(predicted)
  return right ~= nil and found ~= nil and right == found and 1 or 0
end

--- The same by the rule of the data set's own script: only a number after "#### " counts, compared
--- as text.
---@param expected string
---@param predicted string
---@return number
function numeric.gsm8k_strict(expected, predicted)
  local right, found = strict(expected), strict(predicted)
  return right ~= nil and right == found and 1 or 0
end

return numeric
