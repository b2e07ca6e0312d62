-- gradient_noise_scale: the batch size, in rows, at which the noise of the gradient is as long as the
-- gradient: S / |G|² of McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, appendix
-- A.1, from the micro-batches of each step. Needs steps of at least two pieces: grad_accumulation above
-- 1, or batches longer than micro_batch_tokens.
--
-- With pieces of b_i rows whose mean gradients are g_i, and G over all B rows: E|g_i|² = |G|² + S / b_i and
-- E|G_B|² = |G|² + S / B. Both estimates are noisy, so each is averaged over steps before they are divided.
local hook = require "crucible.hooks.hook"
local schema = require "crucible.schema"

local entries = {
  { name = "decay", default = 0.95, check = schema.number { min = 0, below = 1 },
    doc = "weight of earlier steps in the averages" },
}

-- |G|² and S of one step; nil with fewer than two pieces. A piece's norm is that of its share of the
-- mean over all rows.
local function estimate(pieces, whole_norm)
  local rows, kept = 0, {}
  for _, piece in ipairs(pieces) do
    if piece.rows > 0 then
      rows = rows + piece.rows
      kept[#kept + 1] = piece
    end
  end
  if #kept < 2 then return nil end
  local small, inverse = 0, 0
  for _, piece in ipairs(kept) do
    small = small + (piece.norm * rows / piece.rows) ^ 2 / #kept
    inverse = inverse + 1 / piece.rows / #kept
  end
  local noise = (small - whole_norm ^ 2) / (inverse - 1 / rows)
  return whole_norm ^ 2 - noise / rows, noise, #kept
end

local function whole_norm(gradients)
  local squares = 0
  for _, gradient in pairs(gradients) do squares = squares + gradient:norm() ^ 2 end
  return math.sqrt(squares)
end

local function is_finite(value) return value == value and math.abs(value) ~= math.huge end

--- The hook "noise".
---@param options { decay: number? }?
---@return crucible.hooks.Hook
return function(options)
  local decay = hook.options("gradient_noise_hook", entries, options).decay
  local mean = { signal = 0, noise = 0, weight = 0 }
  local function run(info)
    local signal, noise, pieces = estimate(info.session:pieces(), whole_norm(info.gradients))
    if not signal or not is_finite(signal + noise) then return nil end
    mean.signal = decay * mean.signal + (1 - decay) * signal
    mean.noise = decay * mean.noise + (1 - decay) * noise
    mean.weight = decay * mean.weight + (1 - decay)
    local scale = mean.signal > 0 and mean.noise > 0 and mean.noise / mean.signal or nil
    return {
      gradient_noise_scale = scale,
      gradient_noise = { signal = mean.signal / mean.weight, noise = mean.noise / mean.weight, pieces = pieces },
    }
  end
  return hook.new {
    run = run, watch = { "pieces" }, state = function() return mean end, restore = function(kept) mean = kept end,
  }
end
