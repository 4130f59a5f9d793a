"""The dashboard's routes: the page and its files (``page/``), the stream, what it asks for, signing in."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from aiohttp import web

from bot.core.phase4_admin.access import Access, Handler
from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.client_address import client_address, client_of
from bot.core.phase4_admin.feed import RANGES, Feed, as_json, unix_time
from bot.core.phase4_admin.routes import OPEN, SIGNING, Route

STALL_SECONDS = 10.0
"""A viewer that takes in nothing for so long is dropped."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_SCRIPTS = ("actions", "charts", "dashboard", "dialogs", "dom", "queries", "sections", "series", "tables")
_FILES = {
    "/dashboard/dashboard.css": "text/css",
    "/dashboard/icon.svg": "image/svg+xml",
    **{f"/dashboard/{name}.js": "text/javascript" for name in _SCRIPTS},
}


class Dashboard:
    """Serves the page; nothing of it but the stream holds a figure, so only that is guarded."""

    def __init__(self, access: Access, feed: Feed) -> None:
        self._access = access
        self._feed = feed

        self.page: Handler = _File("page.html", "text/html").get
        """The page itself, for ``/``."""

    def routes(self) -> list[Route]:
        """Everything but ``/``."""
        return [
            *(
                Route("GET", path, _File(path.rpartition("/")[2], kind).get, OPEN)
                for path, kind in _FILES.items()
            ),
            Route("GET", "/dashboard/access", self._access.tell, SIGNING),
            Route("POST", "/dashboard/access", self._access.sign_in, SIGNING),
            Route("DELETE", "/dashboard/access", self._access.sign_out, SIGNING),
            Route("GET", "/dashboard/feed", self.stream),
            Route("GET", "/dashboard/history", self.history),
            Route("GET", "/dashboard/snapshot", self.snapshot),
            Route("GET", "/dashboard/queries/{fingerprint}", self.query),
        ]

    async def history(self, request: web.Request) -> web.Response:
        """``?seconds=``: charts of the last hour, six hours or day."""
        text = request.query.get("seconds", "")
        seconds = {f"{one:g}": one for one in RANGES}.get(text)
        if seconds is None:
            allowed = ", ".join(f"{one:g}" for one in RANGES)
            raise ApiError(400, "bad_request", f"seconds = {text[:20]!r}: expected one of {allowed}")
        return _told(self._feed.history(seconds))

    async def snapshot(self, request: web.Request) -> web.Response:
        """What the page shows of now, without its history."""
        return _told(await self._feed.snapshot())

    async def query(self, request: web.Request) -> web.Response:
        """All that is known of one query shape."""
        found = await self._feed.query(request.match_info["fingerprint"])
        if found is None:
            raise ApiError(404, "not_found", "The query optimizer does not know this query (any more).")
        return _told(found)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Figures as server-sent events, until the viewer leaves or the service stops."""
        after = unix_time(request.headers.get("Last-Event-ID", ""))
        response = web.StreamResponse(
            headers={
                **_HEADERS,
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # else nginx would hold the events back
            }
        )
        client = client_of(client_address(request))
        events = self._feed.stream(after, client, self._access.session_of(request), actions=True)
        try:
            first = await anext(events)
        except StopAsyncIteration:
            raise ApiError(503, "stopping", "The service is stopping.") from None
        async with contextlib.aclosing(events):
            await response.prepare(request)
            try:
                await _write(response, first)
                async for event in events:
                    if not self._access.granted(request):
                        break  # the session has ended meanwhile
                    await _write(response, event)
                await response.write_eof()
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
            except ConnectionError:
                pass  # the viewer left
        return response


def _told(what: Mapping[str, Any]) -> web.Response:
    headers = {**_HEADERS, "Cache-Control": "no-store"}
    response = web.json_response(what, headers=headers, dumps=as_json)
    response.enable_compression()  # a day of every figure is long, and much of it the same
    return response


async def _write(response: web.StreamResponse, event: bytes) -> None:
    async with asyncio.timeout(STALL_SECONDS):
        await response.write(event)


class _File:
    """A file of the folder ``page``, read once."""

    def __init__(self, name: str, kind: str) -> None:
        self._body = resources.files(__package__).joinpath("page", name).read_bytes()
        self._headers = {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}
        self._etag = hashlib.sha256(self._body).hexdigest()[:16]

    async def get(self, request: web.Request) -> web.Response:
        given = request.if_none_match
        if given is not None and any(tag.value == self._etag for tag in given):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(body=self._body, headers=self._headers)
        response.etag = self._etag
        return response
