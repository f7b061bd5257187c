"""Temporary files, processes and captures that are released with the work that took them."""
