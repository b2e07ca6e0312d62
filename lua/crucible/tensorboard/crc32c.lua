-- CRC-32C (Castagnoli), as RFC 3720 appendix B.4 defines it, and the mask that TFRecord files put on it.
local crc32c = {}

local POLYNOMIAL = 0x82F63B78 -- 0x1EDC6F41, bits reflected
local MASK_DELTA = 0xA282EAD8

local rows = {}
for byte = 0, 255 do
  local crc = byte
  for _ = 1, 8 do crc = crc & 1 == 1 and (crc >> 1) ~ POLYNOMIAL or crc >> 1 end
  rows[byte] = crc
end

local AT_ONCE = 512 -- bytes that string.byte puts on the stack

--- The checksum of a string.
---@param bytes string
---@return integer  32 bits
function crc32c.of(bytes)
  local crc = 0xFFFFFFFF
  for first = 1, #bytes, AT_ONCE do
    local piece = { bytes:byte(first, math.min(first + AT_ONCE - 1, #bytes)) }
    for i = 1, #piece do crc = rows[(crc ~ piece[i]) & 0xFF] ~ (crc >> 8) end
  end
  return crc ~ 0xFFFFFFFF
end

--- The masked checksum: a file of checksums of checksums would otherwise be weak (TensorFlow,
--- tsl/lib/hash/crc32c.h).
---@param bytes string
---@return integer  32 bits
function crc32c.masked(bytes)
  local crc = crc32c.of(bytes)
  return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF
end

return crc32c
