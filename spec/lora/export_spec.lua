-- What sessions write for other programs, and adapters that come back: PEFT folders, GGUF adapters, merged models as
-- GGUF files and as Hugging Face folders, of every family and from either kind of base.
local cjson = require "cjson"
local cli = require "crucible.cli"
local core = require "crucible.core"
local crucible = require "crucible"
local expect = require "spec.support.expect"
local export = require "crucible.lora.export"
local family_model = require "support.family_model"
local gguf_metadata = require "support.gguf_metadata"
local golden = require "support.golden"
local paths = require "crucible.paths"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora
local SEVEN = lora.config.targets
local tokens = family_model.fixtures.rows[1].tokens

-- ---- what the specs start from ---------------------------------------------------------------------------

local function open(base, options)
  local config = {
    base_model = base, lora_rank = 3, lora_alpha = 6, lora_dropout = 0, target_modules = SEVEN, threads = 1,
  }
  for key, value in pairs(options or {}) do config[key] = value end
  return assert(lora.create_session { config = config, seed = 1 })
end

-- A session whose lora has an effect.
local function adapted(base, folder, options)
  local session = open(base, options)
  golden.load_hashed(session.core, folder .. "/hashed.safetensors")
  return session
end

local function write_base(family, folder, kind)
  if kind == "gguf" then
    local path = folder .. "/base.gguf"
    family_model.write_gguf(family, path)
    return path
  end
  assert(core.fs.make_folder(folder .. "/base"))
  family_model.write_folder(family, folder .. "/base", { shards = family == "qwen3" and 3 or nil })
  return folder .. "/base"
end

local function logprobs(session, base)
  return assert(session:forward({ { tokens = tokens } }, { base = base })).logprobs[1]
end

local function assert_close(expected, actual, limit, what)
  local difference = golden.largest_difference(expected, actual)
  assert.is_true(difference < limit, ("%s differs by %g"):format(what or "it", difference))
end

-- Log-probabilities of a merged model alone.
local function merged_logprobs(path)
  local session <close> = open(path, { lora_rank = 1 })
  return logprobs(session, true)
end

local function by_name(list)
  local found = {}
  for _, item in ipairs(list) do found[item.name] = item end
  return found
end

local function bytes_of(path, tensor)
  local file <close> = assert(io.open(path, "rb"))
  file:seek("set", tensor.offset)
  return file:read(tensor.bytes)
end

local function exists(path) return paths.stat(path) ~= nil end

local function nothing_left(folder, ...)
  local kept = { ... }
  for _, name in ipairs(assert(core.fs.list(folder))) do
    local known = name == "hashed.safetensors" or name == "base" or name == "base.gguf"
    for _, other in ipairs(kept) do known = known or name == other end
    assert.is_true(known, name .. " was left behind")
  end
end

-- ---- adapters ------------------------------------------------------------------------------------------------

