"""Fuzzing: whatever bytes a parser gets, it answers with a value that holds its invariants or with its one error."""
