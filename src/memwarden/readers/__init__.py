"""From the world to facts. Readers decide nothing and write nothing."""
