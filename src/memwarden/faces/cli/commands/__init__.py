"""The commands: each parses its arguments, runs, and hands the result to a report or a live view."""
