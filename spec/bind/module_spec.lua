-- The modules that carry branches: PEFT's keys for their ranks and alphas, their norms and merged rows.
local core = require "crucible.core"
local expect = require "spec.support.expect"
local tiny_model = require "spec.support.tiny_model"

local NAME = "model.layers.12.self_attn.q_proj"

describe("a key", function()
  -- What Python says: bool(re.match(rf"(.*\.)?({key})$", NAME)).
  local cases = {
    { "q_proj", true }, { "self_attn.q_proj", true }, { "attn.q_proj", false }, { "proj", false },
    { "model.layers.12.self_attn.q_proj", true }, { [[layers\.12\..*]], true }, { [[layers\.1\..*]], false },
    { [[^model\.layers.*]], true }, { [[^layers.*]], false }, { "q_proj|k_proj", true }, { "(q|v)_proj", true },
    { "[qkv]_proj", true }, { ".*", true }, { "q_proj$", true }, { "q_proj.", false }, { "", false },
    { [[\d+.self_attn.q_proj]], true }, { "Q_PROJ", false }, { "q_pro", false },
    { [[layers\.(1[0-5])\.self_attn\.\w+]], true }, { "model", false },
  }
  for _, case in ipairs(cases) do
    local key, expected = case[1], case[2]
    it(("%q means %s, as in PEFT"):format(key, expected and "it" or "something else"), function()
      assert.equal(expected, (core.module_matches(key, NAME)))
    end)
  end

  it("that is no regular expression is refused with the reason", function()
    expect.fails("argument", '"(q_proj" is no regular expression: missing closing parenthesis',
      core.module_matches("(q_proj", NAME))
    expect.fails("argument", '"*" is no regular expression', core.module_matches("*", NAME))
  end)

  it("that would try for ever is stopped", function()
    expect.fails("argument", "takes too long", core.module_matches("(a+)+b", ("a"):rep(4000) .. "bc"))
  end)
end)

describe("patterns of a session", function()
  local function open(options) return tiny_model.session(options, "tiny") end

  local function shapes(session)
    local out = {}
    for _, module in ipairs(session:modules()) do out[module.name] = { module.rank, module.alpha, module.scale } end
    return out
  end

  it("give each module the value of the first key that means it", function()
    local session <close> = open {
      rank = 4, alpha = 8,
      rank_pattern = { { [[layers\.0\..*]], 2 }, { "q_proj", 6 }, { "model.layers.2.self_attn.q_proj", 9 } },
      alpha_pattern = { { "[kv]_proj", 3 } },
    }
    local found = shapes(session)
    assert.same({ 2, 8, 4 }, found["model.layers.0.self_attn.q_proj"])
    assert.same({ 2, 3, 1.5 }, found["model.layers.0.self_attn.k_proj"])
    assert.equal(6, found["model.layers.2.self_attn.q_proj"][1])
    assert.near(8 / 6, found["model.layers.2.self_attn.q_proj"][3], 1e-6)
    assert.same({ 4, 3, 0.75 }, found["model.layers.1.self_attn.v_proj"])
    for _, p in ipairs(session:parameters()) do
      local rank = found["model." .. p.name:match "^(.*)%.lora"][1]
      assert.equal(rank, p.part == "A" and p.rows or p.columns)
    end
  end)

  it("scale by the root of each module's own rank with rslora", function()
    local session <close> = open { rank = 4, alpha = 8, rslora = true, rank_pattern = { { "q_proj", 16 } } }
    local found = shapes(session)
    assert.equal(2, found["model.layers.0.self_attn.q_proj"][3])
    assert.equal(4, found["model.layers.0.self_attn.k_proj"][3])
  end)

  local refused = {
    { { rank_pattern = { { "q_prj", 2 } } }, 'rank_pattern: "q_prj" means none of the modules with a branch' },
    { { alpha_pattern = { { "gate_proj", 2 } } }, 'alpha_pattern: "gate_proj" means none of the modules' },
    { { rank_pattern = { { "q_proj", 0 } } }, "layers.0.self_attn.q_proj: expected a rank from 1 to 4096, got 0" },
    { { rank_pattern = { { "q_proj", 2.5 } } }, "expected a rank from 1 to 4096, got 2.5" },
    { { alpha_pattern = { { "q_proj", 0 } } }, "model.layers.0.self_attn.q_proj: expected a positive number, got 0" },
    { { rank_pattern = { { "q_proj(", 2 } } }, 'rank_pattern: "q_proj(" is no regular expression' },
  }
  for _, case in ipairs(refused) do
    it("are refused: " .. case[2], function()
      local model <close> = tiny_model.open()
      local config = { rank = 4, alpha = 8, dropout = 0, targets = { "q_proj", "k_proj" } }
      for key, value in pairs(case[1]) do config[key] = value end
      expect.fails("argument", case[2], model:session(config))
    end)
  end

  it("are lists of pairs", function()
    local model <close> = tiny_model.open()
    for _, list in ipairs { { "q_proj" }, { { "q_proj" } }, { { 2, "q_proj" } }, { { "q\0", 2 } } } do
      expect.raises("rank_pattern[1]: expected a pair of a key and a number", model.session, model,
        { rank = 4, alpha = 8, dropout = 0, targets = { "q_proj" }, rank_pattern = list })
    end
    expect.raises("rank_pattern: expected a list, got 3", model.session, model,
      { rank = 4, alpha = 8, dropout = 0, targets = { "q_proj" }, rank_pattern = 3 })
  end)
end)

