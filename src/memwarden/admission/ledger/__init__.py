"""Reservations of memory that all processes of a host or container share."""
