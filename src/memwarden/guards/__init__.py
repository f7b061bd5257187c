"""Decorators and context managers that measure a user's own code and limit its memory."""
