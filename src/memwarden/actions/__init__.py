"""From decisions to outcomes: the only room that changes the world."""
