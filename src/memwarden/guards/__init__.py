"""What a user's own code holds: decorators and context managers that measure it and keep it within its memory."""
