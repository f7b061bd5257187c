"""What several tests need: real containers, a real cgroup v2, and where this checkout lies."""
