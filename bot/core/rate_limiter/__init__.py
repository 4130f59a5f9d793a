"""Token buckets per client."""
