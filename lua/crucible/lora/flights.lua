-- Steps of a run that are under way at once, where the engine takes a whole step without being waited for
-- (session:begin_step): the next one is on its way while the last is computed.
--
-- Nothing is begun past a step that something else follows (a checkpoint, an evaluation, the end), and what has been
-- begun is finished before the run stops.
local config = require "crucible.lora.config"
local fs = require "crucible.fs"
local schedule = require "crucible.lora.schedule"

local flights = {}

---@class crucible.lora.Flight
---@field place { step: integer, epoch: integer, index: integer }
---@field ticket table      a future
---@field lr number
---@field started number    fs.clock()
---@field more table?       what the plan says besides

--- Whether a run's steps can be under way at once.
---@param run crucible.lora.Run
---@return boolean
function flights.possible(run) return not run.points and run.session.begin_step ~= nil end

-- The place after the last step that was begun.
local function next_place(run)
  local last, s = run.flights[#run.flights], run.state
  if not last then return { step = s.step + 1, epoch = s.epoch, index = s.index + 1 } end
  local place = last.place
  if place.index < run.plan:steps_in(place.epoch) then
    return { step = place.step + 1, epoch = place.epoch, index = place.index + 1 }
  end
  return { step = place.step + 1, epoch = place.epoch + 1, index = 1 }
end

-- Whether something that needs the weights of this very step follows it.
local function is_followed(run, place)
  local options = run.options
  local ends_epoch = place.index == run.plan:steps_in(place.epoch)
  if place.step >= run.plan.total_steps then return true end
  if options.checkpoint_every > 0 and place.step % options.checkpoint_every == 0 then return true end
  if ends_epoch and run.rules.stopping then return true end
  if not options.evaluate then return false end
  if options.evaluate_every == "epoch" then return ends_epoch end
  return place.step % options.evaluate_every == 0
end

local function may_begin(run)
  local last = run.flights[#run.flights]
  if not last then return true end
  if #run.flights >= run.session:steps_at_once() or not run.plan.known_ahead then return false end
  local wanted = not run.stop_wanted and not run.checkpoint_wanted and not run.flight_failure
  return wanted and not is_followed(run, last.place)
end

-- Submits a step.
local function begin(run, place)
  if place.index == 1 then run:tell("epoch.start", {}, { epoch = place.epoch }) end
  run:tell("step.start", {}, { step = place.step, epoch = place.epoch })
  local started = fs.clock()
  local batches, counts, more = run.plan:step(place.epoch, place.index, place.step)
  if not batches then return nil, counts, more end
  local params = config.adam_params(run.plan.config)
  params.lr = schedule.learning_rate(run.plan.config, place.step, run.plan.total_steps)
  local ticket, message, code = run.session:begin_step(batches, run.plan.loss, { counts = counts, params = params })
  if not ticket then return nil, message, code end
  return { place = place, ticket = ticket, lr = params.lr, started = started, more = more }
end

local function fill(run)
  while may_begin(run) do
    local place = next_place(run)
    local flight, message, code = run:guarded(place.step, begin, place)
    if not flight then
      run.flight_failure = { message = message, code = code }
      return
    end
    run.flights[#run.flights + 1] = flight
  end
end

--- The next step's flight, landed: its place, the results of its batches, its update and the seconds it took.
---@param run crucible.lora.Run
---@return table? landed  flight, results, update, seconds
---@return string? message, string? code
function flights.land(run)
  fill(run)
  local flight = run.flights[1]
  if not flight then
    local failure = run.flight_failure
    run.flight_failure = nil
    return nil, failure.message, failure.code
  end
  local found, message, code = run:guarded(flight.place.step, function() return flight.ticket:wait() end)
  if not found then return nil, message, code end
  table.remove(run.flights, 1)
  local now = fs.clock()
  local seconds = now - math.max(flight.started, run.landed_at or 0)
  run.landed_at = now
  return { flight = flight, results = found.results, update = found.update, seconds = seconds }
end

--- Undoes the steps that are under way: the run goes no further than the steps that were counted.
---@param run crucible.lora.Run
function flights.drop(run)
  local tickets = {}
  for i, flight in ipairs(run.flights) do tickets[i] = flight.ticket end
  run.flights = {}
  if #tickets > 0 then run.session:drop_steps(tickets) end
end

return flights
