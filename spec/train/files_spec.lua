-- The lora and the optimiser's state in files: bit-exact there and back, and all or nothing.
local cjson = require "cjson"

local expect = require "spec.support.expect"
local golden = require "spec.support.golden"
local lists = require "spec.support.lists"
local shell = require "spec.support.shell"
local tiny_model = require "spec.support.tiny_model"

local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }
local ROWS = { { tokens = { 5, 9, 200, 3, 77, 4 } }, { tokens = { 8, 1, 2, 250 } } }
local ADAM = { lr = 1e-2, weight_decay = 0.05 }

local function open(options) return tiny_model.session(lists.with({ targets = ALL }, options or {})) end

local function train(session, steps)
  for _ = 1, steps do
    assert(session:forward_backward(ROWS))
    assert(session:optim_step(ADAM))
  end
end

-- Everything that training changes, as bits.
local function state(session)
  local out = { tostring(session:step()) }
  for _, which in ipairs({ "value", "moment1", "moment2" }) do
    for _, p in ipairs(session:parameters()) do out[#out + 1] = lists.bits(session:read(p.name, which)) end
  end
  return table.concat(out)
end

local function read(path)
  local handle = assert(io.open(path, "rb"))
  local bytes = handle:read("a")
  handle:close()
  return bytes
end

-- The tensors of the session's lora as a file would hold them, for files made with a fault.
local function tensors(session)
  local out = {}
  for i, p in ipairs(session:parameters()) do
    out[i] = { name = golden.peft_name(p.name), rows = p.rows, columns = p.columns,
      values = lists.uniform(i, p.rows * p.columns) }
  end
  return out
end

describe("files of a session", function()
  local folder, session

  before_each(function()
    folder = shell.temporary_folder()
    session = open()
    train(session, 2)
  end)

  after_each(function()
    session:close()
    shell.remove_tree(folder)
  end)

  local function path(name) return folder .. "/" .. name end

  it("bring back every bit of values, moments and step", function()
    assert(session:save_lora(path("lora")))
    assert(session:save_optimizer(path("optimizer")))
    local other <close> = open({ seed = 9, threads = 2 })
    assert(other:load_lora(path("lora")))
    assert(other:load_optimizer(path("optimizer")))
    assert.equal(2, other:step())
    assert.is_true(state(session) == state(other))
    assert(other:save_lora(path("again")))
    assert.is_true(read(path("lora")) == read(path("again")))
  end)

  it("let training go on as if it had not stopped, dropout included", function()
    local options = { dropout = 0.2 }
    local whole <close> = open(options)
    local first <close> = open(options)
    train(whole, 5)
    train(first, 3)
    assert(first:save_lora(path("lora")))
    assert(first:save_optimizer(path("optimizer")))
    local resumed <close> = open(options)
    assert(resumed:load_lora(path("lora")))
    assert(resumed:load_optimizer(path("optimizer")))
    train(resumed, 2)
    assert.is_true(state(whole) == state(resumed))
  end)

  it("hold what PEFT expects: its names, its shapes, f32", function()
    assert(session:save_lora(path("lora")))
    local found = golden.read_safetensors(path("lora"))
    for _, p in ipairs(session:parameters()) do
      local values = found[golden.peft_name(p.name)]
      assert.equal(p.rows * p.columns, #values)
      found[golden.peft_name(p.name)] = nil
      assert.is_true(lists.bits(golden.read(session, p, "value", 16)) == lists.bits(values), p.name)
    end
    assert.is_nil(next(found))
  end)

  local faults = {
    { "a missing tensor", function(t) table.remove(t, 3) end, "not_found", "k_proj.lora_A.weight is missing" },
    { "an unexpected tensor", function(t) t[#t + 1] = { name = "lm_head.lora_A.weight", rows = 1, columns = 1,
      values = { 1 } } end, "format", "lm_head.lora_A.weight is none of this session's matrices" },
    { "a transposed tensor", function(t) t[4].rows, t[4].columns = t[4].columns, t[4].rows end, "format",
      "k_proj.lora_B.weight: expected [32, 4], the file has [4, 32]" },
    { "another rank", function(t) t[1].rows, t[1].values = 3, lists.fill(3 * 64, 1) end, "format",
      "q_proj.lora_A.weight: expected [4, 64], the file has [3, 64]" },
    { "NaN", function(t) t[#t].values[5] = 0 / 0 end, "format", "holds a value that is not finite" },
    { "infinity", function(t) t[#t].values[5] = math.huge end, "format", "holds a value that is not finite" },
  }

  for _, fault in ipairs(faults) do
    local title, spoil, code, text = table.unpack(fault)

    it("are refused with " .. title .. ", and the session stays as it was", function()
      local list, before = tensors(session), state(session)
      spoil(list)
      golden.write_safetensors(path("lora"), list)
      expect.fails(code, text, session:load_lora(path("lora")))
      assert.is_true(before == state(session))
    end)
  end

  it("are refused when they are another session's, and the session stays as it was", function()
    local before = state(session)
    for _, options in ipairs({ { rank = 3 }, { targets = { "q_proj" } }, { targets = { "q_proj", "up_proj" } } }) do
      local other <close> = open(options)
      train(other, 1)
      assert(other:save_lora(path("lora")))
      assert(other:save_optimizer(path("optimizer")))
      assert.is_nil((session:load_lora(path("lora"))))
      assert.is_nil((session:load_optimizer(path("optimizer"))))
      assert.is_true(before == state(session))
    end
  end)

  it("are refused when they are each other, cut short or no such file", function()
    local before = state(session)
    assert(session:save_lora(path("lora")))
    assert(session:save_optimizer(path("optimizer")))
    assert.is_nil((session:load_lora(path("optimizer"))))
    assert.is_nil((session:load_optimizer(path("lora"))))
    for _, name in ipairs({ "lora", "optimizer" }) do
      local bytes = read(path(name))
      for _, length in ipairs({ 0, 7, 8, 100, #bytes // 2, #bytes - 1 }) do
        shell.write(path("cut"), bytes:sub(1, length))
        local load = name == "lora" and session.load_lora or session.load_optimizer
        expect.fails("format", "cut", load(session, path("cut")))
      end
    end
    expect.fails("not_found", "absent", session:load_lora(path("absent")))
    assert.is_true(before == state(session))
  end)

  it("of an optimiser are refused with a step that is no number", function()
    assert(session:save_optimizer(path("optimizer")))
    local bytes = read(path("optimizer"))
    local length = string.unpack("<I8", bytes)
    local header = cjson.decode(bytes:sub(9, 8 + length))
    local before = state(session)
    for _, step in ipairs({ "", "-1", "2x", " 2" }) do
      header.__metadata__.step = step
      local text = cjson.encode(header)
      shell.write(path("broken"), string.pack("<I8", #text) .. text .. bytes:sub(9 + length))
      expect.fails("format", '"step": expected a number', session:load_optimizer(path("broken")))
    end
    assert.is_true(before == state(session))
  end)

  it("replace an older file whole, and leave no other behind", function()
    shell.write(path("lora"), ("x"):rep(1000000))
    assert(session:save_lora(path("lora")))
    assert.equal("lora\n", (shell.run("ls -A " .. folder)))
    assert(session:load_lora(path("lora")))
  end)
end)
