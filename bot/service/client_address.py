"""Who a request comes from, and by what name it asks, when a front stands between."""

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


_FORWARDED = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")


def is_forwarded(request: web.Request) -> bool:
    """Whether a proxy says that it passes the request on, so that its peer is not who asks."""
    return any(name in request.headers for name in _FORWARDED)


def host_name(host: str) -> str:
    """The host of a Host header without its port: ``[::1]:8000`` -> ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")
