"""Durable mode: items lie in Redis until they have ended. Needs the redis extra."""
