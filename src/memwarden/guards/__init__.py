"""What a user's own code holds: context managers, decorators and functions that keep it within its memory."""
