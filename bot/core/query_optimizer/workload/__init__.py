"""A workload: statements with their times, from logs and from a server's statistics, and what to do first."""
