"""Admission of tasks, so that a batch stays within its memory."""
