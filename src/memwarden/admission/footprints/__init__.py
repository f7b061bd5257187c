"""Peak memory of tasks, learned from earlier tasks of the same kind."""
