"""The values that the rooms pass to one another. They are immutable, and know no clock, no file and no thread."""
