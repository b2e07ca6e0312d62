std = "lua54"
max_line_length = 120
max_comment_line_length = 200 -- an annotation of types cannot be wrapped
exclude_files = { "build", "lua/crucible/core.meta.lua", "lua/crucible/editline.meta.lua" }
files["spec"] = { std = "lua54+busted" }
