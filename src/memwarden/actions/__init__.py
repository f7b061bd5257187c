"""Actions: they carry out decisions and return outcomes. No other package changes processes or memory."""
