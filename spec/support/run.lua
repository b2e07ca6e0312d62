-- Starts busted under the interpreter that runs this file, wherever its own launcher points.
require "busted.runner" { standalone = false }
