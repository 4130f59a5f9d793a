"""SQL analysis, result cache and statistics."""
