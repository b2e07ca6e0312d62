-- The operations of one model on the server, in their order.
--
-- Submits go out one after another, each when the one before was accepted, so that they arrive in order; where the
-- server goes by seq_id and knows repeats, several at once. Their results are polled for together. seq_id counts
-- them from 1 without gaps.
--
-- A submit whose answer is lost may have been done. What follows depends on what the server makes of a seq_id
-- that it has seen (`repeats`):
--
--     deduplicated  the same submit again gives the same future: it is sent again
--     refused       409 tells that it had been done; its result is lost, so the state before is loaded and what
--                   followed it done again
--     ignored       sent again it would be done twice: the last saved state is loaded and what followed it is
--                   done again
--
-- For that a lane keeps a journal: the operations since the last saved state (`base`), in order. Whatever else
-- leaves the server's state in doubt ends the same way: a lost future, an unloaded model, an operation that
-- failed while later ones were under way.
local client_module = require "crucible.adapters.tinker.client"
local future = require "crucible.adapters.tinker.future"
local json = require "crucible.json"

local TOGETHER = 16 -- submits on their way at once, at most
local CAUTION = 20 -- steps after a recovery that each end in a saved state, so that the next one has little to redo

---@class crucible.tinker.Operation
---@field kind string        "forward_backward", "optim_step", "save_weights", …
---@field body fun(model_id: string, seq_id: integer): string, string?, string?  bytes, content type, path
---@field read fun(value: table): any, string?
---@field alters boolean?    changes weights, moments or gradients
---@field expects "pass"|"sample"|nil
---@field renew (fun())?     another name, for one that must not be used twice
---@field future crucible.tinker.Future
---@field seq integer?       once it was sent
---@field poll crucible.tinker.Poll?
---@field accepted boolean?
---@field repeated boolean?  it was sent before and may have been done
---@field unconfirmed boolean?  an update whose loss nobody has seen yet
---@field own boolean?       the lane's, for itself
---@field cut boolean?       nobody wants its result any more

---@class crucible.tinker.Lane
---@field client crucible.tinker.Client
---@field model_id string
---@field seq integer        of the next operation
---@field base string?       the saved state that the journal begins at
---@field journal crucible.tinker.Operation[]
---@field queue crucible.tinker.Operation[]  not sent yet
---@field dirty boolean      the server's state is not the journal's: recover before anything else
---@field left string?        the model before this one, until no saved state of it is needed
---@field unload fun(model_id: string)
---@field order "arrival"|"number"|nil  what the server does operations by; nil: not known
---@field sending table<crucible.tinker.Operation, true>  on their way, not accepted yet
---@field recoveries integer so far
local Lane = {}
Lane.__index = Lane

local lane = {}

--- A lane for a model that was created just now.
---@param fields { client: crucible.tinker.Client, model_id: string, repeats: string, prefix: string, recreate: function, report: function }
---@return crucible.tinker.Lane
function lane.new(fields)
  fields.seq, fields.journal, fields.queue = 1, {}, {}
  fields.dirty, fields.recoveries, fields.caution, fields.saves, fields.sending = false, 0, 0, 0, {}
  fields.most = fields.order == "number" and fields.repeats == "deduplicated" and TOGETHER or 1
  fields.rescue = fields.client:attempts(fields.client.url .. ": recovery")
  return setmetatable(fields, Lane)
end

local function what(self, op) return ("%s: %s"):format(self.client.url, op.kind) end

local function remove(list, item)
  for i, one in ipairs(list) do
    if one == item then return table.remove(list, i) end
  end
end

local function place_of(list, item)
  for i, one in ipairs(list) do
    if one == item then return i end
  end
end

-- ---- operations that a lane makes itself -----------------------------------------------------

local function text_of(value)
  if type(value.path) == "string" then return value.path end
  return nil, "the answer names no path"
end

--- An operation that saves weights and moments under a name of this lane's.
---@param label string?
---@return crucible.tinker.Operation
function Lane:save_operation(label)
  local op = { kind = "save_weights", read = text_of, label = label }
  function op.renew()
    self.saves = self.saves + 1
    op.name = ("%s-%s-%d"):format(self.prefix, (label or "state"):gsub("[^%w_-]", "_"), self.saves)
  end
  function op.body(model_id, seq_id)
    return json.encode {
      model_id = model_id, seq_id = seq_id, path = op.name, overwrite = false, type = "save_weights",
    }, nil, "save_weights"
  end
  op.renew()
  return op
