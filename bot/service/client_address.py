"""Who a request comes from, when a front stands between."""

from __future__ import annotations

from aiohttp import web

TRUSTED_PROXIES: web.AppKey[frozenset[str]] = web.AppKey("trusted_proxies", frozenset)


def client_address(request: web.Request) -> str:
    """The peer's address, or the one that a trusted front saw; anybody else's word is not taken for it."""
    peer = request.remote or ""
    if peer in request.app.get(TRUSTED_PROXIES, frozenset()):
        # The last entry is the front's own; those before it are what its client claims.
        # One that writes a line of its own means the same as one that adds to the line.
        told = ",".join(request.headers.getall("X-Forwarded-For", [])).rpartition(",")[2].strip()
        return told[:64] or peer
    return peer
