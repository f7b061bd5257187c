"""Results of commands as text, JSON and pictures."""
