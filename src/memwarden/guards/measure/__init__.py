"""Measurements of calls and programs: peaks, growth, leaks, allocating lines."""