describe("A GGUF adapter", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("has the keys, names and shapes that llama.cpp reads", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    assert.equal(folder .. "/a.gguf", assert(session:export(folder .. "/a.gguf", { format = "gguf" })))
    local file = assert(core.read_gguf(folder .. "/a.gguf"))
    assert.equal("adapter", file.keys["general.type"])
    assert.equal("lora", file.keys["adapter.type"])
    assert.equal("llama", file.keys["general.architecture"])
    assert.equal(6.0, file.keys["adapter.lora.alpha"])
    local tensors, base = by_name(file.tensors), by_name(session.model:handle():tensors())
    assert.equal(2 * #SEVEN * session.model.info.layers, #file.tensors)
    for _, tensor in ipairs(file.tensors) do
      local name, part = tensor.name:match "^(.*)%.lora_([ab])$"
      local shape = base[name].shape
      assert.same(part == "a" and { 3, shape[2] } or { shape[1], 3 }, tensor.shape, tensor.name)
      assert.equal("F32", tensor.type)
    end
    assert.truthy(tensors["blk.1.ffn_down.weight.lora_b"])
    nothing_left(folder, "a.gguf")
  end)

  it("comes back bit for bit, and training goes on from it as it would have", function()
    for _, base in ipairs { tiny_model.path, tiny_model.untied_path } do
      local session <close> = adapted(base, folder)
      assert(session:export(folder .. "/a.gguf", { format = "gguf" }))
      local again <close> = open(base)
      local before = assert(again.core:digest())
      assert.equal(assert(session.core:digest()), assert(again:load_adapter(folder .. "/a.gguf")))
      assert.not_equal(before, assert(again.core:digest()))
      local row, adam = { { tokens = tokens } }, lora.config.adam_params(session.config)
      for _ = 1, 3 do
        assert.equal(assert(session:forward_backward(row)).loss, assert(again:forward_backward(row)).loss)
        assert.same(assert(session:optim_step(adam)), assert(again:optim_step(adam)))
      end
      assert.equal(assert(session.core:digest()), assert(again.core:digest()))
    end
  end)

  it("of a family whose GGUF files permute q and k fits GGUF and folder alike", function()
    for _, from in ipairs { "gguf", "folder" } do
      local to = from == "gguf" and "folder" or "gguf"
      local session <close> = adapted(write_base("llama", folder, from), folder)
      assert(session:export(folder .. "/a.gguf", { format = "gguf" }))
      local other <close> = open(write_base("llama", folder, to))
      local digest = assert(other:load_adapter(folder .. "/a.gguf"))
      assert.equal(assert(session.core:digest()), digest)
      assert_close(logprobs(session), logprobs(other), 1e-4, from)
    end
  end)

  it("has what rsLoRA's scale adds multiplied into B", function()
    local session <close> = adapted(tiny_model.untied_path, folder, { rslora = true, lora_rank = 4 })
    assert(session:export(folder .. "/a.gguf", { format = "gguf" }))
    for _, rslora in ipairs { true, false } do
      local again <close> = open(tiny_model.untied_path, { rslora = rslora, lora_rank = 4 })
      assert(again:load_adapter(folder .. "/a.gguf"))
      assert_close(logprobs(session), logprobs(again), 1e-5)
    end
    local file = assert(core.read_gguf(folder .. "/a.gguf"))
    local tensor = by_name(file.tensors)["blk.0.attn_v.weight.lora_b"]
    local first = string.unpack("<f", bytes_of(folder .. "/a.gguf", tensor))
    assert.near(2 * session.core:read("layers.0.self_attn.v_proj.lora_B")[1], first, 1e-6) -- sqrt(4)
  end)

  it("has ranks and alphas of single modules as llama.cpp wants them: one alpha, the rest in B", function()
    local patterns = {
      rank_pattern = { k_proj = 5, ["layers\\.0\\.mlp\\.down_proj"] = 1 }, alpha_pattern = { v_proj = 2 },
    }
    local session <close> = adapted(tiny_model.untied_path, folder, patterns)
    assert(session:export(folder .. "/a.gguf", { format = "gguf" }))
    local again <close> = assert(export.open(folder .. "/a.gguf", { model = tiny_model.untied_path, threads = 1 }))
    assert.equal(3, again.config.lora_rank)
    assert_close(logprobs(session), logprobs(again), 1e-5)
    assert.near(session.core:read("layers.1.self_attn.v_proj.lora_B")[1] * 2 / 6,
      again.core:read("layers.1.self_attn.v_proj.lora_B")[1], 1e-8)
  end)

  it("of DoRA is refused by name, out and in; merged it is the same model", function()
    local session <close> = adapted(tiny_model.untied_path, folder, { dora = true })
    local name = "layers.0.self_attn.q_proj.lora_magnitude_vector"
    local magnitudes = session.core:read(name)
    for i, value in ipairs(magnitudes) do magnitudes[i] = value * (1 + 0.01 * (i % 5)) end
    session.core:write(name, magnitudes)
    local expected = logprobs(session)
    expect.fails("unsupported", "a GGUF adapter cannot hold DoRA's magnitudes", session:export(folder .. "/a.gguf",
      { format = "gguf" }))
    expect.fails("unsupported", "a GGUF adapter cannot hold DoRA's magnitudes",
      session.core:save_gguf_adapter(folder .. "/a.gguf"))
    for _, target in ipairs { "m.gguf", "m" } do
      local format = target == "m" and "merged-safetensors" or "merged-gguf"
      local path, report = session:export(folder .. "/" .. target, { format = format, type = "f32" })
      assert(path, report)
      assert_close(expected, merged_logprobs(path), 1e-4)
      assert.is_true(report.difference.largest < 1e-3)
    end
    local plain <close> = adapted(tiny_model.untied_path, folder)
    assert(plain:export(folder .. "/a.gguf", { format = "gguf" }))
    expect.fails("unsupported", "holds no magnitudes of DoRA", session:load_adapter(folder .. "/a.gguf"))
    -- A PEFT folder holds them, and comes back.
    assert(session:export(folder .. "/peft"))
    local again <close> = assert(export.open(folder .. "/peft", { model = tiny_model.untied_path, threads = 1 }))
    assert.equal(assert(session.core:digest()), assert(again.core:digest()))
    assert_close(expected, logprobs(again), 1e-6)
  end)

  it("may hold half-length floats", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    for _, kind in ipairs { "f16", "bf16" } do
      assert(session:export(folder .. "/a.gguf", { format = "gguf", type = kind }))
      assert.equal(kind:upper(), core.read_gguf(folder .. "/a.gguf").tensors[1].type)
      local again <close> = open(tiny_model.untied_path)
      assert(again:load_adapter(folder .. "/a.gguf"))
      assert_close(logprobs(session), logprobs(again), 2e-2, kind)
    end
    expect.fails("unsupported", "an adapter's matrices are f32, f16 or bf16, not Q8_0",
      session:export(folder .. "/b.gguf", { format = "gguf", type = "q8_0" }))
    nothing_left(folder, "a.gguf")
  end)

  -- A copy of the file with other tensors: `change` gets the list and returns one.
  local function rewritten(path, change, keys)
    local file, tensors, values = assert(core.read_gguf(path)), {}, gguf_metadata.values(path)
    for i, tensor in ipairs(file.tensors) do
      tensors[i] = { name = tensor.name, shape = tensor.shape, bytes = bytes_of(path, tensor) }
    end
    for key, value in pairs(keys or {}) do values[key] = value or nil end
    local to = folder .. "/changed.gguf"
    gguf_metadata.write(to, values, change(tensors) or tensors)
    return to
  end

  it("with a missing, an unexpected, a reshaped or a damaged tensor is refused and changes nothing", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    local path = folder .. "/a.gguf"
    assert(session:export(path, { format = "gguf" }))
    local again <close> = open(tiny_model.untied_path)
    local before = assert(again.core:digest())
    local function refused(code, text, change, keys)
      expect.fails(code, text, again:load_adapter(rewritten(path, change, keys)))
      assert.equal(before, assert(again.core:digest()))
    end
    local function same() end
    refused("format", "tensor blk.1.ffn_down.weight.lora_b is missing", function(list) list[#list] = nil end)
    refused("not_found", "tensor blk.1.ffn_down.weight.lora_a is missing", function(list)
      list[#list], list[#list - 1] = nil, nil
    end)
    refused("format", "tensor blk.2.attn_q.weight.lora_a is none of this session's matrices", function(list)
      list[#list + 1] = { name = "blk.2.attn_q.weight.lora_a", shape = list[1].shape, bytes = list[1].bytes }
      list[#list + 1] = { name = "blk.2.attn_q.weight.lora_b", shape = list[2].shape, bytes = list[2].bytes }
    end)
    refused("unsupported", "tensor output_norm.weight is no matrix of a projection", function(list)
      list[#list + 1] = { name = "output_norm.weight", shape = { 1, 4 }, bytes = ("\0"):rep(16) }
    end)
    refused("format", "expected rank 3 between 42 and 42 values, the file has rank 3 between 42 and 41", function(list)
      local shape = list[2].shape
      list[2] = { name = list[2].name, shape = { shape[1] - 1, shape[2] }, bytes = list[2].bytes:sub(1, -13) }
    end)
    refused("format", "holds a value that is not finite", function(list)
      list[3].bytes = string.pack("<f", 0 / 0) .. list[3].bytes:sub(5)
    end)
    refused("format", "it was changed after it was written", function(list)
      list[3].bytes = string.pack("<f", 0.25) .. list[3].bytes:sub(5)
    end)
    refused("format", "an adapter for a model of family qwen2, this session's is llama", same,
      { ["general.architecture"] = gguf_metadata.text "qwen2" })
    refused("format", 'expected "adapter", the file says "model"', same,
      { ["general.type"] = gguf_metadata.text "model" })
    refused("format", "adapter.lora.alpha is missing", same, { ["adapter.lora.alpha"] = false })
    expect.fails("format", "not an adapter", again:load_adapter(tiny_model.path))
    expect.fails("not_found", folder .. "/none.gguf", again:load_adapter(folder .. "/none.gguf"))
    assert.equal(before, assert(again.core:digest()))
  end)

  it("written by others, without a digest and with alpha 0, is loaded with their scale", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    assert(session:export(folder .. "/a.gguf", { format = "gguf" }))
    local again <close> = open(tiny_model.untied_path)
    assert(again:load_adapter(rewritten(folder .. "/a.gguf", function() end, {
      ["crucible.lora.sha256"] = false, ["adapter.lora.alpha"] = gguf_metadata.f32(0), -- scale 1, not 6 / 3
    })))
    local name = "layers.0.mlp.up_proj.lora_B"
    local ours, theirs = session.core:read(name), again.core:read(name)
    for i, value in ipairs(ours) do assert.near(value / 2, theirs[i], 1e-9) end
  end)
end)

describe("A PEFT folder", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("comes back bit for bit, and one whose tensors are not what it records is refused", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    assert(session:export(folder .. "/peft"))
    local again <close> = open(tiny_model.untied_path)
    assert.equal(assert(session.core:digest()), assert(again:load_adapter(folder .. "/peft")))
    local file = folder .. "/peft/adapter_model.safetensors"
    local bytes = temp.read(file)
    assert(core.fs.write_file(file, bytes:sub(1, -5) .. string.pack("<f", 0.125)))
    expect.fails("format", "the tensors' digest is", again:load_adapter(folder .. "/peft"))
    assert.equal(assert(session.core:digest()), assert(again.core:digest()))
    -- As PEFT writes it, without a digest.
    assert(core.fs.write_file(file, (bytes:gsub('"crucible%.sha256":"%x+"', function(found)
      return '"other":"' .. ("x"):rep(#found - #'"other":""') .. '"'
    end))))
    assert.equal(assert(session.core:digest()), assert(again:load_adapter(folder .. "/peft")))
  end)
end)

-- ---- merged models ---------------------------------------------------------------------------------------------

local LIMITS = { f32 = 1e-4, f16 = 2e-2, bf16 = 2e-1 }

for _, family in ipairs { "llama", "qwen2", "qwen3", "gemma3" } do
  for _, from in ipairs { "gguf", "folder" } do
    describe(("%s, adapted on a %s and merged"):format(family, from), function()
      local folder, session, expected
      setup(function()
        folder = temp.folder()
        session = adapted(write_base(family, folder, from), folder)
        expected = logprobs(session)
      end)
      teardown(function()
        session:close()
        temp.clean()
      end)

      for kind, limit in pairs(LIMITS) do
        it("is the same model as a GGUF file of " .. kind, function()
          local path, report = session:export(folder .. "/merged.gguf", {
            format = "merged-gguf", type = kind, overwrite = true, probe = { "to be or not", "12 34" },
          })
          assert(path, report)
          assert_close(expected, merged_logprobs(path), limit)
          assert.is_true(report.difference.largest < 5 * limit, tostring(report.difference.largest))
          assert.equal(report.difference.largest,
            core.read_gguf(path).keys["crucible.merge.largest_logit_difference"])
          assert.same({}, report.notes)
        end)

        it("is the same model as a folder of " .. kind, function()
          local path, report = session:export(folder .. "/merged", {
            format = "merged-safetensors", type = kind, overwrite = true, probe = { "to be or not", "12 34" },
          })
          assert(path, report)
          assert_close(expected, merged_logprobs(path), limit)
          local manifest = cjson.decode(temp.read(path .. "/crucible_merge.json"))
          assert.equal(report.difference.largest, manifest.logit_difference.largest)
          assert.equal(from == "gguf" and 1 or 0, #report.notes)
        end)
      end

      it("leaves nothing else behind", function() nothing_left(folder, "merged", "merged.gguf") end)
    end)
  end
end

describe("A merged GGUF file", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("keeps every key of its base, in order, and says what was merged", function()
    local session <close> = adapted(tiny_model.path, folder)
    local path = assert(session:export(folder .. "/m.gguf", { format = "merged-gguf", type = "base" }))
    local base, merged = gguf_metadata.values(tiny_model.path), gguf_metadata.values(path)
    for name, value in pairs(base) do
      if not name:find "^general%.file_type" and not name:find "^general%.quantization_version" then
        assert.equal(value, merged[name], name)
      end
    end
    local keys = core.read_gguf(path).keys
    assert.equal(assert(session.core:digest()), keys["crucible.merge.lora_sha256"])
    assert.equal(assert(session.model:digest()), keys["crucible.merge.base_sha256"])
    assert.equal("base", keys["crucible.merge.type"])
    assert.is_true(keys["crucible.merge.probe_positions"] > 0)
  end)

  it("of the base's own types copies what the lora does not touch byte for byte, a tied head first", function()
    local session <close> = adapted(tiny_model.path, folder, { target_modules = { "q_proj", "down_proj" } })
    local path = assert(session:export(folder .. "/m.gguf", { format = "merged-gguf", type = "base" }))
    local base, merged = assert(core.read_gguf(tiny_model.path)), by_name(core.read_gguf(path).tensors)
    assert.is_true(session.model.info.tied_head)
    local changed = {}
    for _, tensor in ipairs(base.tensors) do
      local other = merged[tensor.name]
      assert.equal(tensor.type, other.type, tensor.name)
      assert.same(tensor.shape, other.shape)
      local touched = tensor.name:find "attn_q%.weight" or tensor.name:find "ffn_down"
      assert.equal(not touched, bytes_of(tiny_model.path, tensor) == bytes_of(path, other), tensor.name)
      if touched then changed[#changed + 1] = tensor.name end
    end
    assert.equal(2 * session.model.info.layers, #changed)
  end)

  it("without an effect of the lora is the base, tensor by tensor", function()
    local session <close> = open(tiny_model.path)
    local _, report = assert(session:export(folder .. "/b.gguf", { format = "merged-gguf", type = "base" }))
    assert.equal(0.0, report.difference.largest)
    local path = assert(session:export(folder .. "/m.gguf", { format = "merged-gguf", type = "q8_0" }))
    local merged = by_name(core.read_gguf(path).tensors)
    for _, tensor in ipairs(core.read_gguf(tiny_model.path).tensors) do
      local other = merged[tensor.name]
      if other.type == tensor.type then
        assert.equal(bytes_of(tiny_model.path, tensor), bytes_of(path, other), tensor.name)
      else -- F32 and its like follow to the smaller type
        assert.equal("Q8_0", other.type)
        assert.is_true(other.bytes < tensor.bytes)
      end
    end
  end)

  it("is written in every type, the lora's part near what was asked for", function()
    local session <close> = adapted(tiny_model.path, folder)
    local largest = {}
    for _, kind in ipairs { "f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl" } do
      local path, report = session:export(folder .. "/" .. kind .. ".gguf", { format = "merged-gguf", type = kind })
      assert(path, report)
      local tensor = by_name(core.read_gguf(path).tensors)["blk.0.attn_q.weight"]
      assert.equal(kind:upper(), tensor.type)
      largest[kind] = report.difference.rms
    end
    assert.is_true(largest.f32 < 1e-5 and largest.f16 < largest.q8_0 and largest.q8_0 < largest.q4_0)
    -- Rows of 64 and 96 values do not fill blocks of 256.
    local path = assert(session:export(folder .. "/k.gguf", { format = "merged-gguf", type = "q4_k" }))
    assert.equal("F16", by_name(core.read_gguf(path).tensors)["blk.0.attn_q.weight"].type)
  end)

  it("does not take the place of its base or, unless told, of anything that is there", function()
    local base = write_base("qwen2", folder, "gguf")
    local session <close> = adapted(base, folder)
    for _, overwrite in ipairs { true, false } do
      expect.fails("argument", base .. " is the base model itself",
        session:export(base, { format = "merged-gguf", overwrite = overwrite }))
    end
    temp.file(folder, "there.gguf", "mine")
    expect.fails("argument", "there.gguf is there already",
      session:export(folder .. "/there.gguf", { format = "merged-gguf" }))
    assert.equal("mine", temp.read(folder .. "/there.gguf"))
    assert(session:export(folder .. "/there.gguf", { format = "merged-gguf", overwrite = true }))
    assert.equal("GGUF", temp.read(folder .. "/there.gguf"):sub(1, 4))
  end)

  it("refuses what cannot be, by name", function()
    local session <close> = adapted(tiny_model.path, folder)
    expect.raises('format must be one of "peft", "gguf"', session.export, session, folder .. "/x", { format = "onnx" })
    expect.raises('unknown option "typ"; did you mean "type"?', session.export, session, folder .. "/x",
      { typ = "f16" })
    expect.fails("unsupported", "a folder's safetensors hold f32, f16 or bf16, not Q4_0",
      session:export(folder .. "/x", { format = "merged-safetensors", type = "q4_0" }))
    expect.fails("unsupported", "the base is a GGUF file, whose types safetensors cannot hold",
      session:export(folder .. "/x", { format = "merged-safetensors", type = "base" }))
    expect.fails("unsupported", "a PEFT folder is written as f32", session:export(folder .. "/x", { type = "f16" }))
    nothing_left(folder)
  end)

  it("of a folder whose windows GGUF cannot express is refused", function()
    local session <close> = adapted(write_base("mistral", folder, "folder"), folder)
    expect.fails("unsupported", "layer 0 has a sliding window: GGUF's reader expects otherwise",
      session:export(folder .. "/m.gguf", { format = "merged-gguf" }))
    nothing_left(folder)
  end)

  it("with a value that is not finite or beyond its type is refused and leaves nothing", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    local name = "layers.1.self_attn.o_proj.lora_B"
    local values = session.core:read(name)
    values[1] = 1e30
    session.core:write(name, values)
    expect.fails("argument", "tensor blk.1.attn_output.weight: a value is too large for its type",
      session:export(folder .. "/m.gguf", { format = "merged-gguf", type = "f16" }))
    nothing_left(folder)
  end)

  it("on a full disk says so and leaves nothing behind", function()
    local program = temp.file(folder, "program.lua", [=[
      local crucible = require "crucible"
      local tiny_model = require "spec.support.tiny_model"
      local session <close> = assert(crucible.lora.create_session {
        config = { base_model = tiny_model.path, lora_rank = 16, threads = 1 } })
      for _, case in ipairs { { "m.gguf", "merged-gguf" }, { "m", "merged-safetensors" }, { "a.gguf", "gguf" } } do
        print(select(2, session:export(arg[1] .. "/" .. case[1], { format = case[2], type = "f32" })))
      end
      print(table.concat(crucible.core.fs.list(arg[1]), " "))
    ]=])
    local command = ("mkdir %s/mounted && mount -t tmpfs -o size=16k tmpfs %s/mounted && %s %s %s/mounted"):format(
      folder, folder, shell.lua, program, folder)
    local output = shell.run("unshare -rm sh -c " .. shell.quote(command))
    if output:find("unshare", 1, true) or output:find("mount: ", 1, true) then return pending(output) end
    local lines = {}
    for line in output:gmatch "[^\n]*" do lines[#lines + 1] = line end
    for i = 1, 3 do assert.truthy(lines[i]:find("No space left on device\tio", 1, true), output) end
    assert.equal("", lines[4])
  end)
end)

describe("A merged folder", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("has shards of the size asked for, and their index", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    local expected = logprobs(session)
    local path = assert(session:export(folder .. "/m", {
      format = "merged-safetensors", type = "f32", shard_bytes = 30000,
    }))
    local index = cjson.decode(temp.read(path .. "/model.safetensors.index.json"))
    local files, count = {}, 0
    for _, file in pairs(index.weight_map) do files[file] = true end
    for file in pairs(files) do
      count = count + 1
      assert.is_true(paths.stat(path .. "/" .. file).size < 60000, file)
    end
    assert.is_true(count > 3 and files[("model-00001-of-%05d.safetensors"):format(count)])
    assert.is_false(exists(path .. "/model.safetensors"))
    assert_close(expected, merged_logprobs(path), 1e-4)
  end)

  it("of a folder takes along what lies in it, with the new type in config.json", function()
    local base = write_base("qwen3", folder, "folder")
    temp.file(base, "chat_template.jinja", "{{ x }}")
    temp.file(base, "LICENSE", "free")
    temp.file(base, "adapter_config.json", "{}")
    temp.file(base, "training_args.bin", "x")
    local session <close> = adapted(base, folder)
    local path = assert(session:export(folder .. "/m", { format = "merged-safetensors", type = "bf16" }))
    for _, name in ipairs { "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE" } do
      assert.equal(temp.read(base .. "/" .. name), temp.read(path .. "/" .. name), name)
    end
    for _, name in ipairs { "adapter_config.json", "training_args.bin", "model.safetensors.index.json" } do
      assert.is_false(exists(path .. "/" .. name), name)
    end
    local config = cjson.decode(temp.read(path .. "/config.json"))
    assert.equal("bfloat16", config.dtype or config.torch_dtype)
  end)

  it("from a GGUF base has a tokenizer that gives the base's ids", function()
    local session <close> = adapted(tiny_model.untied_path, folder)
    local path, report = assert(session:export(folder .. "/m", { format = "merged-safetensors" }))
    assert.equal(1, #report.notes)
    assert.truthy(report.notes[1]:find("were made from the GGUF file", 1, true))
    local theirs = assert(crucible.tokenizer(path))
    for _, text in ipairs { "First Citizen: 1234 56", "a  b\n\nc\xFF", "<|im_end|> the", "caf\u{E9} \u{1F642}" } do
      assert.same(session.tokenizer:encode(text), theirs:encode(text))
      assert.same(session.tokenizer:encode(text, true), theirs:encode(text, true))
    end
    assert.equal(session.tokenizer.eos, theirs.eos)
    assert.equal(session.tokenizer.bos, theirs.bos)
  end)
end)

-- ---- every way in and out --------------------------------------------------------------------------------------

describe("crucible export and crucible merge", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  local function run(...)
    local out, err = {}, {}
    local function stream(parts)
      return { write = function(_, ...)
        for _, text in ipairs { ... } do parts[#parts + 1] = text end
      end, flush = function() end }
    end
    local code = cli.main({ ... }, { out = stream(out), err = stream(err) })
    return code, table.concat(out), table.concat(err)
  end

  it("go round: session, checkpoint, PEFT, GGUF adapter, merged", function()
    local session <close> = assert(lora.create_session {
      config = {
        base_model = tiny_model.untied_path, lora_rank = 3, lora_alpha = 6, target_modules = SEVEN, threads = 1,
      },
      runs = folder, experiment_id = "run",
    })
    golden.load_hashed(session.core, folder .. "/hashed.safetensors")
    local expected, digest = logprobs(session), assert(session.core:digest())
    assert(session:save_checkpoint "one")
    local base = { "--model", tiny_model.untied_path, "--threads", "1" }
    local code, out, err = run("export", folder .. "/run", folder .. "/peft", "--checkpoint", "one", "--threads", "1")
    assert.equal(0, code, err)
    assert.truthy(out:find("peft, f32", 1, true), out)
    code, out, err = run("export", folder .. "/peft", folder .. "/a.gguf", "--format", "gguf", table.unpack(base))
    assert.equal(0, code, out .. err)
    local again <close> = assert(export.open(folder .. "/a.gguf", { model = tiny_model.untied_path, threads = 1 }))
    assert.equal(digest, assert(again.core:digest()))
    for _, source in ipairs { "run/checkpoints/one", "peft", "a.gguf" } do
      code, out, err = run("merge", folder .. "/" .. source, folder .. "/m.gguf", "--type", "f32", "--overwrite",
        table.unpack(base))
      assert.equal(0, code, err)
      assert.truthy(out:find "m%.gguf: merged%-gguf, f32, [%d.]+ MB\nlogits before and after, %d+ positions", out)
      assert_close(expected, merged_logprobs(folder .. "/m.gguf"), 1e-4, source)
    end
    code, out, err = run("merge", folder .. "/peft", folder .. "/m", "--type", "f16", table.unpack(base))
    assert.equal(0, code, err)
    assert.truthy(out:find("merged-safetensors, f16", 1, true), out)
    assert.truthy(out:find("note: config.json and tokenizer.json were made from the GGUF file", 1, true), out)
  end)

  it("say what they miss and what is none of theirs", function()
    local code, _, err = run("export", folder .. "/none", folder .. "/x")
    assert.equal(1, code)
    assert.truthy(err:find("none: no such adapter", 1, true), err)
    code, _, err = run("merge", tiny_model.path, folder .. "/x.gguf")
    assert.equal(1, code)
    assert.truthy(err:find("is no adapter: its general.type is", 1, true), err)
    code, _, err = run("merge", folder, folder .. "/x.gguf")
    assert.equal(1, code)
    assert.truthy(err:find("is no adapter: it has no adapter_config.json", 1, true), err)
    code, _, err = run("export", folder)
    assert.equal(2, code)
    assert.truthy(err:find("out missing", 1, true), err)
  end)
end)

describe("A model described", function()
  it("shows its types, memory, tokenizer and targets as a table", function()
    local model <close> = assert(crucible.model(tiny_model.path))
    local about = model:describe()
    local bytes = 0
    for _, entry in ipairs(about.types) do bytes = bytes + entry.bytes end
    assert.is_true(bytes <= about.memory.weights_mapped and bytes > 0.5 * about.memory.weights_mapped)
    assert.same(SEVEN, about.targets)
    assert.equal("smollm", about.tokenizer.pretokenizer)
    local text = tostring(about)
    for _, part in ipairs {
      "family      llama", "types       ", "tokenizer   gpt2, smollm", "targets     q_proj, k_proj",
    } do
      assert.truthy(text:find(part, 1, true), text)
    end
    -- The lora's figure is what a session of that rank holds.
    local session <close> = open(tiny_model.path, { lora_rank = 16 })
    local values = 0
    for _, matrix in ipairs(session.core:parameters()) do values = values + matrix.rows * matrix.columns end
    assert.equal(16 * values, 16 * about.memory.lora_rank_1)
  end)
end)

describe("SentencePiece's merges from scores", function()
  it("are every split into two pieces, by score, and give the base's ids", function()
    local merges = require("crucible.export.hub_tokenizer").merges({ "<s>", "a", "b", "ab", "ba", "aba" },
      { 3, 1, 1, 1, 1, 1 }, { 0, -9, -9, -2, -1, -3 })
    local flat = {}
    for i, merge in ipairs(merges) do flat[i] = merge[1] .. "+" .. merge[2] end
    assert.same({ "b+a", "a+b", "ab+a", "a+ba" }, flat)
  end)
end)
