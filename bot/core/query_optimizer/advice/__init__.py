"""Advice on SQL statements: rules, rewrites, indexes."""
