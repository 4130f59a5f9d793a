"""What is served, and what stands before each handler: errors as JSON, and who may ask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import web

from bot.core._shared.masking import masked_traceback
from bot.core.phase4_admin.access import Access, Handler
from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.request_guard import check_origin

logger = logging.getLogger(__name__)

OPEN = "open"
"""For everybody: it holds no figure, or one word."""
SIGNING = "signing"
"""For pages of this origin that have not signed in yet."""
GUARDED = "guarded"
"""For those who may look."""


class Route(NamedTuple):
    """A handler, its path below the mount's base, and who may ask it: OPEN, SIGNING or GUARDED."""

    method: str
    path: str
    handler: Handler
    whom: str = GUARDED


def prepared(route: Route, access: Access) -> Handler:
    """The route's handler behind its checks; an ApiError becomes its answer.

    A host's own middlewares and error pages are before it, and see answers only.
    """

    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            if route.whom != OPEN:
                check_origin(request)
                access.check_name(request)
            if route.whom == GUARDED:
                access.check(request)
            return await route.handler(request)
        except ApiError as error:
            return answer_of(error)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            logger.error("%s %s failed\n%s", route.method, route.path, masked_traceback(error))
            return answer_of(ApiError(500, "internal_error", "The request failed; see the log."))

    return answered


def answer_of(error: ApiError) -> web.Response:
    """An error as its JSON answer."""
    return web.json_response(
        {"error": {"code": error.code, "message": error.message, **error.more}},
        status=error.status,
        headers={**error.headers, "Cache-Control": "no-store"},
    )


def add_routes(app: web.Application, base: str, routes: Sequence[Route], access: Access) -> None:
    """Serve ``routes`` below ``base`` ("" or "/phase4"). Raises ValueError for a path that is taken."""
    taken = {
        (method.upper(), resource.canonical)
        for resource in app.router.resources()
        for method in _methods(resource)
    }
    wanted = [(route, base + route.path) for route in routes]
    for route, path in wanted:
        if (route.method, path) in taken or ("*", path) in taken:
            raise ValueError(f"{route.method} {path} is already served by this application")
    for route, path in wanted:
        handler = prepared(route, access)
        # aiohttp adds HEAD to a GET; a stream of events has no end that a HEAD could wait for.
        if route.method == "GET":
            app.router.add_get(path, handler, allow_head=not route.path.endswith("/feed"))
        else:
            app.router.add_route(route.method, path, handler)


def _methods(resource: web.AbstractResource) -> list[str]:
    return [route.method for route in resource]
