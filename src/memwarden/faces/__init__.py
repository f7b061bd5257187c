"""Screens for people and machines. They show what lower floors know, and know nothing themselves."""
