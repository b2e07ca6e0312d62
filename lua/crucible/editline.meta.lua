---@meta crucible.editline
-- Lines of a terminal edited by libedit, as Lua sees it: `require "crucible.editline"`, which is not there where
-- libedit was not at build time. Keys are Emacs', and the person's own of ~/.editrc.

---@class crucible.editline
local editline = {}

--- An editor of standard input.
---@param program string  the name that ~/.editrc may ask for
---@return crucible.editline.Editor? editor, string? message, string? code  "unsupported" where there is no terminal
function editline.open(program) end

---@class crucible.editline.Editor  has __gc and __close
local Editor = {}

--- A line without its end; nil and "eof" (Ctrl-D), "interrupt" (Ctrl-C), or "complete" (Tab), the line so far and the
--- cursor in bytes: the line is then still being edited, and the next read goes on with it.
---@param prompt string?  what stands between two bytes 1 takes no columns
---@return string? line, string? why, string? text, integer? cursor
function Editor:read(prompt) end

--- Puts text at the cursor of the line that is being edited.
---@param text string
function Editor:insert(text) end

--- Writes text below the line that is being edited, which then stands below it.
---@param text string
function Editor:show(text) end

--- Adds a line to the history.
---@param line string
function Editor:remember(line) end

--- Takes over the history of a file.
---@param path string
---@return integer? lines, string? message, string? code
function Editor:load(path) end

--- Writes the history into a file.
---@param path string
---@return integer? lines, string? message, string? code
function Editor:save(path) end

--- Puts the terminal back. Safe to call twice.
function Editor:close() end

return editline
