-- GSM8K (Cobbe et al. 2021): grade-school word problems and their worked solutions,
--
--     { question, answer }      the answer ends in a line "#### 72"
--
-- 7,473 rows train, 1,319 test.
local ROOT = "https://raw.githubusercontent.com/openai/grade-school-math/"
  .. "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/"

return {
  name = "gsm8k",
  formatter = "gsm8k",
  splits = { "train", "test" },
  source = "https://github.com/openai/grade-school-math",
  licence = "MIT (OpenAI)",
  citation = "Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168",
  files = {
    train = { {
      name = "train.jsonl", url = ROOT .. "train.jsonl", size = 4166206,
      sha256 = "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    } },
    test = { {
      name = "test.jsonl", url = ROOT .. "test.jsonl", size = 749738,
      sha256 = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    } },
  },
}
