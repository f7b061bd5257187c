"""Small operating-system helpers that several packages need: signals, process trees, fork and exit hooks."""
