-- Places in an answer that could have been filled otherwise, and how likely each filling is under
-- teacher forcing: the candidate rule.
--
-- Each candidate is written into the answer and the line is encoded again. A candidate's mass begins at the
-- first token at which two candidates differ, and is the product of the probabilities of the target's tokens
-- while it agrees with them, times that of its first token that differs. So " c1" and " c10", which begin
-- with the same tokens, are told apart by what follows: the terminator, the target's next token, belongs to
-- each candidate. The target's own mass ends after the last token at which another can still branch off.
-- Candidates that branch off with the same token share its mass equally and are called ambiguous. Masses
-- of a slot sum to at most 1.
local errors = require "crucible.errors"
local tensor = require "crucible.tensor"

local slots = {}

---@class crucible.domain.Answer
---@field text string      as the tokens spell it, without special tokens
---@field tokens integer[] that spell it
---@field ends integer[]   last byte of each
---@field before integer   tokens of the datum before the first
---@field all integer[]    the datum's tokens
---@field tokenizer crucible.Tokenizer

-- Tokens before the first that is trained on.
local function prompt_length(datum)
  if datum.prompt_length then return datum.prompt_length end
  for t, weight in ipairs(datum.weights or {}) do
    if weight ~= 0 then return t end
  end
  return 0
end

