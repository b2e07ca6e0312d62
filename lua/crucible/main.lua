-- What scripts/crucible runs.
os.exit(require("crucible.cli").main(arg), true)
