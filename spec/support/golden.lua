-- Reading the fixtures of spec/golden, and measuring how far our numbers are from them.
local cjson = require "cjson"
local hashed = require "support.hashed_normal"

local golden = {}

local folder = debug.getinfo(1, "S").source:match("^@(.*)support/golden%.lua$") .. "golden/"

--- Path of a fixture.
---@param name string
---@return string
function golden.path(name) return folder .. name end

local function read(path)
  local handle = assert(io.open(path, "rb"))
  local bytes = handle:read("a")
  handle:close()
  return bytes
end

--- A JSON fixture.
---@param name string
---@return table
function golden.json(name) return cjson.decode(read(golden.path(name))) end

-- Lists of numbers from and to little-endian f32, some at a time: formats have a limited length.
local PIECE = 200

local function unpack_floats(bytes, first, count)
  local out = {}
  for i = 0, count - 1, PIECE do
    local n = math.min(PIECE, count - i)
    local piece = { string.unpack("<" .. ("f"):rep(n), bytes, first + 4 * i) }
    table.move(piece, 1, n, i + 1, out)
  end
  return out
end

--- Numbers as the bytes of little-endian f32.
---@param values number[]
---@return string
function golden.pack_floats(values)
  local out = {}
  for i = 1, #values, PIECE do
    local n = math.min(PIECE, #values - i + 1)
    out[#out + 1] = string.pack("<" .. ("f"):rep(n), table.unpack(values, i, i + n - 1))
  end
  return table.concat(out)
end

--- Tensors of a safetensors file of f32: name → flat row-major list.
---@param path string
---@return table<string, number[]>
function golden.read_safetensors(path)
  local bytes = read(path)
  local length = string.unpack("<I8", bytes)
  local tensors = {}
  for name, entry in pairs(cjson.decode(bytes:sub(9, 8 + length))) do
    if name ~= "__metadata__" then
      assert(entry.dtype == "F32", name .. " is " .. entry.dtype)
      local from, to = entry.data_offsets[1], entry.data_offsets[2]
      tensors[name] = unpack_floats(bytes, 9 + length + from, (to - from) // 4)
    end
  end
  return tensors
end

--- Whether a name is that of DoRA's magnitudes, which PEFT stores with one dimension.
---@param name string
---@return boolean
function golden.is_vector(name) return name:find("lora_magnitude_vector$") ~= nil end

--- Writes f32 matrices, and vectors of one column, as a safetensors file.
---@param path string
---@param tensors { name: string, rows: integer, columns: integer, values: number[] }[]
function golden.write_safetensors(path, tensors)
  local header, data, offset = {}, {}, 0
  for i, t in ipairs(tensors) do
    data[i] = golden.pack_floats(t.values)
    local shape = golden.is_vector(t.name) and { t.rows } or { t.rows, t.columns }
    header[t.name] = { dtype = "F32", shape = shape, data_offsets = { offset, offset + #data[i] } }
    offset = offset + #data[i]
  end
  local text = cjson.encode(header)
  text = text .. (" "):rep(-#text % 8)
  local handle = assert(io.open(path, "wb"))
  handle:write(string.pack("<I8", #text), text, table.concat(data))
  handle:close()
end

--- The name of one of our matrices in PEFT's adapter_model.safetensors.
---@param name string  "layers.0.self_attn.q_proj.lora_A"
---@return string
function golden.peft_name(name)
  return "base_model.model.model." .. name .. (golden.is_vector(name) and "" or ".weight")
end

--- Session:read in the row order of Hugging Face checkpoints. A GGUF llama file lays the two halves
--- that a rotary pair joins beside each other: row 2i + half of a head is theirs at half·size/2 + i.
--- Of a branch only the B of q and k has such rows.
---@param session crucible.core.Session
---@param parameter { name: string, target: string, rows: integer, columns: integer }
---@param which string?
---@param head_size integer?  nil where the file's rows are as in checkpoints
---@return number[]
function golden.read(session, parameter, which, head_size)
  local values = session:read(parameter.name, which)
  local rotated = parameter.target == "q_proj" or parameter.target == "k_proj"
  if not head_size or not rotated or parameter.name:find("lora_A$") then return values end
  local out, columns, half_size = {}, parameter.columns, head_size // 2
  for row = 0, parameter.rows - 1 do
    local within = row % head_size
    local theirs = row - within + (within % 2) * half_size + within // 2
    table.move(values, row * columns + 1, (row + 1) * columns, theirs * columns + 1, out)
  end
  return out
end

--- Sets a session's branches to the values that the fixtures were made with, through a file in
--- PEFT's layout at `path`.
---@param session crucible.core.Session  a new one: magnitudes are derived from those it starts with
---@param path string
---@param head_size integer?  as golden.read takes it
function golden.load_hashed(session, path, head_size)
  local tensors = {}
  for i, p in ipairs(session:parameters()) do
    local values = golden.is_vector(p.name)
      and hashed.magnitudes(p.name, golden.read(session, p, "value", head_size)) or hashed.lora_values(p)
    tensors[i] = { name = golden.peft_name(p.name), rows = p.rows, columns = p.columns, values = values }
  end
  golden.write_safetensors(path, tensors)
  assert(session:load_lora(path))
end

--- |a - b|, the largest of two lists; NaN counts as infinite.
---@param a number[]
---@param b number[]
---@return number
function golden.largest_difference(a, b)
  assert(#a == #b, ("%d values beside %d"):format(#a, #b))
  local largest = 0.0
  for i = 1, #a do
    local difference = math.abs(a[i] - b[i])
    if difference ~= difference then return math.huge end
    largest = math.max(largest, difference)
  end
  return largest
end

--- Euclidean norm.
---@param a number[]
---@return number
function golden.norm(a)
  local sum = 0.0
  for i = 1, #a do sum = sum + a[i] * a[i] end
  return math.sqrt(sum)
end

local function subtract(a, b)
  assert(#a == #b, ("%d values beside %d"):format(#a, #b))
  local out = {}
  for i = 1, #a do out[i] = a[i] - b[i] end
  return out
end

--- Norm of the difference over the norm of what was expected.
---@param ours number[]
---@param theirs number[]
---@return number
function golden.relative_norm(ours, theirs) return golden.norm(subtract(ours, theirs)) / golden.norm(theirs) end

--- The same, estimated from the fixture's sketch and the exact norm of what was sketched.
---@param name string
---@param ours number[]
---@param sketch number[]
---@param norm number
---@return number
function golden.sketched_difference(name, ours, sketch, norm)
  return golden.norm(subtract(hashed.sketch(name, ours), sketch)) / norm
end

--- |ours - theirs| / |theirs|.
---@param ours number
---@param theirs number
---@return number
function golden.relative(ours, theirs) return math.abs(ours - theirs) / math.abs(theirs) end

--- Greedy continuation of one prompt, as a list of ids.
---@param session crucible.core.Session
---@param prompt integer[]
---@param count integer
---@return integer[]
function golden.greedy(session, prompt, count)
  local generation = assert(session:generate({ prompt }, { temperature = 0, max_tokens = count }))
  local ids = {}
  for events in function() return (generation:step()) end do
    for _, event in ipairs(events) do ids[#ids + 1] = event.token end
  end
  generation:close()
  return ids
end

return golden
