"""Requests spread over bot instances, with failover."""
