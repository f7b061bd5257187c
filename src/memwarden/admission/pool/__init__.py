"""Worker processes: spawned, connected, measured, stopped and reaped."""