end

local function load_operation(path, optimizer)
  return {
    kind = "load_weights", read = function(value) return value end, alters = true, loads = true, path = path,
    body = function(model_id, seq_id)
      return json.encode {
        model_id = model_id, seq_id = seq_id, path = path, optimizer = optimizer, type = "load_weights",
      }, nil, "load_weights"
    end,
  }
end

-- ---- the journal -----------------------------------------------------------------------------

-- Number of the journal's operations up to the last update before `place`.
local function boundary(self, place)
  for i = place - 1, 1, -1 do
    if self.journal[i].kind == "optim_step" then return i end
  end
  return 0
end

-- Whether a state saved at a place of the journal is one to go back to: not behind an operation whose result is still
-- to come or an update that nobody has found good yet, nor with gradients pending, which some servers save along and
-- others do not.
local function is_base(self, place)
  for i = 1, place do
    local op = self.journal[i]
    if op.unconfirmed or op.future.state == "pending" then return false end
  end
  for i = boundary(self, place) + 1, place do
    if self.journal[i].kind == "forward_backward" then return false end
  end
  return true
end

-- A saved state: what came before it need not be done again.
local function advance_base(self, op)
  local place = place_of(self.journal, op)
  self.base = op.future.value
  self.journal = table.move(self.journal, place + 1, #self.journal, 1, {})
  self.rescue:well()
  if self.left and op.seq and op.model_id == self.model_id then -- nothing of the old model is needed any more
    self.unload(self.left)
    self.left = nil
  end
end

-- The last state that may be gone back to by now.
local function find_base(self)
  for i = #self.journal, 1, -1 do
    local one = self.journal[i]
    if one.kind == "save_weights" and one.future.state == "done" and is_base(self, i) then
      return advance_base(self, one)
    end
  end
end

--- An update was found good: states saved behind it may be gone back to.
---@param op crucible.tinker.Operation
function Lane:confirm(op)
  op.unconfirmed = nil
  find_base(self)
end

local function note_done(self, op, value)
  local first = op.future.state == "pending"
  op.future:resolve(value)
  if first and op.kind == "optim_step" then self.rescue:well() end
  find_base(self)
end

local function stop_poll(op)
  if op.poll then op.poll:cancel() end
  op.poll = nil
end

-- Ends the operations that followed one that failed.
local function fail_list(list, op, message, code)
  for _, later in ipairs(list) do
    if later ~= op then
      stop_poll(later)
      later.future:fail(("not done, since %s failed: %s"):format(op.kind, message), code)
    end
  end
end

-- Drops an operation and all after it, and the gradients that were added since the update before it. One that is on
-- its way is let go on: a number that was sent and then left out would be a hole.
local function cut(self, op, message, code)
  local place = place_of(self.journal, op) or #self.journal + 1
  local kept = boundary(self, place)
  local dropped = table.move(self.journal, kept + 1, #self.journal, 1, {})
  for i = #self.journal, kept + 1, -1 do self.journal[i] = nil end
  for _, later in ipairs(dropped) do
    if later.alters and (later.accepted or later.repeated) then self.dirty = true end
  end
  local queued = self.queue
  self.queue = {}
  self.sending[op] = nil
  for other in pairs(self.sending) do other.cut = true end
  fail_list(table.move(dropped, place - kept + 1, #dropped, 1, {}), op, message, code)
  fail_list(queued, op, message, code)
  stop_poll(op)
  op.future:fail(message, code)
end

-- A failure that stands. One of a pass without a gradient harms nobody else.
local function fail(self, op, verdict)
  local message = verdict.exhausted and verdict.message or ("%s: %s"):format(what(self, op), verdict.message)
  if self.sending[op] and not verdict.consumed then -- the number was not taken
    if self.seq == op.seq + 1 then self.seq = op.seq else self.lost_model = true end
  end
  if op.alters then
    cut(self, op, message, verdict.code)
  else
    remove(self.journal, op)
    op.future:fail(message, verdict.code)
  end
  self.sending[op] = nil
  self:pump()
end

-- The server cannot be reached: what it did of the rest is not known, nor which number it expects next.
local function give_up(self, op, message, code)
  if self.sending[op] then self.lost_model = true end
  cut(self, op, message, code)
  self.dirty = true
end

-- ---- recovery --------------------------------------------------------------------------------

local function own_save(self)
  local save = self:save_operation()
  save.future, save.own = future.new(self.client:host()), true
  return save
end

-- The journal's operations that must be done again, in order, with a state saved after each update.
local function replays(self)
  local list = {}
  for _, op in ipairs(self.journal) do
    if op.alters or op.future.state == "pending" then
      stop_poll(op)
      op.seq, op.accepted, op.repeated = nil, nil, nil
      if op.renew then op.renew() end
      if not op.own then list[#list + 1] = op end
      if op.kind == "optim_step" or op.own then list[#list + 1] = own_save(self) end
    end
  end
  return list
end

-- Makes a new model on the server in this one's place. The old one is unloaded once nothing of it is needed any more:
-- some servers drop its saved states along with it.
local function recreate(self)
  self.paused = true
  self.recreate(self.model_id, function(model_id, message, code)
    self.paused = false
    if not model_id then
      local op = table.remove(self.queue, 1)
      if op then give_up(self, op, message, code) end
      return
    end
    self.left = self.model_id
    self.model_id, self.seq = model_id, 1
    self:pump()
  end)
end

local function load_first(self, path, optimizer, result)
  local op = load_operation(path, optimizer)
  op.future, op.own = result or future.new(self.client:host()), not result
  table.insert(self.queue, 1, op)
end

-- Loads the base and does again what followed.
local function start_recovery(self)
  local list = replays(self)
  table.move(self.queue, 1, #self.queue, #list + 1, list)
  self.queue, self.journal, self.dirty = list, {}, false
  self.recoveries, self.caution = self.recoveries + 1, CAUTION
  local load = self.pending_load
  self.pending_load = nil
  if load then
    table.insert(self.queue, 1, load)
  elseif self.base then
    load_first(self, self.base, true)
  end
  if self.lost_model or not self.base and not load then
    self.lost_model = nil
    recreate(self)
  else
    self:pump()
  end
end

-- A load that a recovery begins with instead of its own.
local function keep_load(self, op)
  stop_poll(op)
  op.seq, op.accepted, op.repeated = nil, nil, nil
  self.pending_load = op
end

-- After a pause, unless this has been tried too often without getting any further.
local function recover(self, op, reason)
  local seconds, message, code = self.rescue:after { counted = true, message = reason, code = "io" }
  if not seconds then return give_up(self, op, message, code) end
  self.report(("%s: %s; the state %s is loaded and %d operations are done again"):format(what(self, op), reason,
    self.base or "of the beginning", #self.journal))
  for _, one in ipairs(self.journal) do stop_poll(one) end
  self.sending[op] = nil
  if op.loads then keep_load(self, op) end
  self.paused, self.dirty = true, true
  self.client.loop:after(seconds, function()
    self.paused = false
    self:pump()
  end)
end

-- Puts an operation that was not done first again, under another number.
local function requeue(self, op)
  stop_poll(op)
  remove(self.journal, op)
  op.seq, op.accepted, op.repeated, self.sending[op] = nil, nil, nil, nil
  if op.renew then op.renew() end
  table.insert(self.queue, 1, op)
end

-- ---- verdicts --------------------------------------------------------------------------------

local function resend(self, op, verdict)
  local seconds, message, code = op.attempts:after(verdict)
  if not seconds then return give_up(self, op, message, code) end
  if verdict.kind == "unknown" then
    op.repeated = true
    if op.renew and self.repeats == "ignored" then op.renew() end
  end
  self.client.loop:after(seconds, function() self:transmit(op) end)
end

-- Goes on after a pause, unless that is too often.
local function pause(self, op, attempts, reason)
  local seconds, message, code = attempts:after { counted = true, message = reason, code = "io" }
  if not seconds then return give_up(self, op, message, code) end
  requeue(self, op)
  self.paused = true
  self.client.loop:after(seconds, function()
    self.paused = false
    self:pump()
  end)
end

local function alters_later(self, op)
  for i = (place_of(self.journal, op) or 0) + 1, #self.journal do
    if self.journal[i].alters then return true end
  end
  return false
end

-- The server counts otherwise than we do. A number that it has passed tells that the operation was done when it was
-- first sent; its result is lost, which matters to all but loads.
local function settle_conflict(self, op, conflict)
  local passed = conflict.expected > conflict.got
  self.seq = passed and math.max(self.seq, conflict.expected) or conflict.expected
  if passed and op.loads then
    self.sending[op], op.accepted = nil, true
    note_done(self, op, {})
    return self:pump()
  end
  local reason = passed and "it had been done, but the answer was lost"
    or ("the server expects seq_id %d, not %d"):format(conflict.expected, conflict.got)
  if op.alters or alters_later(self, op) then return recover(self, op, reason) end
  pause(self, op, self.rescue, reason)
end

-- A load that is not permitted any more is the first request of a new model, and what followed it follows there.
local function load_elsewhere(self, op, verdict)
  if op.seq == 1 then return fail(self, op, verdict) end
  self.sending[op] = nil
  keep_load(self, op)
  self.lost_model, self.dirty = true, true
  self:pump()
end

local function lose_model(self, op, verdict)
  if op.loads then return load_elsewhere(self, op, verdict) end
  self.lost_model = true
  recover(self, op, verdict.message)
end

-- The server knows no such future: what changed nothing, and nothing after it, is asked for anew.
local function lose_result(self, op, verdict)
  local reason = "its result is lost: " .. verdict.message
  if op.alters and not op.loads or alters_later(self, op) then return recover(self, op, reason) end
  pause(self, op, op.attempts, reason)
end

local function settle_failure(self, op, verdict)
  if verdict.conflict then return settle_conflict(self, op, verdict.conflict) end
  if op.loads and verdict.code == "argument" or op.loads and verdict.status == 409 then
    return load_elsewhere(self, op, verdict)
  end
  if op.renew and op.repeated and verdict.status == 409 then -- the name was taken by the first attempt
    op.renew()
    return resend(self, op, verdict)
  end
  fail(self, op, verdict)
end

local function hear_result(self, op, verdict)
  op.poll = nil
  if verdict.kind == "done" then return note_done(self, op, verdict.value) end
  if verdict.kind == "gone" then return lose_result(self, op, verdict) end
  if verdict.exhausted then return give_up(self, op, verdict.message, verdict.code) end
  verdict.consumed = true
  settle_failure(self, op, verdict)
end

local function accepted(self, op, value)
  op.accepted, self.sending[op] = true, nil
  op.attempts:well()
  if op.cut then
    self.dirty = self.dirty or op.alters
    return self:pump()
  end
  if op.sent then op.sent() end
  local id = client_module.request_id(value)
  if id then
    op.poll = self.client:poll(id, op.kind, op.expects, op.read, function(verdict) hear_result(self, op, verdict) end)
    return self:pump()
  end
  local result, message = op.read(value)
  if result == nil then return recover(self, op, message) end
  note_done(self, op, result)
  self:pump()
end

local verdicts = {}

function verdicts.done(self, op, verdict)
  if client_module.request_id(verdict.value) or op.read(verdict.value) ~= nil then
    return accepted(self, op, verdict.value)
  end
  verdict.message, verdict.code, verdict.counted = "the answer names no request_id", "format", true
  verdicts.unknown(self, op, verdict)
end

verdicts.again = resend

function verdicts.unknown(self, op, verdict)
  verdict.kind = "unknown"
  local harmless = not op.alters or op.loads
  if harmless or self.repeats ~= "ignored" then return resend(self, op, verdict) end
  op.repeated = true
  if self.order ~= "arrival" then self.lost_model = true end -- its number may be a hole, which only a new model is free of
  if op.cut then
    self.sending[op], self.dirty = nil, true
    return self:pump()
  end
  recover(self, op, "whether it was done is not known: " .. verdict.message)
end

function verdicts.dialect(self, op, verdict)
  if self.client:switch_dialect() then return self:transmit(op) end
  fail(self, op, verdict)
end

function verdicts.gone(self, op, verdict)
  if verdict.absent and op.kind == "forward" and self.client:switch_dialect() then return self:transmit(op) end
  if verdict.absent then return fail(self, op, verdict) end
  lose_model(self, op, verdict)
end

verdicts.failed = settle_failure

-- Whether somebody waits for what the journal holds.
local function has_pending(self)
  for _, op in ipairs(self.journal) do
    if op.future.state == "pending" and not op.own then return true end
  end
  return false
end

-- ---- sending ---------------------------------------------------------------------------------

--- Sends an operation, the first time or again.
---@param op crucible.tinker.Operation
function Lane:transmit(op)
  if not self.sending[op] or self.client.closed then return end
  local body, content_type, path = op.body(self.model_id, op.seq)
  op.key = op.key or self.client:new_key()
  self.client:send({ path = path, body = body, content_type = content_type, once = true, key = op.key },
    function(verdict)
      if self.sending[op] then verdicts[verdict.kind](self, op, verdict) end
    end)
end

local function sending_count(self)
  local count = 0
  for _ in pairs(self.sending) do count = count + 1 end
  return count
end

-- Sends the first of the queue.
local function send_next(self)
  local op = table.remove(self.queue, 1)
  self.sending[op] = true
  op.attempts = self.client:attempts(what(self, op))
  op.seq, self.seq, op.key, op.model_id = self.seq, self.seq + 1, nil, self.model_id
  if not op.loads then self.journal[#self.journal + 1] = op end
  self:transmit(op)
end

--- Sends what may be sent now. What is in doubt is mended first, when nothing is on its way any more.
function Lane:pump()
  if self.paused or self.client.closed then return end
  if self.dirty and (#self.queue > 0 or self.pending_load or has_pending(self)) then
    if not next(self.sending) then start_recovery(self) end
    return
  end
  if self.lost_model and #self.queue > 0 then
    if next(self.sending) then return end
    self.lost_model = nil
    return recreate(self)
  end
  while #self.queue > 0 and sending_count(self) < self.most and not self.paused and not self.dirty do
    send_next(self)
  end
end

--- Puts an operation at the end of the order; its future.
---@param op crucible.tinker.Operation
---@return crucible.tinker.Future
function Lane:add(op)
  op.future = op.future or future.new(self.client:host())
  self.queue[#self.queue + 1] = op
  if op.kind == "optim_step" and self.caution > 0 then
    self.caution = self.caution - 1
    self.queue[#self.queue + 1] = own_save(self)
  end
  self:pump()
  return op.future
end

--- Saves a state that only this lane will ask for.
function Lane:add_own_save() return self:add(own_save(self)) end

--- Loads a saved state, whatever stands in the journal or the queue.
---@param path string
---@param optimizer boolean  moments too
---@return crucible.tinker.Future
function Lane:restore(path, optimizer)
  local message = "not done, since another state was loaded"
  for _, list in ipairs { self.journal, self.queue } do
    for _, op in ipairs(list) do
      stop_poll(op)
      op.future:fail(message, "cancelled")
    end
  end
  for op in pairs(self.sending) do op.cut = true end
  self.journal, self.queue, self.dirty = {}, {}, false
  local result = future.new(self.client:host())
  load_first(self, path, optimizer, result)
  self.base = optimizer and path or nil
  self:pump()
  if not optimizer then self:add_own_save() end
  return result
end

--- Drops the gradients that were added since the last update. The API has no such call: what the server added is
--- undone before the next operation.
function Lane:drop_gradients()
  local kept = boundary(self, #self.journal + 1)
  for i = #self.journal, kept + 1, -1 do
    local op = self.journal[i]
    if op.kind == "forward_backward" then
      stop_poll(op)
      table.remove(self.journal, i)
      op.future:fail("its gradients were dropped", "cancelled")
      op.cut, self.dirty = true, true
    end
  end
  for i = #self.queue, 1, -1 do
    local op = self.queue[i]
    if op.kind == "forward_backward" then
      table.remove(self.queue, i)
      op.future:fail("its gradients were dropped", "cancelled")
    end
  end
end

--- Undoes operations as if they had never been asked for; what followed them is done again without them.
---@param list crucible.tinker.Operation[]
---@param reason string
function Lane:undo(list, reason)
  local gone = {}
  for _, op in ipairs(list) do gone[op] = true end
  local kept, seen = {}, false
  for _, op in ipairs(self.journal) do
    if gone[op] then
      stop_poll(op)
      seen = true
    else
      if seen then
        stop_poll(op)
        op.future:reset()
      end
      kept[#kept + 1] = op
    end
  end
  for i = #self.queue, 1, -1 do
    if gone[self.queue[i]] then table.remove(self.queue, i) end
  end
  self.journal = kept
  self.report(("%s: %s; what followed is done again without it"):format(self.client.url, reason))
  self.dirty = true
  self:pump()
end

return lane
