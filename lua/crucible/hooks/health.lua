-- gradient_health: a verdict on each gradient, by name; gradient_issues: what is worth a look, as a list
-- of { layer, status, … } that is empty when all is well.
--
--     healthy
--     vanishing    norm below the threshold
--     exploding    norm above the threshold
--     nonfinite    holds NaN or infinities; `count` says how many
--     dead         a B that is still zero after `dead_after` updates: its branch does nothing
--     runaway      the last update was longer than `runaway` times the weights; `ratio` says how much
--     clipped      (layer "all") clipping cut at least `clip_share` of the last `clip_window` steps
--
-- and three that are no issue:
--
--     waiting        the gradient of an A whose B is still zero: it is zero by the product rule
--     frozen         asked for
--     unsupervised   the step's targets all had weight 0
--
-- dead and clipped are reported once, when they begin; the others at every step that shows them.
local hook = require "crucible.hooks.hook"
local order = require "crucible.hooks.order"
local schema = require "crucible.schema"

local entries = {
  { name = "vanishing", default = 1e-7, check = schema.number { min = 0 },
    doc = "norm below which a gradient vanishes" },
  { name = "exploding", default = 1e3, check = schema.number { above = 0 }, doc = "norm above which it explodes" },
  { name = "runaway", default = 0.5, check = schema.number { above = 0 },
    doc = "update-to-weight ratio that is too much" },
  { name = "dead_after", default = 20, check = schema.integer { min = 1 },
    doc = "updates after which a B must have moved" },
  { name = "clip_window", default = 50, check = schema.integer { min = 1 },
    doc = "steps that clipping is judged over" },
  { name = "clip_share", default = 0.95, check = schema.number { above = 0, max = 1 },
    doc = "share of clipped steps that is saturation" },
}

local HARMLESS = { healthy = true, waiting = true, frozen = true, unsupervised = true }

local function is_finite(value) return value == value and value ~= math.huge and value ~= -math.huge end

local function set_of(list)
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

-- ---- after backward ------------------------------------------------------------------------

-- Whether a B has moved; looked up until it has.
local function is_zero(self, info, name)
  if self.alive[name] then return false end
  if not info.session then return info.step == 1 end
  if info.session:weight_norm(name) == 0 then return true end
  self.alive[name] = true
  return false
end

local function status_of(self, info, named, norm)
  if self.frozen[named.name] then return "frozen" end
  if not is_finite(norm) then return "nonfinite" end
  if info.supervised == 0 then return "unsupervised" end
  local place = named.place
  if norm < self.limits.vanishing and place.matrix == "A" and is_zero(self, info, place.branch .. ".lora_B") then
    return "waiting"
  end
  local due = self.updates - (self.born[named.name] or 0) >= self.limits.dead_after
  if place.matrix == "B" and due and is_zero(self, info, named.name) then return "dead" end
  if norm < self.limits.vanishing then return "vanishing" end
  return norm > self.limits.exploding and "exploding" or "healthy"
end

local function judge(self, info)
  local health, issues = {}, {}
  self.frozen = info.session and set_of(info.session:frozen()) or {}
  for _, named in ipairs(self.sorted(info.gradients)) do
    local gradient = info.gradients[named.name]
    local norm = gradient:norm()
    local status = status_of(self, info, named, norm)
    if status == "frozen" then self.born[named.name] = self.updates end
    health[named.name] = status
    if not HARMLESS[status] and not (status == "dead" and self.reported[named.name]) then
      issues[#issues + 1] = {
        layer = named.name, status = status, norm = norm, count = status == "nonfinite" and gradient:nonfinite() or nil,
      }
    end
    self.reported[named.name] = status == "dead"
  end
  return { gradient_health = health, gradient_issues = issues }
end

-- ---- after the update ----------------------------------------------------------------------

-- A B starts at zero and its first updates are as long as itself; it is judged once it has had
-- dead_after of them.
local function find_runaways(self, info, issues)
  for _, named in ipairs(self.sorted(info.gradient_updates)) do
    local update = info.gradient_updates[named.name]
    local age = (self.ages[named.name] or 0) + (update.before > 0 and 1 or 0)
    self.ages[named.name] = age
    local judged = age > (named.place.matrix == "B" and self.limits.dead_after or 0)
    if judged and update.change > self.limits.runaway * update.before then
      issues[#issues + 1] = { layer = named.name, status = "runaway", ratio = update.ratio }
      info.gradient_health[named.name] = "runaway"
    end
  end
end

-- Share of the last steps that were clipped.
local function clip_share(self, info)
  local window, size = self.clipped, self.limits.clip_window
  window[(self.updates - 1) % size + 1] = info.max_grad_norm > 0 and info.grad_norm > info.max_grad_norm
  local clipped = 0
  for _, was in ipairs(window) do clipped = clipped + (was and 1 or 0) end
  return clipped / #window, #window == size
end

local function check_clipping(self, info, issues)
  local share, full = clip_share(self, info)
  local saturated = full and share >= self.limits.clip_share
  if saturated and not self.saturated then
    issues[#issues + 1] = { layer = "all", status = "clipped", share = share, norm = info.grad_norm }
  end
  self.saturated = saturated
  return share
end

local function look_back(self, info)
  self.updates = self.updates + 1
  local issues, found = info.gradient_issues or {}, {}
  info.gradient_health = info.gradient_health or {}
  info.gradient_updates = info.gradient_updates or info.session:updates()
  find_runaways(self, info, issues)
  if info.max_grad_norm and info.grad_norm then found.clipped_share = check_clipping(self, info, issues) end
  found.gradient_issues, found.gradient_health = issues, info.gradient_health
  return found
end

-- What a run that is resumed must know of the steps before.
local lasting = { "alive", "born", "ages", "reported", "clipped", "saturated", "updates" }

--- The hook "health".
---@param thresholds { vanishing: number?, exploding: number?, runaway: number?, dead_after: integer?, clip_window: integer?, clip_share: number? }?
---@return crucible.hooks.Hook
return function(thresholds)
  local self = {
    limits = hook.options("gradient_health_hook", entries, thresholds), sorted = order.remembering(),
    alive = {},    -- B's that are known to have moved
    born = {},     -- updates made when a matrix was last frozen
    ages = {},     -- updates of a matrix that was not zero
    reported = {}, -- whether a matrix was found dead before
    clipped = {}, saturated = false, frozen = {}, updates = 0,
  }
  return hook.new {
    points = { "after_backward", "after_update" }, watch = { "updates" },
    run = function(info)
      if info.point == "after_update" then return look_back(self, info) end
      return judge(self, info)
    end,
    state = function()
      local kept = {}
      for _, field in ipairs(lasting) do kept[field] = self[field] end
      return kept
    end,
    restore = function(kept)
      for _, field in ipairs(lasting) do self[field] = kept[field] end
    end,
  }
end
