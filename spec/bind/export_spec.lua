-- core.read_gguf and the session's exports, as the module has them: arguments, results, failures.
local bind = require "spec.support.bind"
local core = require "crucible.core"
local expect = require "spec.support.expect"
local gguf_metadata = require "support.gguf_metadata"
local temp = require "spec.support.temp"

describe("crucible.core on GGUF files", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("reads keys of every type, and the table of tensors", function()
    local path = "csrc/fuzz/seeds/gguf/all_keys.gguf"
    local keys = assert(core.read_gguf(path)).keys
    assert.equal("integer", math.type(keys.u8))
    assert.is_true(keys.i8 < 0 and keys.i16 < 0 and keys.i32 < 0 and keys.i64 < 0)
    assert.equal("float", math.type(keys.f32))
    assert.equal("float", math.type(keys.f64))
    assert.equal("boolean", type(keys.bool))
    assert.equal("string", type(keys.text))
    assert.equal("string", type(keys.texts[1]))
    assert.equal("integer", math.type(keys.i32s[1]))
    assert.equal("float", math.type(keys.f32s[1]))
    local file = assert(core.read_gguf(bind.path))
    assert.same(gguf_metadata.list(bind.path, "tokenizer.ggml.merges"), file.keys["tokenizer.ggml.merges"])
    local model <close> = bind.model()
    local tensors = model:tensors()
    assert.equal(#tensors, #file.tensors)
    for i, tensor in ipairs(tensors) do
      for _, field in ipairs { "name", "type", "bytes" } do assert.equal(tensor[field], file.tensors[i][field]) end
      assert.same(tensor.shape, file.tensors[i].shape)
    end
  end)

  it("reads a tensor's values", function()
    local path = "csrc/fuzz/seeds/gguf_adapter/whole.gguf"
    assert.same({ 0.5, 0.5, 0.5, 0.5 }, core.read_gguf_tensor(path, "blk.3.ffn_down.weight.lora_a"))
    assert.equal(16, #core.read_gguf_tensor(path, "blk.0.attn_q.weight.lora_a"))
    expect.fails("not_found", "tensor no.such is missing", core.read_gguf_tensor(path, "no.such"))
    expect.fails("not_found", folder .. "/none", core.read_gguf_tensor(folder .. "/none", "x"))
    expect.fails("unsupported", "element type Q8_1 is not supported",
      core.read_gguf_tensor("csrc/fuzz/seeds/gguf_adapter/bad_dtype.gguf", "blk.0.attn_q.weight.lora_a"))
  end)

  it("fails on what is none", function()
    expect.fails("not_found", folder .. "/none", core.read_gguf(folder .. "/none"))
    expect.fails("format", "not a GGUF file", core.read_gguf(temp.file(folder, "x.gguf", "GGML....")))
    expect.raises("string expected", core.read_gguf, {})
  end)

  it("fills in a number that was left blank, and nothing else", function()
    local session <close> = bind.session()
    local path = folder .. "/m.gguf"
    assert(session:merge_to_gguf(path, {
      type = "f16", blanks = { "a.figure", "another" }, notes = { "a.note", "text" },
    }))
    local before = assert(core.read_gguf(path)).keys
    assert.equal("text", before["a.note"])
    assert.not_equal(before["a.figure"], before["a.figure"]) -- NaN
    assert.is_true(core.set_gguf_number(path, "a.figure", 0.125))
    local after = assert(core.read_gguf(path)).keys
    assert.equal(0.125, after["a.figure"])
    assert.not_equal(after.another, after.another)
    expect.fails("not_found", "key no.such is missing", core.set_gguf_number(path, "no.such", 1))
    expect.fails("format", "key a.note: expected f64", core.set_gguf_number(path, "a.note", 1))
  end)
end)

describe("a session's exports", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("take options by name and paths that can be written", function()
    local session <close> = bind.session()
    for name in pairs { save_gguf_adapter = true, merge_to_gguf = true, merge_to_folder = true } do
      local method = session[name]
      expect.raises("typ", method, session, folder .. "/x", { typ = "f16" })
      expect.raises("string expected", method, session, {})
      expect.raises("notes has 1 texts, expected pairs", method, session, folder .. "/x", { notes = { "a" } })
      expect.raises("notes[2]: expected a string, got table", method, session, folder .. "/x", { notes = { "a", {} } })
      expect.fails("argument", 'type "q9": expected base, f32', method(session, folder .. "/x", { type = "q9" }))
      expect.fails("not_found", folder .. "/none/x", method(session, folder .. "/none/x", { type = "f16" }))
    end
    expect.fails("not_found", folder .. "/none", session:load_gguf_adapter(folder .. "/none"))
    assert.same({}, core.fs.list(folder))
  end)

  it("write what can be read, and digests tell matrices apart", function()
    local session <close> = bind.session()
    local other <close> = bind.session { seed = 8 }
    assert.matches("^%x+$", session:digest())
    assert.equal(64, #session:digest())
    assert.not_equal(session:digest(), other:digest())
    assert.is_true(session:save_gguf_adapter(folder .. "/a.gguf"))
    assert.is_true(other:load_gguf_adapter(folder .. "/a.gguf"))
    assert.equal(session:digest(), other:digest())
    assert.is_true(session:merge_to_folder(folder, { type = "bf16", shard_bytes = 1e9 }))
    assert.truthy(core.fs.stat(folder .. "/model.safetensors"))
  end)

  it("compare logits with another session's", function()
    local session <close> = bind.session()
    local other <close> = bind.session { seed = 8 }
    local rows = { { 1, 2, 3, 4 }, { 250, 7 } }
    local found = assert(session:logit_difference(other, rows))
    assert.same({ largest = 0.0, rms = 0.0, position = 1, token = 0, positions = 6, likeliest_changed = 0 }, found)
    local name = "layers.0.self_attn.v_proj.lora_B"
    local values = other:read(name)
    for i = 1, #values do values[i] = 0.1 * (i % 7) end
    other:write(name, values)
    found = assert(session:logit_difference(other, rows))
    assert.is_true(found.largest > found.rms and found.rms > 0)
    assert.same(found.largest, assert(other:logit_difference(session, rows)).largest)
    assert.equal(0.0, assert(session:logit_difference(other, rows, { base = true })).largest)
    expect.fails("argument", "cannot be compared with itself", session:logit_difference(session, rows))
    expect.fails("argument", "token id 100000: expected 0 to", session:logit_difference(other, { { 100000 } }))
    expect.raises("session expected", session.logit_difference, session, {}, rows)
  end)
end)
