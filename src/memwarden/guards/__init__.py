"""What a user's own code holds: decorators and context managers around functions and blocks."""
