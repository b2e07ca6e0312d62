-- The module's face: what it holds, that its manual and its specs cover it, how handles behave.

local core = require "crucible.core"
local expect = require "spec.support.expect"
local bind = require "spec.support.bind"

local MANUAL = "lua/crucible/core.meta.lua"
local CLASSES = {
  "Model", "Tokenizer", "Session", "Generation", "Constraint", "Encoder", "Lock", "Http", "Transfer", "Rows", "Tokens",
  "TokenWriter",
}

local function read(path)
  local handle = assert(io.open(path, "rb"))
  local text = handle:read("a")
  handle:close()
  return text
end

-- { ["core.open_model"] = true, ["Session:step"] = true, ... } as the loaded module has it.
local function live_functions()
  local found = {}
  for name, value in pairs(core) do
    if type(value) == "function" then found["core." .. name] = true end
  end
  for name in pairs(core.fs) do found["core.fs." .. name] = true end
  for name in pairs(core.signals) do found["core.signals." .. name] = true end
  for name in pairs(core.topology) do found["core.topology." .. name] = true end
  for name, value in pairs(core.tensor) do
    if type(value) == "function" then found["core.tensor." .. name] = true end
  end
  for _, class in ipairs(CLASSES) do
    local metatable = debug.getregistry()["crucible." .. class:lower()]
    for name in pairs(metatable.__index) do found[class .. ":" .. name] = true end
  end
  return found
end

-- The same as the manual has it; the value is the comment above the function.
local function manual_functions()
  local found, comment = {}, {}
  for line in read(MANUAL):gmatch("[^\n]*") do
    local name = line:match("^function ([%w_.:]+)%(")
    if name then found[name] = table.concat(comment, "\n") end
    if line:find("^%-%-%-") then comment[#comment + 1] = line else comment = {} end
  end
  return found
end

local function missing(from, other)
  local names = {}
  for name in pairs(from) do
    if not other[name] then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

describe("crucible.core", function()
  it("has a version, and no fields but functions, fs, signals, tensor, topology and _VERSION", function()
    assert.matches("^%d+%.%d+%.%d+$", core._VERSION)
    for name, value in pairs(core) do
      local room = name == "fs" or name == "signals" or name == "tensor" or name == "topology"
      assert.truthy(type(value) == "function" or room or name == "_VERSION", name)
    end
  end)

  it("sets no globals", function()
    assert.is_nil(rawget(_G, "crucible"))
    assert.is_nil(rawget(_G, "core"))
  end)

  it("names the kernels of this processor", function()
    local known = { avx512 = true, avx2 = true, neon = true, portable = true }
    assert.truthy(known[core.kernel_name()], core.kernel_name())
  end)

  it("counts the threads it may use", function()
    assert.equal("integer", math.type(core.available_threads()))
    assert.truthy(core.available_threads() >= 1)
  end)

  it("lists the projections in order", function()
    assert.same({ "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }, core.targets())
  end)

  it("may be loaded again in the same state", function()
    local session <close> = bind.session()
    package.loaded["crucible.core"] = nil
    local again = require "crucible.core"
    package.loaded["crucible.core"] = core
    assert.equal(core._VERSION, again._VERSION)
    assert.equal(0, session:step())
  end)
end)

describe("the manual of crucible.core", function()
  it("has every function of the module", function()
    assert.same({}, missing(live_functions(), manual_functions()))
  end)

  it("has no function that the module lacks", function()
    assert.same({}, missing(manual_functions(), live_functions()))
  end)

  it("says in words what every function does", function()
    for name, comment in pairs(manual_functions()) do
      assert.truthy(comment:find("%-%-%- %S"), name .. " has no line of description")
    end
  end)

  it("declares every parameter and result by name or as nothing", function()
    for name, comment in pairs(manual_functions()) do
      for parameter in comment:gmatch("@param ([^\n]*)") do
        assert.truthy(parameter:find("^[%w_]+%s+%S") or parameter:find("^%.%.%.%s+%S"), name .. ": " .. parameter)
      end
    end
  end)
end)

describe("the specs of crucible.core", function()
  it("use every function of the module", function()
    local texts = {}
    for _, file in ipairs(assert(core.fs.list("spec/bind"))) do
      if file ~= "core_spec.lua" then texts[#texts + 1] = read("spec/bind/" .. file) end
    end
    local all = table.concat(texts) .. "core.kernel_name core.available_threads core.targets"
    for name in pairs(live_functions()) do
      -- Tensors are used through crucible.tensor, whose specs list every operation.
      local last = not name:find("^core%.tensor%.") and name:match("[%w_]+$")
      if last then assert.truthy(all:find("[.:]" .. last .. "%f[^%w_]"), "no spec uses " .. name) end
    end
  end)
end)

describe("a handle", function()
  local model, session, generation

  before_each(function()
    model = bind.model()
    session = assert(model:session(bind.config()))
    generation = assert(session:generate({ { 1, 2, 3 } }, { max_tokens = 2 }))
  end)

  after_each(function()
    generation:close()
    session:close()
    model:close()
  end)

  it("hides its metatable behind its type's name", function()
    assert.equal("crucible.model", getmetatable(model))
    assert.equal("crucible.tokenizer", getmetatable(model:tokenizer()))
    assert.equal("crucible.session", getmetatable(session))
    assert.equal("crucible.generation", getmetatable(generation))
  end)

  it("is named in the error about a wrong self", function()
    expect.raises("crucible.session expected, got crucible.model", session.step, model)
    expect.raises("crucible.model expected, got no value", model.info)
    expect.raises("crucible.generation expected, got table", generation.step, {})
    expect.raises("crucible.tokenizer expected, got nil", model:tokenizer().encode, nil, "x")
  end)

  it("reads well as text, open and closed", function()
    assert.matches("^crucible%.model%(llama tiny, %S+; %d+ layers of %d+%)$", tostring(model))
    assert.matches("^crucible%.tokenizer%(gpt2, smollm; %d+ tokens%)$", tostring(model:tokenizer()))
    assert.equal("crucible.session(rank 4 on q_proj,v_proj; step 0)", tostring(session))
    assert.equal("crucible.generation(1 prompts; 0 tokens)", tostring(generation))
    local tokenizer = model:tokenizer()
    generation:close()
    session:close()
    model:close()
    assert.equal("crucible.model(closed)", tostring(model))
    assert.equal("crucible.tokenizer(model closed)", tostring(tokenizer))
    assert.equal("crucible.session(closed)", tostring(session))
    assert.equal("crucible.generation(closed)", tostring(generation))
  end)

  it("may be closed twice", function()
    for _ = 1, 2 do
      generation:close()
      session:close()
      model:close()
    end
  end)

  it("says that it is closed, in every method but close", function()
    generation:close()
    session:close()
    model:close()
    for class, handle in pairs({ model = model, session = session, generation = generation }) do
      for name, method in pairs(debug.getregistry()["crucible." .. class].__index) do
        if name ~= "close" then expect.raises(class .. " is closed", method, handle, {}) end
      end
    end
  end)

  it("closes at the end of its block", function()
    local outside
    do
      local inside <close> = bind.session()
      outside = inside
      assert.equal(0, inside:step())
    end
    expect.raises("session is closed", outside.step, outside)
  end)
end)
