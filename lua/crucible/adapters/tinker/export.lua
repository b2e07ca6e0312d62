-- The lora of a server, here: its archive downloaded into a PEFT folder, and compared with another one.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local peft = require "crucible.lora.peft"

local export = {}

-- ---- downloading -----------------------------------------------------------------------------

local function read_path(value)
  if type(value.path) == "string" then return value.path end
  return nil, "the answer names no path"
end

-- Saves the weights for sampling under a name: the name.
local function save_for_sampler(session)
  local lane = session.lane
  local op = { kind = "save_weights_for_sampler", read = read_path }
  function op.renew()
    lane.saves = lane.saves + 1
    op.name = ("%s-export-%d"):format(lane.prefix, lane.saves)
  end
  function op.body(model_id, seq_id)
    return json.encode {
      model_id = model_id, path = op.name, seq_id = seq_id, type = "save_weights_for_sampler",
    }, nil, "save_weights_for_sampler"
  end
  op.renew()
  local path, message, code = lane:add(op):wait()
  if not path then return nil, message, code end
  return op.name
end

local function origin_of(url) return url:match "^(%a+://[^/?#]*)" end

-- Where a redirect leads; the key goes along to the same host alone.
local function follow(client, from, location)
  local origin = origin_of(from)
  if location:find "^/" then location = origin .. location end
  if not location:find "^https?://" then
    return errors.failure("unsupported", "%s: the archive is at %s, which is no address of http or https", client.url,
      client.clean(location:sub(1, 100)))
  end
  return location, origin_of(location) ~= origin_of(client.address())
end

local MOST_REDIRECTS = 5
local REDIRECT = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

-- One file by GET: true; false where there is none; nil, message, code. 425: it is still being written.
local function fetch(client, path, file)
  local request = { url = client.address() .. "/api/v1/" .. path, file = file, path = path }
  local attempts, redirects = client:attempts(client.url .. ": " .. path), 0
  while true do
    local verdict, location
    client:send(request, function(found, transfer)
      verdict, location = found, transfer and transfer:header "location"
    end)
    local ok, why, kind = client:turn_until(function() return verdict ~= nil end)
    if not ok then return nil, why, kind end
    if verdict.kind == "done" then return true end
    if verdict.kind == "gone" then return false, verdict.message end
    if REDIRECT[verdict.status] and location and redirects < MOST_REDIRECTS then
      redirects = redirects + 1
      local place, unsigned, code = follow(client, request.url, location)
      if not place then return nil, unsigned, code end
      request.url, request.unsigned = place, unsigned
    elseif verdict.kind == "again" or verdict.kind == "unknown" then
      local pause, message, code = attempts:after(verdict)
      if not pause then return nil, message, code end
      local over = fs.clock() + pause
      client:turn_until(function() return fs.clock() >= over end, over)
    else
      return nil, ("%s: %s"):format(attempts.what, verdict.message), verdict.code
    end
  end
end

local function fetch_archive(session, name, file)
  local model, message = session.lane.model_id, nil
  for _, place in ipairs { name, "sampler_weights/" .. name } do
    local found, why, code = fetch(session.client, ("training_runs/%s/checkpoints/%s/archive"):format(model, place),
      file)
    if found or found == nil then return found, why, code end
    message = why
  end
  return errors.failure("unsupported", "%s (%s) gives no archive of a lora: %s", session.client.url,
    session.profile.name, message)
end

-- The folder with the two files, itself or one below.
local function adapter_folder(folder)
  for _, name in ipairs { "", table.unpack(fs.list(folder) or {}) } do
    local place = name == "" and folder or paths.join(folder, name)
    if paths.is_file(paths.join(place, peft.weights_file)) then return place end
  end
  return errors.failure("format", "the server's archive holds no %s", peft.weights_file)
end

-- ---- safetensors -----------------------------------------------------------------------------

local sizes = { F32 = 4, BF16 = 2, F16 = 2 }

-- Half precision by its fields: IEEE 754, section 3.
local function half(bits)
  local sign, exponent, fraction = bits >> 15 == 1 and -1 or 1, bits >> 10 & 31, bits & 1023
  if exponent == 0 then return sign * fraction * 2.0 ^ -24 end
  if exponent == 31 then return fraction == 0 and sign * math.huge or 0 / 0 end
  return sign * (1 + fraction / 1024) * 2.0 ^ (exponent - 15)
end

local readers = {
  F32 = function(bytes, at) return (("<f"):unpack(bytes, at)) end,
  BF16 = function(bytes, at) return (("<f"):unpack("\0\0" .. bytes:sub(at, at + 1))) end,
  F16 = function(bytes, at) return half((("<I2"):unpack(bytes, at))) end,
}

-- Name → { shape, at(i) } of a safetensors file.
local function read_tensors(path)
  local bytes, message, code = fs.read_file(path)
  if not bytes then return nil, message, code end
  local length = #bytes >= 8 and ("<I8"):unpack(bytes) or -1
  local header = length >= 0 and length <= #bytes - 8 and json.decode(bytes:sub(9, 8 + length)) or nil
  if type(header) ~= "table" then return errors.failure("format", "%s is no safetensors file", path) end
  local tensors = {}
  for name, entry in pairs(header) do
    if name ~= "__metadata__" then
      local size, read = sizes[entry.dtype], readers[entry.dtype]
      if not size then return errors.failure("unsupported", "%s: %s has the type %s", path, name, entry.dtype) end
      local first, count = 9 + length + entry.data_offsets[1], (entry.data_offsets[2] - entry.data_offsets[1]) // size
      if first + count * size - 1 > #bytes then return errors.failure("format", "%s is cut short", path) end
      tensors[name] = { shape = entry.shape, count = count, at = function(i) return read(bytes, first + i * size) end }
    end
  end
  return tensors
