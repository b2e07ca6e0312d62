-- Cells of a report's tables: heads and numbers, so that all are set alike.
local h = require "crucible.report.html"
local text = require "crucible.report.text"

local cells = {}

--- Head of a column.
---@param ... any  children
---@return crucible.report.Node
function cells.head(...) return h.th({ scope = "col" }, ...) end

--- Head of a column of numbers.
---@param ... any
---@return crucible.report.Node
function cells.number_head(...) return h.th({ scope = "col", class = "n" }, ...) end

--- Head of a row.
---@param ... any
---@return crucible.report.Node
function cells.row_head(...) return h.th({ scope = "row" }, ...) end

--- Head of a row that is a name out of a run.
---@param name any
---@return crucible.report.Node
function cells.row_name(name) return cells.row_head(h.bdi({}, text.label(name))) end

--- A number, set right.
---@param ... any
---@return crucible.report.Node
function cells.number(...) return h.td({ class = "n" }, ...) end

--- A table in a frame that scrolls sideways when it must.
---@param header crucible.report.Node[]  cells of the first row
---@param bodies any  tbody elements
---@param classes { frame: string?, table: string? }?
---@return crucible.report.Node
function cells.framed(header, bodies, classes)
  classes = classes or {}
  return h.div({ class = classes.frame or "scroll" },
    h.table({ class = classes.table or false }, h.thead({}, h.tr({}, header)), bodies))
end

--- A run's colour and name.
---@param run crucible.report.Run
---@param index integer  from 1
---@return any[] nodes
function cells.run_name(run, index)
  return { h.span({ class = "swatch s" .. (index - 1) % 8 }), " ", h.bdi({}, text.label(run.title or run.name)) }
end

return cells
