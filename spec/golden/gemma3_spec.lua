-- The real Gemma 3 270M (Q4_K, Q5_0, Q6_K, Q8_0; SentencePiece) beside transformers on expanded weights.
local core = require "crucible.core"
local golden = require "support.golden"
local models = require "support.models"

local path = models.gemma3()

describe("Gemma 3 270M #slow", function()
  if not path then
    pending("its file was not fetched: scripts/fetch_model gemma-3-270m-q4_k_m")
    return
  end

  local fixture, model = golden.json "gemma3.json", nil
  setup(function() model = assert(core.open_model(path)) end)
  teardown(function() model:close() end)

  it("is the file that the fixture was made from", function()
    assert.equal(fixture.gguf_sha256, core.fs.sha256 { file = path })
  end)

  it("gives the ids of transformers' tokenizer, and the text back", function()
    local tokenizer = model:tokenizer()
    assert.is_true(tokenizer:info().add_bos)
    for _, row in ipairs(fixture.texts) do
      local ids = tokenizer:encode(row.text)
      assert.same({ table.unpack(row.ids, 2) }, ids)
      assert.equal(tokenizer:info().bos, row.ids[1])
      assert.equal(row.text, tokenizer:decode(ids))
    end
  end)

  it("gives transformers' log-probabilities", function()
    local session <close> = assert(model:session {
      rank = 2, alpha = 2, dropout = 0, targets = { "q_proj" }, seed = 0, threads = 2,
    })
    for i, row in ipairs(fixture.texts) do
      local logprobs = assert(session:forward({ { tokens = row.ids } }, { base = true }))[1]
      assert.is_true(golden.largest_difference(logprobs, row.logprobs) < 1e-3, "text " .. i)
      local choices = {}
      for j, id in ipairs(row.last.ids) do choices[j] = { id } end
      local scores = assert(session:score({ row.ids }, { choices }, { base = true }))[1]
      assert.is_true(golden.largest_difference(scores, row.last.logprobs) < 1e-3, "end of text " .. i)
    end
  end)
end)
