"""Admission: what tasks need, and what knowing that is worth."""
