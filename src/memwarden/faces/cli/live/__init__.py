"""Live terminal views and their plain-text counterpart."""
