-- What is wrong with texts of claims and relations, issue by issue, to be read by people (Markdown) and
-- programs (JSON lines).
local fs = require "crucible.fs"
local json = require "crucible.json"

local issues = {}

local severity_order = { "critical", "high", "medium" }

local WEAK, MODERATE, UNLIKE = 0.30, 0.50, 0.50

local function scored(name, severity, what, score)
  return { issue = name, severity = severity, detail = ("%s %.3f"):format(what, score), score = score }
end

local function entailment_issue(score)
  if score < WEAK then return scored("weak_entailment", "high", "mean entailment", score) end
  if score < MODERATE then return scored("moderate_entailment", "medium", "mean entailment", score) end
end

--- The issues of one assessment. Behind a shut gate of citations nothing was scored, so nothing is said
--- of scores.
---@param assessment crucible.metrics.Assessment
---@return table[]  issue, severity, detail
function issues.of(assessment)
  local list = {}
  if assessment.schema_problem then
    list[#list + 1] = { issue = "schema_violation", severity = "high", detail = assessment.schema_problem }
  end
  if assessment.citation_problem then
    list[#list + 1] = { issue = "citation_invalid", severity = "critical", detail = assessment.citation_problem }
    return list
  end
  list[#list + 1] = entailment_issue(assessment.entailment)
  if assessment.similarity < UNLIKE then
    list[#list + 1] = scored("low_similarity", "medium", "similarity to the expected hypothesis", assessment.similarity)
  end
  return list
end

---@class crucible.metrics.Issue
---@field row integer
---@field claim_id any     of the row's metadata
---@field issue string
---@field severity "critical"|"high"|"medium"
---@field detail string
---@field score number?

--- The issues of all predictions, in their order.
---@param predictions table[]
---@return crucible.metrics.Issue[]
function issues.list(predictions)
  local list = {}
  for row, prediction in ipairs(predictions) do
    for _, issue in ipairs(issues.of(prediction.assessment)) do
      issue.row, issue.claim_id = row, (prediction.metadata or {}).claim_id
      list[#list + 1] = issue
    end
  end
  return list
end

local function counts_of(list)
  local counts = {}
  for _, issue in ipairs(list) do
    counts[issue.severity] = counts[issue.severity] or {}
    counts[issue.severity][issue.issue] = (counts[issue.severity][issue.issue] or 0) + 1
  end
  return counts
end

local function sorted_keys(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- Text that cannot break out of a table's cell.
local function cell(value) return (tostring(value):gsub("[|\\]", "\\%0"):gsub("%s+", " ")) end

local function summary_lines(counts)
  local lines = { "| severity | issue | texts |", "|---|---|---:|" }
  for _, severity in ipairs(severity_order) do
    for _, name in ipairs(sorted_keys(counts[severity] or {})) do
      lines[#lines + 1] = ("| %s | %s | %d |"):format(severity, name, counts[severity][name])
    end
  end
  return lines
end

--- The report as Markdown.
---@param list crucible.metrics.Issue[]
---@param samples integer
---@return string
function issues.markdown(list, samples)
  local lines = { "# Issues", "", ("%d issues in %d texts."):format(#list, samples), "" }
  if #list == 0 then return table.concat(lines, "\n") end
  local summary = summary_lines(counts_of(list))
  table.move(summary, 1, #summary, #lines + 1, lines)
  lines[#lines + 1] = "\n| row | claim | severity | issue | detail |\n|---:|---|---|---|---|"
  for _, issue in ipairs(list) do
    lines[#lines + 1] = ("| %d | %s | %s | %s | %s |"):format(issue.row, cell(issue.claim_id or ""), issue.severity,
      issue.issue, cell(issue.detail))
  end
  return table.concat(lines, "\n") .. "\n"
end

--- Writes the report twice: JSON lines at `path`, Markdown beside it with the ending .md.
---@param path string
---@param list crucible.metrics.Issue[]
---@param samples integer
---@return true? ok, string? message, string? code
function issues.write(path, list, samples)
  local lines = {}
  for i, issue in ipairs(list) do lines[i] = json.encode(issue) .. "\n" end
  local ok, message, code = fs.write_file(path, table.concat(lines))
  if not ok then return nil, message, code end
  return fs.write_file((path:gsub("%.%w+$", "")) .. ".md", issues.markdown(list, samples))
end

return issues
