"""Two cache tiers: memory, and Redis shared by instances."""
