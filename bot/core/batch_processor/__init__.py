"""Items grouped by size and time, a result for each."""