--- The answer of a datum: its tokens after the prompt up to the first special one.
---@param datum crucible.core.Datum  with `tokenizer`, and `prompt_length` or weights that tell it
---@return crucible.domain.Answer
function slots.answer(datum)
  local tokenizer = datum.tokenizer
  if not tokenizer then
    errors.raise("this loss reads the text of its datums: give each a tokenizer, as lora.datums.row does")
  end
  local before, tokens = prompt_length(datum), {}
  for p = before + 1, #datum.tokens do
    if tokenizer:is_special(datum.tokens[p]) then break end
    tokens[#tokens + 1] = datum.tokens[p]
  end
  return {
    text = tokenizer:decode(tokens), tokens = tokens, ends = assert(tokenizer:ends(tokens)), before = before,
    all = datum.tokens, tokenizer = tokenizer,
  }
end

-- The token that spells a byte: the first that ends there or later.
local function token_at(ends, byte)
  local low, high = 1, #ends
  while low < high do
    local middle = (low + high) // 2
    if ends[middle] >= byte then high = middle else low = middle + 1 end
  end
  return low
end

--- Positions of a span of the answer's bytes: of its first and last token in the datum's tokens.
---@param answer crucible.domain.Answer
---@param span crucible.domain.Span
---@return integer first, integer last
function slots.positions(answer, span)
  return answer.before + token_at(answer.ends, span[1]), answer.before + token_at(answer.ends, span[2])
end

-- ---- paths ---------------------------------------------------------------------------------

local function same_tokens(ids, tokens, first)
  for i, id in ipairs(ids) do
    if tokens[first + i - 1] ~= id then return false end
  end
  return true
end

-- The tokens around a line that its text alone encodes to: { first, last, bytes before, text }, or the whole
-- answer, or nil when neither is how the answer was encoded.
local function window(answer, span)
  local text, ends = answer.text, answer.ends
  local line_end = (text:find("\n", span[2] + 1, true) or #text)
  local line_start = span[1]
  while line_start > 1 and text:byte(line_start - 1) ~= 10 do line_start = line_start - 1 end
  for _, range in ipairs { { token_at(ends, line_start), token_at(ends, line_end) }, { 1, #ends } } do
    local first, last = range[1], range[2]
    local offset = first > 1 and ends[first - 1] or 0
    local part = text:sub(offset + 1, ends[last])
    local ids = answer.tokenizer:encode(part)
    if #ids == last - first + 1 and same_tokens(ids, answer.tokens, first) then
      return { first = first, last = last, offset = offset, text = part }
    end
  end
end

-- Tokens of the window with the candidate in the span, up to the terminator: the first token that begins
-- after the candidate. Also where the candidate's first token stands.
local function path_of(answer, frame, span, candidate)
  local from, to = span[1] - frame.offset, span[2] - frame.offset
  local ids = answer.tokenizer:encode(frame.text:sub(1, from - 1) .. candidate .. frame.text:sub(to + 1))
  local ends = assert(answer.tokenizer:ends(ids))
  local begins, after = token_at(ends, from), from + #candidate - 1
  local path = {}
  for i, id in ipairs(ids) do
    path[i] = id
    if (ends[i - 1] or 0) >= after then return path, begins end
  end
  local following = answer.all[answer.before + frame.last + 1] or answer.tokenizer.eos
  path[#path + 1] = following
  return path, begins
end

-- First place where a path differs from the own one; nil where it does not within both.
local function branch_of(path, own)
  for i = 1, math.min(#path, #own) do
    if path[i] ~= own[i] then return i end
  end
end

---@class crucible.domain.Slot
---@field own integer            place of what the target has among the candidates
---@field paths integer[][]      tokens of each candidate, terminator included
---@field base integer           position t of the target of path token i is base + i
---@field begins integer         path token with which the own candidate begins
---@field positions integer[]    where log-probabilities are asked for
---@field ids integer[][]        of which tokens
---@field places integer[][]     for each candidate, places in the values asked for, whose sum is its log mass
---@field shares number[]        log of how many share that mass
---@field ambiguous integer      candidates that share
---@field count integer          values asked for

-- First and last token of an own path that the datum has a target for.
local function reach(answer, slot, own)
  return math.max(1, 1 - slot.base), math.min(#own, #answer.all - 1 - slot.base)
end

-- Where each candidate leaves the own path, as far as the datum reaches; false: it does not.
local function branches_of(answer, slot)
  local own, branches = slot.paths[slot.own], {}
  local first, last = reach(answer, slot, own)
  for j, path in ipairs(slot.paths) do
    local branch = j ~= slot.own and branch_of(path, own)
    branches[j] = branch and branch >= first and branch <= last and branch or false
  end
  return branches
end

local function least_and_most(branches)
  local least, most = math.huge, 0
  for _, branch in ipairs(branches) do
    if branch then least, most = math.min(least, branch), math.max(most, branch) end
  end
  return least, most
end

-- Asks for the own tokens from `first` to `last` and the first tokens of other branches there. Returns the
-- place in the values of each, by path token and id.
local function ask(slot, own, branches, first, last)
  local place, count = {}, 0
  for i = first, last do
    local ids, at = {}, {}
    local function add(id)
      if at[id] then return end
      count = count + 1
      ids[#ids + 1], at[id] = id, count
    end
    add(own[i])
    for j, path in ipairs(slot.paths) do
      if branches[j] == i then add(path[i]) end
    end
    slot.positions[#slot.positions + 1], slot.ids[#slot.ids + 1], place[i] = slot.base + i, ids, at
  end
  slot.count = count
  return place
end

-- Which candidates share a mass: those that branch off at one place with one token, and those that never do
-- with the target.
local function share_masses(slot, branches)
  local sharing, key_of = {}, {}
  for j, path in ipairs(slot.paths) do
    local branch = branches[j]
    local key = branch and branch .. " " .. path[branch] or "own"
    sharing[key], key_of[j] = (sharing[key] or 0) + 1, key
  end
  for j, key in ipairs(key_of) do
    slot.shares[j] = math.log(sharing[key])
    if sharing[key] > 1 then slot.ambiguous = slot.ambiguous + 1 end
  end
end

local function add_masses(answer, slot)
  local own, branches = slot.paths[slot.own], branches_of(answer, slot)
  local first, most = least_and_most(branches)
  local place = ask(slot, own, branches, first, most)
  for j, path in ipairs(slot.paths) do
    local branch, places = branches[j], {}
    for i = first, branch and branch - 1 or most do places[#places + 1] = place[i][own[i]] end
    if branch then places[#places + 1] = place[branch][path[branch]] end
    slot.places[j] = places
  end
  share_masses(slot, branches)
end

--- A slot of an answer: what stands in `span` is candidate `own`. Nil when the answer is not encoded as its text
--- is, so that candidates cannot be placed.
---@param answer crucible.domain.Answer
---@param span crucible.domain.Span
---@param candidates string[]  texts, candidates[own] as the answer has it
---@param own integer
---@return crucible.domain.Slot?
function slots.new(answer, span, candidates, own)
  local frame = window(answer, span)
  if not frame then return nil end
  local slot = {
    own = own, paths = {}, base = answer.before + frame.first - 2, positions = {}, ids = {}, places = {}, shares = {},
    ambiguous = 0,
  }
  for j, candidate in ipairs(candidates) do
    local path, begins = path_of(answer, frame, span, candidate)
    slot.paths[j] = path
    if j == own then slot.begins = begins end
  end
  add_masses(answer, slot)
  return slot
end

-- ---- masses --------------------------------------------------------------------------------

--- What to ask the engine for: the positions and token ids of all slots in a row.
---@param list { positions: integer[], ids: integer[][] }[]  slots, or tries
---@return crucible.lora.CandidateGroup
function slots.request(list)
  local group = { positions = {}, ids = {} }
  for _, slot in ipairs(list) do
    table.move(slot.positions, 1, #slot.positions, #group.positions + 1, group.positions)
    table.move(slot.ids, 1, #slot.ids, #group.ids + 1, group.ids)
  end
  return group
end

--- Log-probabilities kept where exp and products with 0 are safe: p = 0 is e^-100000.
slots.least = -1e5

---@class crucible.domain.MassIndex
---@field index crucible.Tensor  [R · L] places in the values followed by a 0
---@field width integer          L
---@field shares crucible.Tensor [R]
---@field first integer[]        row of each slot's first candidate, from 1
---@field rows integer           R: candidates of all slots

local function widest(list)
  local width = 1
  for _, slot in ipairs(list) do
    for _, places in ipairs(slot.places) do width = math.max(width, #places) end
  end
  return width
end

--- Where the log masses of all candidates of slots stand in the values that request asks for.
---@param list crucible.domain.Slot[]
---@return crucible.domain.MassIndex
function slots.mass_index(list)
  local width, total = widest(list), 0
  for _, slot in ipairs(list) do total = total + slot.count end
  local flat, shares, first, offset = {}, {}, {}, 0
  for s, slot in ipairs(list) do
    first[s] = #shares + 1
    for j, places in ipairs(slot.places) do
      for k = 1, width do flat[#flat + 1] = places[k] and offset + places[k] or total + 1 end
      shares[#shares + 1] = slot.shares[j]
    end
    offset = offset + slot.count
  end
  return { index = tensor.new(flat), width = width, shares = tensor.new(shares), first = first, rows = #shares }
end

--- Log masses of all candidates of slots, one slot after another: [R].
---@param values crucible.Tensor  [K] log-probabilities, as request asked for them
---@param at crucible.domain.MassIndex
---@return crucible.Tensor
function slots.log_masses(values, at)
  local safe = tensor.concat({ values:clamp(slots.least), tensor.zeros(1) }, 1)
  return safe:index_select(1, at.index):reshape(at.rows, at.width):sum(2) - at.shares
end

-- ---- tries -----------------------------------------------------------------------------------

local function agrees(path, own, count)
  for i = 1, count do
    if path[i] ~= own[i] then return false end
  end
  return true
end

---@class crucible.domain.Trie
---@field positions integer[]
---@field ids integer[][]     the children that the trie allows there; the own token comes first when it is one,
--- and last when it is not
---@field allowed integer[]   how many of `ids` are allowed
---@field own integer[]       place of the own token among `ids`

-- The children of the own prefix of i - 1 tokens, own one first.
local function children(slot, members, i)
  local own, ids, seen = slot.paths[slot.own], {}, {}
  for _, j in ipairs(members) do
    local path = slot.paths[j]
    local id = path[i]
    if id and not seen[id] and agrees(path, own, i - 1) then
      seen[id] = true
      table.insert(ids, id == own[i] and 1 or #ids + 1, id)
    end
  end
  return ids, seen[own[i]]
end

--- The trie of some candidates along the own path, from the own candidate's first token to its terminator
--- or to the token with which it leaves the trie.
---@param answer crucible.domain.Answer
---@param slot crucible.domain.Slot
---@param members integer[]  which candidates make the trie
---@return crucible.domain.Trie
function slots.trie(answer, slot, members)
  local own = slot.paths[slot.own]
  local trie = { positions = {}, ids = {}, allowed = {}, own = {} }
  local first, last = reach(answer, slot, own)
  for i = math.max(first, slot.begins), last do
    local ids, inside = children(slot, members, i)
    if #ids == 0 then break end
    local n = #trie.positions + 1
    trie.positions[n], trie.ids[n], trie.allowed[n], trie.own[n] = slot.base + i, ids, #ids, 1
    if not inside then
      ids[#ids + 1] = own[i]
      trie.own[n] = #ids
      break
    end
  end
  return trie
end

-- ---- lines ------------------------------------------------------------------------------------------

--- The slots of lines, as request and mass_index take them.
---@param lines { slot: table }[]
---@return table[]
function slots.of(lines)
  local list = {}
  for l, line in ipairs(lines) do list[l] = line.slot end
  return list
end

local indices = setmetatable({}, { __mode = "k" }) -- by list of lines

--- mass_index of the lines' slots: the same in every step, made once a list.
---@param lines { slot: table }[]
---@return table
function slots.index_of(lines)
  indices[lines] = indices[lines] or slots.mass_index(slots.of(lines))
  return indices[lines]
end

return slots
