"""Arrays in, arrays out: norms, averages, dtypes, rounding. No pytrees and no state."""
