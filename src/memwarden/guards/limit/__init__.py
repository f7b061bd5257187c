"""Limits on a function, a block or a child process of one's own."""
