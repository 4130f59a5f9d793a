"""What databases say about a statement's plan, and what that proves."""
