-- SciFact as claim and relation extraction: the published rows rebuilt from the raw files.
local dataset_integration = require("crucible").lora.dataset_integration
local expect = require "spec.support.expect"
local fs = require "crucible.fs"
local json = require "crucible.json"
local temp = require "spec.support.temp"

local prepare = dataset_integration.prepare_dataset

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return copy
end

local function passages(prompt)
  local list = {}
  local body = prompt:match "Passage:\n(.*)\n\nTask:\n"
  for part in (body:gsub("\n\n(Document %d+: )", "\0%1") .. "\0"):gmatch "(.-)%z" do list[#list + 1] = part end
  return list
end

describe("the data set scifact_cns", function()
  after_each(temp.clean)

  -- Digests of the 505 rows of scifact_claim_extractor_clean.jsonl (North-Shore-AI, crucible_framework, MIT).
  it("has the claim ids, document ids, claims and relations of the published rows", function()
    local rows, parts = assert(prepare "scifact_cns"), {}
    assert.equal(505, #rows)
    for i, row in ipairs(rows) do
      parts[i] = ("%d\t%s\n%s\n"):format(row.metadata.claim_id, table.concat(sorted(row.metadata.doc_ids), ","),
        row.output)
    end
    assert.equal("6b7ac5c0df2a0a79fff3cf583ca0ac21da7a96df1f55035d991dc6719a5980fe", fs.sha256(table.concat(parts)))
  end)

  it("has their prompts, but for the order of passages in 28 rows of several documents", function()
    local parts = {}
    for i, row in ipairs(assert(prepare "scifact_cns")) do
      local head, tail = row.input:match "^(.-)Passage:\n", row.input:match "\n\nTask:\n(.*)$"
      parts[i] = head .. "|" .. table.concat(sorted(passages(row.input)), "|") .. "|" .. tail .. "\n"
    end
    assert.equal("c6f376f3431de85d458cdc42b3f835548408f69f472684c9d3f30553b56c429e", fs.sha256(table.concat(parts)))
  end)

  it("has 188 rows of dev, which evaluation gets for test", function()
    assert.equal(188, #assert(prepare("scifact_cns", { split = "dev" })))
    assert.equal("dev", dataset_integration.find("scifact_cns").fallback.test)
  end)

  it("tells where the evidence stands and what a row's label is", function()
    local row = assert(prepare("scifact_cns", { limit = 1 }))[1]
    assert.same({ claim_id = 2, doc_ids = { "13734012" }, evidence_ids = { 13734012 }, pool = { "13734012" },
      label = "CONTRADICT", source = "SciFact", license = "CC-BY-4.0" }, row.metadata)
  end)

  it("takes rows of prompt and completion as they are", function()
    local rows = assert(prepare({ { prompt = "p", completion = "c", metadata = { claim_id = 3 } } },
      { formatter = "scifact_cns" }))
    assert.same({ { input = "p", output = "c", metadata = { claim_id = 3 } } }, rows)
  end)
end)

describe("scifact_cns out of raw files", function()
  after_each(temp.clean)

  local documents = {
    { doc_id = 9, title = " Nine ", abstract = { "nine a ", "nine b\n" } },
    { doc_id = 10, title = "Ten", abstract = { "ten a", " ten b" } },
  }
  local claim = { id = 4, claim = "It is so. ", cited_doc_ids = { 10, 7, 9 }, evidence = {
    ["9"] = { { sentences = { 1, 0 }, label = "CONTRADICT" } },
    ["10"] = { { sentences = { 0 }, label = "CONTRADICT" }, { sentences = { 0, 1 }, label = "CONTRADICT" } },
  } }

  local function folder_of(claims, corpus)
    local folder, lines = temp.folder(), { {}, {} }
    for i, row in ipairs(claims) do lines[1][i] = json.encode(row) .. "\n" end
    for i, row in ipairs(corpus) do lines[2][i] = json.encode(row) .. "\n" end
    temp.file(folder, "claims_train.jsonl", table.concat(lines[1]))
    temp.file(folder, "corpus.jsonl", table.concat(lines[2]))
    return folder
  end

  it("gives one claim and relation a rationale, documents in the order of cited_doc_ids", function()
    local empty = { id = 5, claim = "No.", cited_doc_ids = { 9 }, evidence = {} }
    local rows = assert(prepare("scifact_cns", { path = folder_of({ claim, empty }, documents) }))
    assert.equal(1, #rows)
    assert.equal("CLAIM[c1]: It is so.\nCLAIM[c2] (Document 10): ten a\nRELATION: c2 refutes c1\n"
      .. "CLAIM[c3] (Document 10): ten a ten b\nRELATION: c3 refutes c1\n"
      .. "CLAIM[c4] (Document 9): nine b nine a\nRELATION: c4 refutes c1", rows[1].output)
    assert.same({ "Document 10: Ten\n\nten a ten b", "Document 9: Nine\n\nnine a nine b" }, passages(rows[1].input))
  end)

  it("is refused when the corpus lacks a document or a sentence", function()
    expect.fails("format", "claim 4: document 9 is not in the corpus",
      prepare("scifact_cns", { path = folder_of({ claim }, { documents[2] }) }))
    local cut = { documents[1], { doc_id = 10, title = "Ten", abstract = { "ten a" } } }
    expect.fails("format", "claim 4: document 10 has no sentence 1",
      prepare("scifact_cns", { path = folder_of({ claim }, cut) }))
  end)

  it("is missed by naming the files", function()
    expect.fails("not_found", "put claims_train.jsonl and corpus.jsonl", prepare("scifact_cns",
      { path = temp.folder() }))
  end)

  describe("with distractors", function()
    local corpus = {}
    for i = 1, 30 do
      corpus[i] = { doc_id = i, title = "Title " .. i, abstract = { i % 3 == 0 and "zebra stripes" or "nothing here" } }
    end
    local claims = {
      { id = 1, claim = "Zebra stripes.", cited_doc_ids = { 3 }, evidence = { ["3"] = { { sentences = { 0 },
        label = "SUPPORT" } } } },
      { id = 2, claim = "Zebra stripes.", cited_doc_ids = { 5 }, evidence = { ["5"] = { { sentences = { 0 },
        label = "SUPPORT" } } } },
    }

    local function pools(options)
      options.path = folder_of(claims, corpus)
      local list = {}
      for i, row in ipairs(assert(prepare("scifact_cns", options))) do list[i] = row.metadata.pool end
      return list
    end

    it("adds k documents that are not evidence, half of them near the claim", function()
      for k = 1, 6 do
        for i, pool in ipairs(pools { distractors = k }) do
          assert.equal(k + 1, #pool)
          local near, gold, seen = 0, 0, {}
          for _, id in ipairs(pool) do
            assert.is_nil(seen[id])
            seen[id] = true
            if id == tostring(claims[i].cited_doc_ids[1]) then
              gold = gold + 1
            elseif tonumber(id) % 3 == 0 then
              near = near + 1
            end
          end
          assert.equal(1, gold)
          assert.is_true(near >= (k + 1) // 2)
        end
      end
    end)

    it("chooses by the seed alone", function()
      assert.same(pools { distractors = 4 }, pools { distractors = 4, distractors_seed = 0 })
      assert.not_same(pools { distractors = 4 }, pools { distractors = 4, distractors_seed = 1 })
    end)

    it("puts the evidence at no place of its own", function()
      local places = {}
      for seed = 1, 40 do
        for at, id in ipairs(pools({ distractors = 2, distractors_seed = seed })[1]) do
          if id == "3" then places[at] = true end
        end
      end
      assert.same({ true, true, true }, places)
    end)

    it("takes what there is of a small corpus", function() assert.equal(30, #pools({ distractors = 99 })[1]) end)

    it("is no option of other data", function()
      expect.raises("distractors is no option of the dataset scifact", prepare, "scifact", { distractors = 1 })
      expect.raises("distractors is no option of the dataset given as a table", prepare, {}, { distractors = 1 })
    end)
  end)
end)
