"""The values that the packages exchange. They are immutable, and know no clock, no file and no thread."""
