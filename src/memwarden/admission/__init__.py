"""What may start now: reservations of memory, and what tasks are expected to need."""
