"""From samples to verdicts: functions of values, which ask no clock and touch no file."""
