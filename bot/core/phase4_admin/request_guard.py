"""Whose requests are taken: not those that a foreign web page has a browser send.

A service on the loopback is reached by every page that this machine's browsers show. A page of
another site can send simple requests (cross-site request forgery), and one whose own name is made to resolve
to the loopback can read the answers as well (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from bot.core._shared.masking import one_line
from bot.core.phase4_admin import HOSTS_VARIABLE
from bot.core.phase4_admin.access import Access, Handler
from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.client_address import host_name

_OPEN = frozenset(
    ("/", "/health", "/dashboard/dashboard.css", "/dashboard/dashboard.js", "/dashboard/icon.svg")
)
"""The page and its files hold no figure; ``/health`` tells strangers one word."""

_PRIVATE = ("localhost", "internal", "local", "lan", "home.arpa", "test")
"""Ends of names that no public name server answers for, so that no web page can have one."""


class AllowedHosts:
    """Names by which the service may be asked for: addresses, local names, and those that are named."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        self._named = {name.lower().rstrip(".") for name in named}
        own = socket.gethostname().lower().rstrip(".")
        if own:
            self._named.add(own)

    def allows(self, host: str) -> bool:
        """Whether a web page cannot have that name, or the operator has named it."""
        name = host_name(host)
        if not name:
            return False
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            single = "." not in name
            return single or name in self._named or name.endswith(tuple(f".{end}" for end in _PRIVATE))
        return True


def same_origin(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` (``http://name:port``) asks the service by the same name and port."""
    try:
        parts = urlsplit(origin)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        asked = urlsplit(f"//{host}")
        return (
            parts.scheme in ("http", "https")
            and parts.hostname is not None
            and parts.hostname == asked.hostname
            and port == (asked.port or {"http": 80, "https": 443}[parts.scheme])
        )
    except ValueError:
        return False


def is_foreign(request: web.Request) -> bool:
    """Whether a page of another site has a browser send it."""
    origin = request.headers.get("Origin")
    if origin is not None and not same_origin(origin, request.host):
        return True
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def check_origin(request: web.Request) -> None:
    """Raise ApiError 403 for what a page of another site has a browser send."""
    if is_foreign(request):
        raise ApiError(403, "foreign_origin", "Requests from pages of other sites are refused.")


def guard(access: Access, hosts: AllowedHosts) -> Middleware:
    """The middleware that refuses with 403 what a foreign page sends, or asks for by a name of its own."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in _OPEN:
            if not hosts.allows(request.host) and not (access.needed and access.granted(request)):
                raise ApiError(
                    403,
                    "unknown_host",
                    f"This service does not answer to {host_name(request.host)[:100]!r}. "
                    f"If that is its name, set {HOSTS_VARIABLE}.",
                )
            check_origin(request)
        return await handler(request)

    return check


def check_json(request: web.Request) -> None:
    """Raise ApiError 415 for a body of a type that a foreign page's form can send without asking.

    ``application/x-www-form-urlencoded`` is what curl and urllib say of any body; from a browser, which
    sends an Origin, it is taken at its word.
    """
    kind = request.content_type if "Content-Type" in request.headers else ""
    form = kind == "application/x-www-form-urlencoded" and "Origin" in request.headers
    if form or kind in ("multipart/form-data", "text/plain"):
        raise ApiError(
            415, "unsupported_type", f"Send JSON (Content-Type: application/json), not {one_line(kind, 60)}."
        )
