-- Named data sets fetched from where they are published; here a server on the loopback interface.
local download = require "crucible.download"
local dataset_integration = require("crucible").lora.dataset_integration
local expect = require "spec.support.expect"
local fault_server = require "spec.support.fault_server"
local fs = require("crucible.core").fs
local paths = require "crucible.paths"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local prepare = dataset_integration.prepare_dataset
local ROWS = '{"question":"1+1?","answer":"2"}\n{"question":"2+2?","answer":"4"}\n'

describe("a data set that is not here", function()
  local server, folder, notices
  local notice, cache, data = download.notice, paths.cache, paths.data
  local registered = 0

  setup(function() server = fault_server.start() end)
  teardown(function() if server then server:stop() end end)
  before_each(function()
    folder, notices = temp.folder(), {}
    download.notice = function(text) notices[#notices + 1] = text end
    paths.cache = function() return folder .. "/cache" end
    paths.data = function() return { folder .. "/cache/data" } end
  end)
  after_each(function()
    download.notice, paths.cache, paths.data = notice, cache, data
    temp.clean()
  end)

  -- A data set of one file in the split train, under a new name.
  local function register(text, changes, plan)
    registered = registered + 1
    local name = "fetched_" .. registered
    local path = temp.file(folder, "served/" .. name, text)
    local file = { name = "train.jsonl", sha256 = fs.sha256(text), size = #text,
      url = server:url("/" .. name, plan, "file=" .. path) }
    for key, value in pairs(changes or {}) do file[key] = value end
    dataset_integration.register_dataset(name, {
      files = { train = { file } }, formatter = "gsm8k", source = "https://example.org/" .. name, licence = "MIT",
      citation = "Nobody 2020",
    })
    return name
  end

  local function it_serves(title, body)
    it(title, function()
      if not server then return pending("LuaSocket is not installed") end
      body()
    end)
  end

  it_serves("is fetched once, into the cache", function()
    local name = register(ROWS)
    local rows, info = assert(prepare(name))
    assert.equal("Problem: 2+2?\n\nSolution:", rows[2].input)
    assert.equal(folder .. "/cache/data/" .. name .. "/train.jsonl", info.source)
    assert.equal(2, #assert(prepare(name)))
    assert.equal(1, #server:requests("/" .. name))
  end)

  it_serves("shows licence and citation once", function()
    local name = register(ROWS)
    assert(prepare(name))
    fs.remove_tree(folder .. "/cache/data/" .. name .. "/train.jsonl")
    assert(prepare(name))
    local text = table.concat(notices, "\n")
    assert.equal(1, select(2, text:gsub("licence: MIT", "")))
    assert.equal(1, select(2, text:gsub("cite: Nobody 2020", "")))
    assert.equal(2, select(2, text:gsub(": fetching http", "")))
  end)

  it_serves("is not taken with another checksum", function()
    local name = register(ROWS, { sha256 = ("0"):rep(64) })
    expect.fails("not_found", "could not be fetched", prepare(name))
    local _, message = prepare(name)
    assert.truthy(message:find("expected 0000", 1, true), message)
    assert.truthy(message:find("put train.jsonl (from http://127.0.0.1", 1, true), message)
    assert.truthy(message:find("into the folder " .. name .. " there", 1, true), message)
  end)

  it_serves("is not fetched when downloads are switched off, or a path is given", function()
    local name = register(ROWS)
    expect.fails("not_found", "downloads are switched off", prepare(name, { download = false }))
    expect.fails("not_found", "was not found in " .. folder, prepare(name, { path = folder .. "/elsewhere" }))
    assert.equal(0, #server:requests("/" .. name))
  end)

  it_serves("comes out of an archive, of which nothing else is kept", function()
    temp.file(folder, "packed/data/rows.jsonl", ROWS)
    temp.file(folder, "packed/data/other.txt", "other")
    shell.run(("tar -C %s/packed -czf %s/archive.tar.gz data"):format(folder, folder))
    local name = register(temp.read(folder .. "/archive.tar.gz"),
      { name = "archive.tar.gz", members = { ["data/rows.jsonl"] = "train.jsonl" } })
    dataset_integration.find(name).open = function(place)
      local path = paths.join(place, "train.jsonl")
      return paths.is_file(path) and require("crucible.jsonl").reader(path) or nil, path
    end
    assert.equal(2, #assert(prepare(name)))
    assert.same({ ".archive.tar.gz.lock", "SOURCE.txt", "train.jsonl" }, fs.list(folder .. "/cache/data/" .. name))
  end)

  it_serves("is refused as an archive that would write elsewhere", function()
    temp.file(folder, "in/x", "evil")
    shell.run(("cd %s/in && tar -czPf ../slip.tar.gz --transform 's,^x$,../../../evil,' x"):format(folder))
    local name = register(temp.read(folder .. "/slip.tar.gz"),
      { name = "slip.tar.gz", members = { x = "train.jsonl" } })
    local _, message = prepare(name)
    assert.truthy(message:find('"../../../evil" would leave the folder: refused', 1, true), message)
    assert.is_nil(fs.stat(folder .. "/evil"))
    assert.same({ ".slip.tar.gz.lock", "SOURCE.txt" }, fs.list(folder .. "/cache/data/" .. name))
  end)

  it_serves("says when an archive lacks what it should hold", function()
    temp.file(folder, "in/x", "x")
    shell.run(("tar -C %s/in -czf %s/lacks.tar.gz x"):format(folder, folder))
    local name = register(temp.read(folder .. "/lacks.tar.gz"),
      { name = "lacks.tar.gz", members = { y = "train.jsonl" } })
    local _, message = prepare(name)
    assert.truthy(message:find("has no entry y", 1, true), message)
  end)
end)

describe("the published data sets", function()
  for _, name in ipairs { "scifact", "scifact_cns", "fever", "gsm8k" } do
    it(name .. " say where they come from, under which licence, and whom to cite", function()
      local dataset = dataset_integration.find(name)
      for _, field in ipairs { "source", "licence", "citation", "formatter" } do
        assert.is_string(dataset[field], field)
      end
      for _, split in ipairs(dataset.splits) do
        for _, file in ipairs(dataset.files[split]) do
          assert.truthy(file.url:find("^https://"))
          assert.truthy(file.sha256:find("^%x+$") and #file.sha256 == 64)
          assert.truthy(file.size > 0)
        end
      end
    end)
  end
end)

describe("scifact with all labels", function()
  local function count(options)
    local counts = {}
    for _, row in ipairs(assert(prepare("scifact", options))) do
      counts[row.output] = (counts[row.output] or 0) + 1
    end
    return counts
  end

  it("has the claims without evidence too", function()
    assert.same({ SUPPORT = 332, CONTRADICT = 173, NOT_ENOUGH_INFO = 304 }, count { labels = "all" })
    assert.same({ SUPPORT = 124, CONTRADICT = 64, NOT_ENOUGH_INFO = 112 }, count { labels = "all", split = "dev" })
    assert.same({ SUPPORT = 332, CONTRADICT = 173 }, count { labels = "evidence" })
    local _, info = prepare("scifact", { labels = "all" })
    assert.same({ "SUPPORT", "CONTRADICT", "NOT_ENOUGH_INFO" }, info.labels)
  end)

  it("leaves evidence empty where there is none", function()
    for _, row in ipairs(assert(prepare("scifact", { labels = "all" }))) do
      if row.output == "NOT_ENOUGH_INFO" then
        assert.truthy(row.input:find("\nEvidence: \n\nVerdict:$"))
        assert.same({}, row.metadata.evidence_ids)
      end
    end
  end)

  it("is an option of scifact alone", function()
    expect.raises("labels is no option of the dataset fever", prepare, "fever", { labels = "all" })
    expect.raises('labels must be one of "evidence", "all"', prepare, "scifact", { labels = "some" })
  end)
end)

-- The released files, where CRUCIBLE_DATA has them: every row beside a plain join of the raw lines.
describe("the released files of scifact", function()
  local json, jsonl = require "crucible.json", require "crucible.jsonl"
  local folder = os.getenv "CRUCIBLE_DATA" and paths.join(os.getenv "CRUCIBLE_DATA", "scifact")

  local function released(title, body)
    it(title, function()
      if not (folder and paths.is_file(folder .. "/corpus.jsonl")) then
        return pending("CRUCIBLE_DATA holds no scifact/corpus.jsonl")
      end
      body()
    end)
  end

  released("have 809, 300 and 300 claims", function()
    for split, expected in pairs { train = 809, dev = 300, test = 300 } do
      local rows = assert(prepare("scifact", { split = split, labels = "all", path = folder, transform = function(row)
        return { input = row.claim, output = tostring(row.label) }
      end }))
      assert.equal(expected, #rows)
    end
    expect.fails("data", '"label" is missing', prepare("scifact", { split = "test", labels = "all", path = folder }))
  end)

  released("become the fields of every row", function()
    local abstracts = {}
    for _, document in ipairs(assert(jsonl.read(folder .. "/corpus.jsonl"))) do
      abstracts[tostring(document.doc_id)] = document.abstract
    end
    for split, counted in pairs { train = 505, dev = 188 } do
      local claims = assert(jsonl.read(folder .. "/claims_" .. split .. ".jsonl"))
      local with_evidence = {}
      for _, claim in ipairs(claims) do
        if next(claim.evidence) then with_evidence[#with_evidence + 1] = claim end
      end
      local rows = assert(prepare("scifact", { split = split, path = folder, transform = function(row)
        return { input = json.encode(row), output = row.label }
      end }))
      assert.equal(counted, #rows)
      for i, claim in ipairs(with_evidence) do
        local row = json.decode(rows[i].input)
        local ids, sentences, label = {}, {}, nil
        for id in pairs(claim.evidence) do ids[#ids + 1] = tonumber(id) end
        table.sort(ids)
        for _, id in ipairs(ids) do
          local wanted = {}
          for _, rationale in ipairs(claim.evidence[tostring(id)]) do
            label = rationale.label
            for _, number in ipairs(rationale.sentences) do wanted[number] = true end
          end
          for number, sentence in ipairs(abstracts[tostring(id)]) do
            if wanted[number - 1] then sentences[#sentences + 1] = sentence:match("^%s*(.-)%s*$") end
          end
        end
        assert.same({ claim.id, claim.claim, ids, sentences, label },
          { row.id, row.claim, row.evidence_ids, row.evidence, row.label })
      end
    end
  end)
end)
