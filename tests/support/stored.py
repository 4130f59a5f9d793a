"""Entries for a bounded store under test."""


def put(store, key, *, size=1, now=0.0, ttl=None, space="s", **more):
    """Store one entry of a byte in the space "s", unless told otherwise."""
    return store.put(space, key, f"value of {key}", size=size, now=now, ttl=ttl, **more)
