"""Readers of `/proc` and control groups; Linux alone."""
