"""GraphQL operations: what they mean, and advice."""
