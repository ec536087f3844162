"""The long form of the fuzz tests: at least a million inputs for each target."""
