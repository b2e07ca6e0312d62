-- Which rows share a batch. A layout is a pure function of the rows' sizes, the seed and the epoch, so a run
-- that goes on needs no more than the number of the step.
--
-- The local engine runs the rows of a micro-batch end to end, each with its own positions and its own
-- attention, so nothing is ever padded and what packing fills is the room of a batch: with batch_tokens,
-- batches of as nearly that many tokens as the rows allow. An engine that pads gains by buckets: rows of like
-- length in one batch.
local random = require "crucible.random"

local packing = {}

--- How rows come into batches:
---   in_order  one after the other in the order of the epoch, until a batch is full
---   best_fit  the longest first, each into the fullest batch that has room for it (best fit decreasing,
---             Johnson et al. 1974), within windows of the order; batches are then shuffled
---   bucket    rows of like length side by side, within windows of the order; batches are then shuffled
packing.methods = { "in_order", "best_fit", "bucket" }

local WINDOW = 4096        -- rows that best_fit looks at together
local BUCKET_WINDOW = 64   -- batches' worth of rows that are sorted together
local SHUFFLE_BATCHES = 1 << 32 -- keeps the order of batches apart from the order of rows of any epoch

-- ---- one window ------------------------------------------------------------------------------

-- The first place in an ascending list of bins whose room is at least `size`; #bins + 1 if none.
local function first_with_room(bins, size)
  local low, high = 1, #bins + 1
  while low < high do
    local middle = (low + high) // 2
    if bins[middle].room >= size then high = middle else low = middle + 1 end
  end
  return low
end

local function by_size(numbers, sizes, descending)
  local place = {}
  for i, number in ipairs(numbers) do place[number] = i end
  local sorted = table.move(numbers, 1, #numbers, 1, {})
  table.sort(sorted, function(a, b)
    if sizes[a] ~= sizes[b] then
      if descending then return sizes[a] > sizes[b] end
      return sizes[a] < sizes[b]
    end
    return place[a] < place[b]
  end)
  return sorted, place
end

--- Bins of at most `room`, by best fit decreasing. What is larger than the room has a bin of its own. Within a
--- bin the order of the list is kept.
---@param numbers integer[]  what to pack
---@param sizes table<integer, integer>
---@param room integer
---@return integer[][] bins  in the order in which they were opened
function packing.best_fit(numbers, sizes, room)
  local sorted, place = by_size(numbers, sizes, true)
  local opened, by_room = {}, {}
  for _, number in ipairs(sorted) do
    local size = sizes[number]
    local at = first_with_room(by_room, size)
    local bin = by_room[at]
    if bin then
      table.remove(by_room, at)
    else
      bin = { room = math.max(room, size) }
      opened[#opened + 1] = bin
    end
    bin[#bin + 1] = number
    bin.room = bin.room - size
    table.insert(by_room, first_with_room(by_room, bin.room), bin)
  end
  for _, bin in ipairs(opened) do
    bin.room = nil
    table.sort(bin, function(a, b) return place[a] < place[b] end)
  end
  return opened
end

-- Batches one after the other, each until the next would not fit; at least one a batch.
local function fill(numbers, sizes, room, batches)
  local batch, used
  for _, number in ipairs(numbers) do
    if not batch or used + sizes[number] > room then
      batch, used = {}, 0
      batches[#batches + 1] = batch
    end
    batch[#batch + 1] = number
    used = used + sizes[number]
  end
end

-- ---- an epoch --------------------------------------------------------------------------------

local function each_window(order, length, visit)
  for first = 1, #order, length do
    visit(table.move(order, first, math.min(first + length - 1, #order), 1, {}))
  end
end

local fillers = {}

function fillers.in_order(order, given, batches) fill(order, given.sizes, given.room, batches) end

function fillers.best_fit(order, given, batches)
  each_window(order, WINDOW, function(window)
    local bins = packing.best_fit(window, given.sizes, given.room)
    table.move(bins, 1, #bins, #batches + 1, batches)
  end)
end

-- How many numbers make up BUCKET_WINDOW batches, by the mean size.
local function bucket_window(order, given)
  local total = 0
  for _, number in ipairs(order) do total = total + given.sizes[number] end
  return math.max(1, BUCKET_WINDOW * given.room * #order // math.max(1, total))
end

function fillers.bucket(order, given, batches)
  local lengths = given.lengths or given.sizes
  each_window(order, bucket_window(order, given), function(window)
    fill((by_size(window, lengths, false)), given.sizes, given.room, batches)
  end)
end

local function shuffled(batches, seed, epoch)
  local mixed = {}
  for i, place in ipairs(random.permutation(#batches, seed, epoch + SHUFFLE_BATCHES)) do mixed[i] = batches[place] end
  return mixed
end

---@class crucible.lora.packing.Given
---@field sizes integer[]     what each number takes of a batch's room: rows or tokens
---@field room integer        of a batch
---@field lengths integer[]?  what buckets sort by; default: sizes
---@field method string       of packing.methods
---@field seed integer
---@field shuffle boolean     another order each epoch; else that of the list

--- The batches of an epoch, as lists of numbers 1 to #sizes; each number stands once.
---@param given crucible.lora.packing.Given
---@param epoch integer
---@return integer[][]
function packing.epoch(given, epoch)
  local order, batches = {}, {}
  if given.shuffle then
    order = random.permutation(#given.sizes, given.seed, epoch)
  else
    for i = 1, #given.sizes do order[i] = i end
  end
  fillers[given.method](order, given, batches)
  if given.method == "in_order" or not given.shuffle then return batches end
  return shuffled(batches, given.seed, epoch)
end

--- The share of the batches' room that stays empty. A batch that is larger than the room counts as full.
---@param batches integer[][]
---@param sizes integer[]
---@param room integer
---@return number
function packing.waste(batches, sizes, room)
  local used, offered = 0, 0
  for _, batch in ipairs(batches) do
    local sum = 0
    for _, number in ipairs(batch) do sum = sum + sizes[number] end
    used, offered = used + sum, offered + math.max(sum, room)
  end
  return offered > 0 and 1 - used / offered or 0
end

return packing
