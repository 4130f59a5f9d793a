"""What is known of SQL and of the databases that speak it."""
