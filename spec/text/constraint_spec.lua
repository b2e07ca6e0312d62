-- Constraints: what a pattern means, what is refused, and that generated text keeps to it.
local constraint = require "crucible.constraint"
local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local parser = require "crucible.domain.parser"
local tiny_model = require "spec.support.tiny_model"

local debugging, native = pcall(require, "crucible.core.debug")

describe("a pattern", function()
  local model, tokenizer

  before_each(function()
    model = tiny_model.open()
    tokenizer = model:tokenizer()
  end)
  after_each(function() model:close() end)

  local cases = { -- pattern, what it means, what it does not
    { "abc", { "abc" }, { "", "ab", "abcd", "xabc" } },
    { "", { "" }, { "a" } },
    { "a*", { "", "a", "aaaa" }, { "b", "ab" } },
    { "a+b?", { "a", "ab", "aaab" }, { "", "b", "abb" } },
    { "a|bc|", { "a", "bc", "" }, { "b", "abc" } },
    { "(?:a|b)(c|d)", { "ac", "bd" }, { "a", "ab" } },
    { "a{2}", { "aa" }, { "a", "aaa" } },
    { "a{2,}", { "aa", "aaaaa" }, { "a" } },
    { "(ab){1,3}", { "ab", "ababab" }, { "", "abababab", "aba" } },
    { "(a*)*b", { "b", "aaab" }, { "a" } },
    { "((a?){3}){3}", { "", "aaaaaaaaa" }, { "aaaaaaaaaa" } },
    { "[a-cx]", { "a", "b", "x" }, { "d", "-" } },
    { "[^a-c]", { "d", "é", "\n", "😀" }, { "a", "\xFF", "\xC3" } },
    { "[]a]", { "]", "a" }, { "b" } },
    { "[a\\]\\-]", { "a", "]", "-" }, { "\\" } },
    { "[a-]", { "a", "-" }, { "b" } },
    { ".", { "a", "é", "漢", "😀" }, { "\n", "", "ab", "\x80" } },
    { "[à-ÿ]+", { "éàü" }, { "e", "ā" } },
    { "[\\x{7F}-\\x{10FFFF}]", { "\x7F", "\u{80}", "\u{7FF}", "\u{800}", "\u{FFFF}", "\u{10000}", "\u{10FFFF}" },
      { "a", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC0\x80" } },
    { "\\x41\\n\\t\\.", { "A\n\t." }, { "A\n\tx" } },
    { "\\d{4}-\\d\\d", { "2024-11" }, { "2024-1x", "٢024-11" } },
    { "\\w+\\s\\S\\D\\W", { "a_9 xy!" }, { "a_9 x1!" } },
    { "[\\d\\s]+", { "1 2" }, { "a" } },
  }
  for _, case in ipairs(cases) do
    it("/" .. case[1] .. "/ means what it should", function()
      local made <close> = assert(tokenizer:constraint(case[1]))
      for _, text in ipairs(case[2]) do assert.is_true(made:matches(text), ("%q"):format(text)) end
      for _, text in ipairs(case[3]) do assert.is_false(made:matches(text), ("%q"):format(text)) end
    end)
  end

  local refused = {
    { "a(b", "format", "byte 4: the group has no ')'" },
    { "a)", "format", "byte 2: there is no '(' for this ')'" },
    { "[a", "format", "byte 3: the class has no ']'" },
    { "[z-a]", "format", "a range must lead from lower to higher" },
    { "*a", "format", "byte 1: there is nothing to repeat" },
    { "a{2", "format", "expected {n}, {n,} or {n,m}" },
    { "a{3,2}", "format", "second number is less than its first" },
    { "a{1001}", "unsupported", "a repeat goes up to 1000" },
    { "a**", "format", "a repeat of a repeat needs a group" },
    { "a*?", "unsupported", "lazy and possessive repeats" },
    { "^a", "unsupported", "byte 1: the pattern always means the whole text" },
    { "a$", "unsupported", "byte 2: the pattern always means the whole text" },
    { "(?=a)", "unsupported", "only (?: is supported" },
    { "(?<n>a)", "unsupported", "only (?: is supported" },
    { "\\1", "unsupported", "this escape is not supported" },
    { "\\bx", "unsupported", "this escape is not supported" },
    { "\\p{L}", "unsupported", "this escape is not supported" },
    { "[[:alpha:]]", "unsupported", "[:name:] is not supported" },
    { "[^\\x{0}-\\x{10FFFF}]", "format", "the class holds no character" },
    { "\\x{110000}", "format", "there is no character of that number" },
    { "\\xFF", "unsupported", "\\xHH goes up to 7F" },
    { "a\\", "format", "a character is missing after the backslash" },
    { "\xFF", "format", "byte 1: expected well-formed UTF-8" },
    { ("("):rep(200) .. (")"):rep(200), "unsupported", "nested more than 100 deep" },
    { "(((a{1000}){1000}){1000})", "unsupported", "the pattern is too large: more than 200000 nodes" },
  }
  for _, case in ipairs(refused) do
    it("is refused: " .. case[1]:sub(1, 30), function()
      expect.fails(case[2], case[3], tokenizer:constraint(case[1]))
    end)
  end

  it("of nothing any number of times ends soon", function()
    local made <close> = assert(tokenizer:constraint "((((){1000}){1000}){1000}){1000}")
    assert.is_true(made:matches "")
  end)

  it("that needs too many states says so", function()
    local made <close> = assert(tokenizer:constraint "[ab]*a[ab]{17}")
    local texts, failed = {}, false
    for i = 1, 60 do texts[i] = lists.map(lists.uniform(i, 400, 2), function(x) return x > 0 and "a" or "b" end) end
    for _, letters in ipairs(texts) do
      local matches, message, code = made:matches(table.concat(letters))
      if matches == nil then
        failed = true
        assert.equal("memory", code)
        assert.matches("needs more than 20000 states", message)
      end
    end
    assert.is_true(failed)
  end)
end)

describe("constraint.pattern", function()
  local model, tokenizer

  before_each(function()
    model = tiny_model.open()
    tokenizer = model:tokenizer()
  end)
  after_each(function() model:close() end)

  local function means(given, text)
    local made <close> = assert(tokenizer:constraint(constraint.pattern(given)))
    return made:matches(text)
  end

  it("takes a choice for its letters, after at most one space", function()
    local given = { choices = { "a.b", "(x|y)*", "two\nlines [^$]", "\\d" } }
    for _, text in ipairs(given.choices) do
      assert.is_true(means(given, text))
      assert.is_true(means(given, " " .. text))
      assert.is_false(means(given, "  " .. text))
    end
    assert.is_false(means(given, "axb"))
    assert.is_false(means(given, "1"))
    assert.is_false(means({ choices = { "a" }, leading_space = false }, " a"))
  end)

  it("of claims means lines that parse, in order, without relations to what is not there", function()
    local given = { grammar = "claims", most_claims = 3, documents = { "12", "123" } }
    for _, text in ipairs {
      "CLAIM[c1]: x", "CLAIM[c1]: x\nCLAIM[c2] (Document 12): y z\nRELATION: c2 refutes c1",
      "CLAIM[c1]: é\nCLAIM[c2]: y\nRELATION: c1 supports c2\nRELATION: c2 contrasts c1\nCLAIM[c3] (Document 123): z",
    } do
      assert.is_true(means(given, text), text)
    end
    for _, text in ipairs {
      "", "CLAIM[c2]: x", "CLAIM[c1]: ", "CLAIM[c1]:  x", "CLAIM[c1]: x\n", "CLAIM[c1]: x\nRELATION: c1 supports c1",
      "CLAIM[c1]: x\nRELATION: c2 supports c1\nCLAIM[c2]: y", "CLAIM[c1]: x\nCLAIM[c1]: y",
      "CLAIM[c1]: x\nCLAIM[c2] (Document 1): y", "CLAIM[c1]: x\nCLAIM[c2]: y\nCLAIM[c3]: z\nCLAIM[c4]: z",
      "CLAIM[c1]: x\nCLAIM[c2]: y\nRELATION: c2 denies c1",
    } do
      assert.is_false(means(given, text), text)
    end
    given.cited = true
    assert.is_false(means(given, "CLAIM[c1]: x\nCLAIM[c2]: y"))
    assert.is_true(means(given, "CLAIM[c1]: x\nCLAIM[c2] (Document 12): y"))
  end)

  it("refuses none and two kinds, and options it does not know", function()
    expect.raises("expected one of choices, regex and grammar, got 0", constraint.pattern, {})
    expect.raises("got 2 of them", constraint.pattern, { regex = "a", choices = { "a" } })
    expect.raises("choices is empty", constraint.pattern, { choices = {} })
    expect.raises('did you mean "regex"', constraint.pattern, { regx = "a" })
  end)
end)

-- { tokens, finish } of each prompt.
local function run(session, prompts, params)
  local generation <close> = assert(session:generate(prompts, params))
  local rows = {}
  for i = 1, #prompts do rows[i] = {} end
  while true do
    local events, message = generation:step()
    assert(events or not message, message)
    if not events then return rows end
    for _, event in ipairs(events) do
      local row = rows[event.prompt]
      row[#row + 1] = event.token
      row.finish = event.finish
    end
  end
end

local function prompts_of(count)
  local out = {}
  for i = 1, count do
    out[i] = lists.map(lists.uniform(i, 1 + i * 7 % 11, 32768), function(x) return x // 1 % 260 end)
  end
  return out
end

-- Every complete line of a text parses, ids are unique and relations refer to claims above.
local function assert_lines(text, complete)
  local lines = {}
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  if not complete then lines[#lines] = nil end
  if #lines == 0 then return end
  local parsed = parser.parse(table.concat(lines, "\n"))
  assert.same({}, parsed.errors)
  local known = {}
  for _, line in ipairs(parsed.lines) do assert.not_equal("text", line.kind) end
  for _, claim in ipairs(parsed.claims) do
    assert.is_nil(known[claim.id])
    known[claim.id] = true
  end
  for _, relation in ipairs(parsed.relations) do
    assert.is_true(known[relation.source] and known[relation.target])
    assert.not_equal(relation.source, relation.target)
  end
  assert.is_true(known.c1)
end

describe("generation under a constraint", function()
  local session, model, tokenizer
  local eos = 0

  before_each(function()
    model = tiny_model.open()
    tokenizer = model:tokenizer()
    session = assert(model:session { rank = 2, alpha = 2, dropout = 0, targets = { "q_proj" }, seed = 1 })
  end)
  after_each(function()
    session:close()
    model:close()
  end)

  local patterns = {
    { "of choices", { choices = { "SUPPORT", "SUPPORTS", "CONTRADICT", "é漢😀" } } },
    { "of a date", { regex = "[0-9]{4}-[01][0-9]" } },
    { "of words", { regex = "[a-z]{1,3}( [a-z]{1,3}){0,4}\\." } },
    { "of claims", { grammar = "claims", most_claims = 3, documents = { "12", "123" } } },
  }
  for _, case in ipairs(patterns) do
    it(case[1] .. " gives texts that match, or stopped at max_tokens", function()
      local made <close> = assert(tokenizer:constraint(constraint.pattern(case[2])))
      for _, temperature in ipairs { 0, 1.5 } do
        local params = { temperature = temperature, seed = 7, max_tokens = 60, stop_ids = { eos }, constraint = made }
        for _, row in ipairs(run(session, prompts_of(24), params)) do
          local text = tokenizer:decode(row)
          if row.finish == "stop" then
            assert.is_true(made:matches(text), ("%q"):format(text))
          else
            assert.equal("length", row.finish)
            assert.equal(60, #row)
          end
        end
      end
    end)
  end

  it("of claims has every complete line valid over 500 random prompts at temperature 1.5 #slow", function()
    local given = { grammar = "claims", most_claims = 4 }
    local made <close> = assert(tokenizer:constraint(constraint.pattern(given)))
    local params = { temperature = 1.5, seed = 3, max_tokens = 90, stop_ids = { eos }, constraint = made,
      max_batch = 50 }
    local complete = 0
    for _, row in ipairs(run(session, prompts_of(500), params)) do
      local text = tokenizer:decode(row):gsub("^ ", "")
      complete = complete + (row.finish == "stop" and 1 or 0)
      assert_lines(text, row.finish == "stop")
    end
    assert.is_true(complete > 0)
  end)

  it("draws from the softmax over what may follow #slow", function()
    local made <close> = assert(tokenizer:constraint "[abc]")
    local choices, shares, total = {}, {}, 0
    for id = 0, 319 do choices[id + 1] = { id } end
    local logprobs = assert(session:score({ { 9, 8 } }, { choices }))[1]
    for _, letter in ipairs { "a", "b", "c" } do
      local id = tokenizer:find(letter)
      shares[id] = math.exp(logprobs[id + 1])
      total = total + shares[id]
    end
    local prompts, counts, draws = {}, {}, 3000
    for i = 1, draws do prompts[i] = { 9, 8 } end
    local params = { temperature = 1, max_tokens = 3, constraint = made, seed = 5, max_batch = 100 }
    for _, row in ipairs(run(session, prompts, params)) do
      assert.equal(1, #row)
      assert.equal("stop", row.finish)
      counts[row[1]] = (counts[row[1]] or 0) + 1
    end
    local statistic = 0
    for id, share in pairs(shares) do
      local expected = draws * share / total
      statistic = statistic + ((counts[id] or 0) - expected) ^ 2 / expected
    end
    assert.is_true(statistic < 13.8, statistic) -- 2 degrees of freedom: exceeded once in 1000
  end)

  it("is the same text in any batch, and leaves room for the stop ids only where a text may end", function()
    local made <close> = assert(tokenizer:constraint "(ab|cd?)+")
    local params = { temperature = 1.5, seed = 11, max_tokens = 12, stop_ids = { eos, tokenizer:find "d" },
      constraint = made }
    local expected = run(session, prompts_of(9), lists.with(params, { max_batch = 1 }))
    assert.same(expected, run(session, prompts_of(9), lists.with(params, { max_batch = 4 })))
    for _, row in ipairs(expected) do
      local text = tokenizer:decode(row)
      if row.finish == "stop" then assert.is_true(made:matches(text), text) end
    end
  end)

  it("that the stop ids leave no way is told", function()
    local made <close> = assert(tokenizer:constraint "ab")
    local stop = { tokenizer:find "a", tokenizer:find "ab" }
    local generation <close> = assert(session:generate({ { 1 } }, { constraint = made, stop_ids = stop }))
    expect.fails("unsupported", "prompt 1: no token of the vocabulary begins what must follow", generation:step())
  end)

  it("is not ended by its closing, and ends by itself where nothing can follow", function()
    local made = assert(tokenizer:constraint "x{3}")
    local generation <close> = assert(session:generate({ { 1 } }, { max_tokens = 9, constraint = made }))
    made:close()
    expect.raises("constraint is closed", made.matches, made, "x")
    local text, finish = {}, nil
    for events in function() return (generation:step()) end do
      text[#text + 1] = events[1].token
      finish = events[1].finish
    end
    assert.equal("xxx", tokenizer:decode(text))
    assert.equal("stop", finish)
  end)

  if debugging then
    it("has in each state the set of tokens that the plain walk finds", function()
      for _, case in ipairs(patterns) do
        local made <close> = assert(tokenizer:constraint(constraint.pattern(case[2])))
        local params = { temperature = 1.5, seed = 2, max_tokens = 30, constraint = made }
        for _, row in ipairs(run(session, prompts_of(4), params)) do
          for length = 0, #row do
            local allowed, different = native.constraint_mask(made, lists.slice(row, 1, length))
            assert.equal(0, different)
            if length < #row then assert.is_true(allowed > 0) end
          end
        end
      end
    end)
  end
end)
