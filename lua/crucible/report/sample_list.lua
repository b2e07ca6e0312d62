-- Texts that the model wrote, the same prompts at several moments side by side: those of the records of
-- samples, and the answers that evaluations kept.
local h = require "crucible.report.html"
local series = require "crucible.report.series"
local text = require "crucible.report.text"

local sample_list = {}

local finite = series.finite
local MOST_PROMPTS = 40

---@class crucible.report.Station  one state of one model
---@field label string
---@field answers table<string, table>  by prompt: { text, correct?, likelier? }

-- ---- collecting ----------------------------------------------------------------------------

local function label_of(run, row, several)
  local step = finite(row.step) and (" · step %s"):format(text.count(row.step)) or ""
  local names = {
    before = "before", best = "best" .. step, last = "last" .. step, training = "step " .. text.count(row.step),
  }
  local name = row.base and "before" or names[row.moment] or tostring(row.moment) .. step
  return several and ("%s, %s"):format(run.title or run.name, name) or name
end

-- The rows worth a column: the earliest with something in a list field, the best, and the last.
local function ends_of(rows, field)
  local kept, last = {}, nil
  for _, row in ipairs(rows) do
    if type(row[field]) == "table" and #row[field] > 0 then
      if last == nil or row.moment == "best" then kept[#kept + 1] = row end
      last = row
    end
  end
  if last and kept[#kept] ~= last then kept[#kept + 1] = last end
  return kept
end

local MOST_STATIONS = 5
local rank = { training = 1, before = 2, last = 3, best = 4 }

-- Of the rows of a step, the one whose moment says most; in the order of steps.
local function one_a_step(rows)
  local by_step, steps = {}, {}
  for _, row in ipairs(rows) do
    local step = finite(row.step) or 0
    local known = by_step[step]
    if not known then steps[#steps + 1] = step end
    if not known or (rank[row.moment] or 0) >= (rank[known.moment] or 0) then by_step[step] = row end
  end
  table.sort(steps)
  for i, step in ipairs(steps) do
    local row = by_step[step]
    if row.moment == "last" and i < #steps then row.moment = "training" end -- the end of a run that went on
    steps[i] = row
  end
  return steps
end

-- The first, the best, the last, and of the others as many as fit, evenly.
local function spread(rows)
  if #rows <= MOST_STATIONS then return rows end
  local wanted, kept = {}, {}
  for i = 0, MOST_STATIONS - 2 do wanted[1 + i * (#rows - 1) // (MOST_STATIONS - 2)] = true end
  for i, row in ipairs(rows) do
    if wanted[i] or row.moment == "best" then kept[#kept + 1] = row end
  end
  return kept
end

local function note_prompt(list, prompt, expected)
  if type(prompt) ~= "string" or list.known[prompt] or #list >= MOST_PROMPTS then return end
  list.known[prompt] = true
  list[#list + 1] = { prompt = prompt, expected = expected }
end

local function example_station(run, row, several, prompts)
  local station = { label = label_of(run, row, several), answers = {} }
  for _, example in ipairs(row.examples) do
    if type(example) == "table" and type(example.input) == "string" then
      note_prompt(prompts, example.input, example.expected)
      local written = example.text == nil and example.predicted or example.text
      station.answers[example.input] = { text = written, correct = example.correct, likelier = example.likelier }
    end
  end
  return station
end

local function sample_station(run, row, several, prompts)
  local station = { label = label_of(run, row, several), answers = {} }
  for _, sample in ipairs(row.samples) do
    if type(sample) == "table" and type(sample.prompt) == "string" then
      note_prompt(prompts, sample.prompt, sample.expected)
      station.answers[sample.prompt] = { text = sample.text }
    end
  end
  return station
end

-- Stations over the same prompts, and these prompts.
local function collect(runs, kind, field, station_of)
  local prompts, stations = { known = {} }, {}
  for i, run in ipairs(runs) do
    local rows = kind == "samples" and spread(one_a_step(run.samples)) or ends_of(run[kind], field)
    for j, row in ipairs(rows) do
      local repeats_base = i > 1 and j == 1 and #rows > 1 and (row.base or row.moment == "before")
      if type(row[field]) == "table" and not repeats_base then
        stations[#stations + 1] = station_of(run, row, #runs > 1, prompts)
      end
    end
  end
  return stations, prompts
end

-- ---- showing -------------------------------------------------------------------------------

local function mark(correct)
  if correct == nil then return nil end
  return h.span({ class = correct and "tick right" or "tick wrong" }, correct and "✓ right" or "✗ wrong")
end

local function shown_text(value)
  if value == nil then return h.em({}, "nothing recorded") end
  local answer = text.value(value):match "^%s*(.-)%s*$"
  if answer == "" then return h.em({}, "(empty)") end
  return h.pre({ dir = "auto" }, answer)
end

local function answer_node(station, prompt)
  local answer = station.answers[prompt.prompt]
  if not answer then return h.div({ class = "answer" }, h.h5({}, station.label), h.em({}, "not asked")) end
  return h.div({ class = "answer" }, h.h5({}, station.label, " ", mark(answer.correct)), shown_text(answer.text),
    answer.likelier and h.small({}, "likelier: ", h.bdi({}, text.value(answer.likelier))) or nil)
end

-- "improved", "worse", "right", "wrong" from the first station to the last; nil where that is not known.
local function verdict(stations, prompt)
  local first, last = stations[1].answers[prompt.prompt], stations[#stations].answers[prompt.prompt]
  if not first or not last or first.correct == nil or last.correct == nil then return nil end
  if first.correct == last.correct then return last.correct and "right" or "wrong" end
  return last.correct and "improved" or "worse"
end

local function beginning(prompt)
  local line = prompt:gsub("%s+", " ")
  if utf8.len(line) and utf8.len(line) > 110 then return line:sub(1, utf8.offset(line, 111) - 1) .. "…" end
  return line
end

local function expected_node(expected)
  if expected == nil then return "" end
  local shown = text.value(expected)
  if shown:find("\n", 1, true) then
    return h.details({ class = "expected" }, h.summary({}, "expected"), h.pre({ dir = "auto" }, shown))
  end
  return h.p({ class = "expected" }, "expected ", h.b({}, h.bdi({}, shown)))
end

local function prompt_node(stations, prompt)
  local answers = {}
  for i, station in ipairs(stations) do answers[i] = answer_node(station, prompt) end
  return h.article({ class = "sample", ["data-verdict"] = verdict(stations, prompt) or "" },
    h.details({}, h.summary({}, h.bdi({}, beginning(prompt.prompt))), h.pre({ dir = "auto" }, prompt.prompt)),
    expected_node(prompt.expected), h.div({ class = "answers" }, answers))
end

local order = { "improved", "worse", "right", "wrong" }
local words = { improved = "improved", worse = "got worse", right = "right both times", wrong = "wrong both times" }

local function filter_button(name, pressed, label)
  return h.button({ type = "button", ["data-filter"] = name, ["aria-pressed"] = tostring(pressed) }, label)
end

local function filter_bar(stations, prompts)
  local counts, known = {}, 0
  for _, prompt in ipairs(prompts) do
    local found = verdict(stations, prompt)
    if found then counts[found], known = (counts[found] or 0) + 1, known + 1 end
  end
  if known == 0 or #stations < 2 then return nil end
  local buttons = { filter_button("", true, ("all %d"):format(#prompts)) }
  for _, name in ipairs(order) do
    local label = counts[name] and ("%d %s"):format(counts[name], words[name])
    if label then buttons[#buttons + 1] = filter_button(name, false, label) end
  end
  return h.div({ class = "filter", role = "group", ["aria-label"] = "which answers" }, buttons)
end

local function block(title, note, stations, prompts)
  if #stations == 0 or #prompts == 0 then return nil end
  local nodes = {}
  for i, prompt in ipairs(prompts) do nodes[i] = prompt_node(stations, prompt) end
  return h.div({ class = "block samples" }, h.h3({}, title), h.p({ class = "note" }, note),
    filter_bar(stations, prompts), h.div({ class = #stations > 2 and "sample-list" or "sample-list two" }, nodes))
end

--- Generations of all runs: nil when nothing was kept.
---@param runs crucible.report.Run[]
---@return crucible.report.Node?
function sample_list.of(runs)
  local written, written_prompts = collect(runs, "samples", "samples", sample_station)
  local answered, answered_prompts = collect(runs, "evaluations", "examples", example_station)
  local samples = block("Samples", "The same prompts at several moments of training.", written, written_prompts)
  local answers = block("Answers in evaluations",
    ("The first %d rows that evaluations answered, at the first, the best and the last of them."):format(
      #answered_prompts), answered, answered_prompts)
  if not samples and not answers then return nil end
  return h.div({}, samples, answers)
end

return sample_list