describe("rows of a projection", function()
  local session
  before_each(function() session = tiny_model.session { targets = { "q_proj" } } end)
  after_each(function() session:close() end)

  local function floats(bytes) return { string.unpack("<" .. ("f"):rep(#bytes // 4), bytes) } end

  it("are the base's where there is no branch and while B is zero", function()
    local other <close> = tiny_model.session { targets = { "v_proj" } }
    for _, target in ipairs { "q_proj", "v_proj", "down_proj" } do
      for layer = 1, 3 do assert.equal(session:merge_rows(layer, target), other:merge_rows(layer, target)) end
    end
  end)

  it("have the branch added by its own scale", function()
    local scaled <close> = tiny_model.session {
      targets = { "q_proj" }, rank_pattern = { { "q_proj", 2 } }, alpha_pattern = { { "layers\\.1\\..*", 6 } },
    }
    local b = scaled:read "layers.1.self_attn.q_proj.lora_B"
    b[2 * 4 + 1], b[2 * 4 + 2] = 0.5, -0.25 -- row 5
    scaled:write("layers.1.self_attn.q_proj.lora_B", b)
    local a = scaled:read "layers.1.self_attn.q_proj.lora_A"
    local base, merged = session:merge_rows(2, "q_proj", 5, 2), scaled:merge_rows(2, "q_proj", 5, 2)
    assert.equal(base:sub(257), merged:sub(257))
    local before, after = floats(base:sub(1, 256)), floats(merged:sub(1, 256))
    for i = 1, 64 do assert.near(before[i] + 3 * (0.5 * a[i] - 0.25 * a[64 + i]), after[i], 1e-6) end
    local sum = 0.0
    for i = 1, 64 do sum = sum + after[i] ^ 2 end
    assert.near(math.sqrt(sum), scaled:row_norms(2, "q_proj")[5], 1e-6 * math.sqrt(sum))
    assert.equal(64, #scaled:row_norms(2, "q_proj"))
  end)

  it("are asked for by layer, projection and rows that there are", function()
    for _, case in ipairs {
      { { 0, "q_proj" }, "no layer 0: the model has 3" },
      { { 4, "q_proj" }, "no layer 4: the model has 3" },
      { { 1 << 40, "q_proj" }, "the model has 3" },
      { { 1, "lm_head" }, "no projection is named 'lm_head'" },
      { { 1, "q_proj", 0 }, "no such row" },
      { { 1, "q_proj", 65 }, "no such row" },
      { { 1, "q_proj", 60, 6 }, "not so many rows" },
      { { 1, "q_proj", 1, 0 }, "not so many rows" },
    } do
      expect.raises(case[2], session.merge_rows, session, table.unpack(case[1]))
    end
    expect.raises("no layer 4", session.row_norms, session, 4, "q_proj")
    session:close()
    expect.raises("session is closed", session.merge_rows, session, 1, "q_proj")
    expect.raises("session is closed", session.modules, session)
  end)
end)
