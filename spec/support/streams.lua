-- Streams that keep what is written to them.
local streams = {}

--- A stream as io's have it, with text(): all that was written.
---@return table
function streams.new()
  local parts = {}
  return {
    write = function(self, ...)
      for _, text in ipairs { ... } do parts[#parts + 1] = text end
      return self
    end,
    flush = function() end,
    text = function() return table.concat(parts) end,
  }
end

return streams
