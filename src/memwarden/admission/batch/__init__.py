"""A command or function run for each of many inputs, and the report of such a batch."""
