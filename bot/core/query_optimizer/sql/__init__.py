"""What is known about SQL and its databases."""