end

-- ---- the config --------------------------------------------------------------------------------

local function targets_in(tensors)
  local seen, list = {}, {}
  for name in pairs(tensors) do
    local target = name:match "([%w_]+)%.lora_A%.weight$"
    if target and not seen[target] then
      seen[target], list[#list + 1] = true, target
    end
  end
  table.sort(list)
  return list
end

local function rank_in(tensors)
  for name, tensor in pairs(tensors) do
    if name:find "%.lora_A%.weight$" then return tensor.shape[1] end
  end
end

-- Servers leave adapter_config.json unfinished (no target_modules): written anew, of what the tensors and the
-- server's file say.
local function write_config(session, from, folder)
  local tensors, message, code = read_tensors(paths.join(from, peft.weights_file))
  if not tensors then return nil, message, code end
  local bytes = fs.read_file(paths.join(from, peft.config_file))
  local given = bytes and json.decode(bytes) or {}
  local rank = rank_in(tensors)
  if not rank then return errors.failure("format", "the server's archive holds no lora matrices") end
  return fs.write_file(paths.join(folder, peft.config_file), peft.config_bytes({
    lora_rank = rank, lora_alpha = tonumber(given.lora_alpha) or session.profile.alpha(rank), lora_dropout = 0,
    target_modules = targets_in(tensors), rslora = given.use_rslora == true,
  }, session.remote_model))
end

local function unpack_into(session, archive, draft, path)
  local ok, message, code = fs.unpack(archive, draft)
  local from
  if ok then from, message, code = adapter_folder(draft) end
  if not from then return nil, message, code end
  ok, message, code = fs.make_folder(path)
  if ok then ok, message, code = write_config(session, from, path) end
  if not ok then return nil, message, code end
  return fs.rename(paths.join(from, peft.weights_file), paths.join(path, peft.weights_file))
end

--- Downloads the lora as a PEFT folder.
---@param session table
---@param path string
---@return string? path, string? message, string? code
function export.download(session, path)
  local name, message, code = save_for_sampler(session)
  if not name then return nil, message, code end
  local ok
  ok, message, code = fs.make_folder(paths.dirname(path))
  if not ok then return nil, message, code end
  local archive, draft = path .. ".tar.gz.part", path .. ".unpacked"
  ok, message, code = fetch_archive(session, name, archive)
  if ok then ok, message, code = unpack_into(session, archive, draft, path) end
  fs.remove_tree(archive)
  fs.remove_tree(draft)
  if not ok then return nil, message, code end
  return path
end

-- ---- comparing -------------------------------------------------------------------------------

local function compare_matrix(name, a, b)
  local largest, size = 0, 0
  for i = 0, a.count - 1 do
    local x, y = a.at(i), b.at(i)
    largest, size = math.max(largest, math.abs(x - y)), math.max(size, math.abs(x), math.abs(y))
  end
  return { name = name, largest = largest, relative = size > 0 and largest / size or 0 }
end

local function same_shape(a, b) return table.concat(a.shape, "×") == table.concat(b.shape, "×") end

--- In what the matrices of two PEFT folders differ: the largest difference, that relative to the largest value of
--- its matrix, and both by matrix.
---@param path string
---@param other string
---@return { largest: number, relative: number, matrices: table[] }? difference, string? message, string? code
function export.compare_folders(path, other)
  local left, message, code = read_tensors(paths.join(path, peft.weights_file))
  if not left then return nil, message, code end
  local right
  right, message, code = read_tensors(paths.join(other, peft.weights_file))
  if not right then return nil, message, code end
  local found = { largest = 0, relative = 0, matrices = {} }
  for name in pairs(right) do
    if not left[name] then return errors.failure("data", "%s has no %s", path, name) end
  end
  for name, tensor in pairs(left) do
    if not right[name] then return errors.failure("data", "%s has no %s", other, name) end
    if not same_shape(tensor, right[name]) then
      return errors.failure("data", "%s is %s in %s and %s in %s", name, table.concat(tensor.shape, "×"), path,
        table.concat(right[name].shape, "×"), other)
    end
    local one = compare_matrix(name, tensor, right[name])
    found.matrices[#found.matrices + 1] = one
    found.largest, found.relative = math.max(found.largest, one.largest), math.max(found.relative, one.relative)
  end
  table.sort(found.matrices, function(a, b) return a.name < b.name end)
  return found
end

--- In what the lora on the server differs from that of a local PEFT folder.
---@param session table
---@param path string
---@return table? difference, string? message, string? code
function export.compare(session, path)
  local draft = paths.join(session.run_dir, ".compared")
  local ok, message, code = export.download(session, draft)
  if not ok then return nil, message, code end
  local found
  found, message, code = export.compare_folders(draft, path)
  fs.remove_tree(draft)
  return found, message, code
end

return export
