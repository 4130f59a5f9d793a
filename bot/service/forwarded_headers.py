"""Which headers a front passes on, and which it passes back (pure)."""

from __future__ import annotations

from multidict import CIMultiDict, CIMultiDictProxy

_HOP_BY_HOP = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade",
    )
)  # fmt: skip
"""RFC 9110, section 7.6.1: they are about one connection and not about the request."""

_OF_THE_FRONT = frozenset(
    (
        # Headers that the front sets itself, or has dealt with.
        "host", "content-length", "expect", "x-request-id", "forwarded", "x-forwarded-for",
        "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
        # It has checked where the request comes from, by a name that an instance does not have.
        "origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-user",
    )
)  # fmt: skip


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The end-to-end headers, in their order."""
    named = {name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")}
    dropped = _HOP_BY_HOP | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def of_request(headers: CIMultiDictProxy[str], client: str, scheme: str, request_id: str) -> CIMultiDict[str]:
    """A request's headers as an instance gets them; what a client claims of itself is replaced."""
    passed = end_to_end(headers)
    for name in list(passed):
        if name.lower() in _OF_THE_FRONT:
            passed.popall(name, None)
    passed["X-Request-Id"] = request_id
    passed["X-Forwarded-For"] = client
    passed["X-Forwarded-Proto"] = scheme
    if host := headers.get("Host"):
        passed["X-Forwarded-Host"] = host
    return passed


def of_answer(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """An answer's headers as the client gets them."""
    passed = end_to_end(headers)
    for name in ("X-Request-Id", "Date", "Server"):
        passed.popall(name, None)  # the front has its own
    return passed
