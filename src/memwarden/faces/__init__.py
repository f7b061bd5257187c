"""Screens for people and machines. They show what lower layers know, and know nothing themselves."""
