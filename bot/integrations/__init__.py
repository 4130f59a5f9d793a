"""Adapters for bot frameworks, each imported only when used."""
