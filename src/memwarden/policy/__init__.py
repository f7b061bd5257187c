"""From verdicts to decisions: rules are data, deciding is a function of values."""
