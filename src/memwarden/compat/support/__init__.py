"""Shapes and conversions that several of the compat modules share."""
