"""A `concurrent.futures.Executor` that keeps its tasks within a memory budget."""
