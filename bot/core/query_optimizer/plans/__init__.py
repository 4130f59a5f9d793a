"""What databases say of a statement's plan, and what that proves."""
