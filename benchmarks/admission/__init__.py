"""What admission costs, and what it brings."""
