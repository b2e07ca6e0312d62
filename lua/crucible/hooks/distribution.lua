-- gradient_stats: moments, extremes, share of zeros and quantiles of each gradient, by name;
-- gradient_histogram: the magnitudes of all of them together, by powers of two.
local hook = require "crucible.hooks.hook"

-- Adds a histogram to a sum that is kept by exponent.
local function add(sum, histogram)
  for i, count in ipairs(histogram.counts) do
    local exponent = histogram.least + i - 1
    sum[exponent] = (sum[exponent] or 0) + count
  end
end

-- { least, counts } of counts by exponent.
local function as_list(sum)
  local least, most
  for exponent in pairs(sum) do
    least, most = math.min(least or exponent, exponent), math.max(most or exponent, exponent)
  end
  local counts = {}
  for exponent = least or 0, most or -1 do counts[#counts + 1] = sum[exponent] or 0 end
  return { least = least, counts = counts }
end

local function run(info)
  local stats, sum, zeros, nonfinite = {}, {}, 0, 0
  for name, gradient in pairs(info.gradients) do
    local histogram = gradient:histogram()
    stats[name] = gradient:stats()
    zeros, nonfinite = zeros + histogram.zeros, nonfinite + histogram.nonfinite
    add(sum, histogram)
  end
  local all = as_list(sum)
  all.zeros, all.nonfinite = zeros, nonfinite
  return { gradient_stats = stats, gradient_histogram = all }
end

--- The hook "distribution".
---@param options table?  none
---@return crucible.hooks.Hook
return function(options)
  hook.options("gradient_distribution_hook", {}, options)
  return hook.new { run = run, distribution = true }
end
