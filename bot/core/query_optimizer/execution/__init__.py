"""Statements that are run: results, look-ups, transactions, time taken, N+1 patterns."""
