"""Who a request comes from, and by what name it asks, when a front stands between."""

from __future__ import annotations

import ipaddress

from aiohttp import web

TRUSTED_PROXIES: web.AppKey[frozenset[str]] = web.AppKey("trusted_proxies", frozenset)


def client_address(request: web.Request) -> str:
    """The peer's address, or the one that a trusted front saw; anybody else's word is not taken for it."""
    peer = plain_address(request.remote or "")
    if peer in request.app.get(TRUSTED_PROXIES, frozenset()):
        # The last entry is the front's own; those before it are what its client claims.
        # One that writes a line of its own means the same as one that adds to the line.
        told = ",".join(request.headers.getall("X-Forwarded-For", [])).rpartition(",")[2].strip()
        return plain_address(told[:64]) or peer
    return peer


def plain_address(address: str) -> str:
    """An IPv4 address that came to an IPv6 socket (``::ffff:203.0.113.5``), as itself; any other as it is."""
    if address[:7].lower() != "::ffff:":
        return address
    try:
        mapped = ipaddress.IPv6Address(address.partition("%")[0]).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


_OF_ONE_NETWORK = ipaddress.ip_network("fc00::/7")


def client_of(address: str) -> str:
    """What limits count an address as: of the internet's IPv6 addresses, all of a /64 are one client.

    That is what a provider gives to one subscriber, who may change the rest with every connection. Within
    a machine, a link or a private network (``::1``, ``fe80::``, ``fc00::/7``) each address is one.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.is_loopback or parsed.is_link_local or parsed in _OF_ONE_NETWORK:
        return str(parsed)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


_FORWARDED = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")


def is_forwarded(request: web.Request) -> bool:
    """Whether a proxy says that it passes the request on, so that its peer is not the client."""
    return any(name in request.headers for name in _FORWARDED)


def host_name(host: str) -> str:
    """The host of a Host header without its port: ``[::1]:8000`` -> ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")
