"""What the guards cost, and how well they hold."""
