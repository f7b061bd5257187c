"""From decisions to outcomes: the only package that changes the world."""
