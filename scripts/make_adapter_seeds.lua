-- Writes csrc/fuzz/seeds/gguf_adapter: small adapters, whole and broken.
--
--   lua5.4 scripts/make_adapter_seeds.lua       (from the root of the source tree)

local FOLDER = "csrc/fuzz/seeds/gguf_adapter/"

local function text(value) return string.pack("<I4s8", 8, value) end
local function f32(value) return string.pack("<I4f", 6, value) end

-- Keys of a whole adapter, with `changes` on top; false leaves one out.
local function keys(changes)
  local all = {
    ["general.architecture"] = text "llama", ["general.type"] = text "adapter", ["adapter.type"] = text "lora",
    ["adapter.lora.alpha"] = f32(4),
  }
  for name, value in pairs(changes or {}) do all[name] = value or nil end
  return all
end

local function floats(count, value) return string.pack("<f", value or 0.5):rep(count) end

-- A tensor of f32, shape outermost first.
local function tensor(name, rows, columns, bytes)
  return { name = name, shape = { rows, columns }, bytes = bytes or floats(rows * columns) }
end

local function pair(prefix, rank, inner, outer)
  return tensor(prefix .. ".weight.lora_a", rank, inner), tensor(prefix .. ".weight.lora_b", outer, rank)
end

local function entry(t, offset, kind)
  return string.pack("<s8I4I8I8I4I8", t.name, 2, t.shape[2], t.shape[1], kind or 0, offset)
end

local function pad(bytes) return bytes .. ("\0"):rep(-#bytes % 32) end

local function write(name, all, tensors, kind)
  local names, head, list, data = {}, {}, {}, ""
  for key in pairs(all) do names[#names + 1] = key end
  table.sort(names)
  for i, key in ipairs(names) do head[i] = string.pack("<s8", key) .. all[key] end
  for i, t in ipairs(tensors) do
    list[i] = entry(t, #data, kind)
    data = data .. pad(t.bytes)
  end
  local file <close> = assert(io.open(FOLDER .. name .. ".gguf", "wb"))
  local front = "GGUF" .. string.pack("<I4I8I8", 3, #tensors, #names) .. table.concat(head) .. table.concat(list)
  file:write(pad(front), data)
end

local qa, qb = pair("blk.0.attn_q", 2, 8, 6)
local da, db = pair("blk.3.ffn_down", 1, 4, 3)
local whole = { qa, qb, da, db }

write("whole", keys(), whole)
write("alpha_0", keys { ["adapter.lora.alpha"] = f32(0) }, whole)
write("digest", keys { ["crucible.lora.sha256"] = text(("0"):rep(64)) }, whole)
write("bad_type", keys { ["general.type"] = text "model" }, whole)
write("bad_no_type", keys { ["general.type"] = false }, whole)
write("bad_adapter_type", keys { ["adapter.type"] = text "control_vector" }, whole)
write("bad_alpha", keys { ["adapter.lora.alpha"] = f32(0 / 0) }, whole)
write("bad_alpha_text", keys { ["adapter.lora.alpha"] = text "4" }, whole)
write("bad_no_alpha", keys { ["adapter.lora.alpha"] = false }, whole)
write("bad_no_partner", keys(), { qa, qb, da })
write("bad_rank", keys(), { qa, tensor("blk.0.attn_q.weight.lora_b", 6, 3) })
write("bad_name", keys(), { qa, qb, (pair("token_embd", 1, 4, 3)) })
write("bad_layer", keys(), { pair("blk.99999999999999999999.attn_q", 1, 2, 2) })
write("bad_twice", keys(), { qa, qb, qa })
write("bad_dtype", keys(), whole, 9)
write("bad_empty", keys(), {})
