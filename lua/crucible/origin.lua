-- Where a function is documented that was not written at its own line: the function that it was made around (a
-- registry's function around a method), or "module#field" of an annotated class. help() reads there.
local origin = setmetatable({}, { __mode = "k" })

return origin
