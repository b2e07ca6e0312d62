-- FEVER (Thorne et al. 2018): claims about Wikipedia and whether it supports them. The text of the
-- pages is not part of a row:
--
--     { id, verifiable, label, claim, evidence = { { { annotation, evidence, page, sentence } … } … } }
--
-- 145,449 rows train; dev and test are the paper's, 9,999 rows each, a third of each label.
local ROOT = "https://fever.ai/download/fever/"

local function file(name, size, sha256) return { { name = name, url = ROOT .. name, size = size, sha256 = sha256 } } end

return {
  name = "fever",
  formatter = "fever",
  labels = { "SUPPORTS", "REFUTES", "NOT ENOUGH INFO" },
  splits = { "train", "dev", "test", "shared_task_dev" },
  source = "https://fever.ai/dataset/fever.html",
  licence = "CC BY-SA 3.0 (claims and Wikipedia's text)",
  citation = "Thorne et al. 2018, FEVER: a Large-scale Dataset for Fact Extraction and VERification, NAACL",
  files = {
    train = file("train.jsonl", 33024303, "eba7e8f87076753f8494718b9a857827af7bf73e76c9e4b75420207d26e588b6"),
    dev = file("paper_dev.jsonl", 2168767, "41158707810008747946bf23471e82df53e77a513524b9e3ec1c2e674ef5ef8c"),
    test = file("paper_test.jsonl", 2181168, "fb7b0280a0adc2302bbb29bfb7af37274fa585de3171bcf908f180642d11d88e"),
    shared_task_dev = file("shared_task_dev.jsonl", 4349935,
      "e89865bfe1b4dd054e03dd57d7241a6fde24862905f31117cf0cd719f7c78df7"),
  },
}
