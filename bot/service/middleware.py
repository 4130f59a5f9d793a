"""Around every request: an id, a log line, and errors as JSON."""

from __future__ import annotations

import logging
import re
import secrets
import time

from aiohttp import web

from bot.core._shared.masking import masked_traceback, one_line
from bot.core.phase4_admin.access import Handler
from bot.core.phase4_admin.api_errors import ApiError
from bot.service.database import DatabaseUnavailableError

logger = logging.getLogger("bot.request")

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CACHE_STATE: web.RequestKey[str] = web.RequestKey("cache_state", str)
DATA_SECONDS: web.RequestKey[float] = web.RequestKey("data_seconds", float)
"""How long the request's data took, from a cache or the database; told as Server-Timing."""

CLIENT_GONE = 499
"""What nginx calls a request whose client did not wait for the end. Nobody gets to see it."""

_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@web.middleware
async def around_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id (the caller's own if it is fit for a log), answer errors, log the outcome."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)
    request[REQUEST_ID] = request_id
    start = time.perf_counter()
    try:
        response = await handler(request)
    except ApiError as error:
        response = _error(error.status, error.code, error.message, request_id, error.more)
        response.headers.update(error.headers)
    except DatabaseUnavailableError:
        # Logged by the database, once for an outage.
        response = _error(
            503, "database_unavailable", "The database cannot be reached; try again soon.", request_id, {}
        )
        response.headers["Retry-After"] = "1"
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = error.reason.lower().replace(" ", "_")
        response = _error(error.status, code, _sentence(request, error), request_id, {})
        if allow := error.headers.get("Allow"):
            response.headers["Allow"] = allow
    except web.RequestPayloadError:
        response = _error(400, "bad_request", "The body cannot be read as its headers say.", request_id, {})
    except Exception as error:
        if isinstance(error, ConnectionResetError) and request.transport is None:
            # Nobody is left to answer, and nothing of ours failed. That of a server which a handler uses is
            # told apart by whether the client is still connected.
            logger.info("%s %s: the client hung up [%s]", _method(request), _shown(request), request_id)
            return web.Response(status=CLIENT_GONE)
        logger.error(
            "%s %s failed [%s]\n%s", _method(request), _shown(request), request_id, masked_traceback(error)
        )
        response = _error(500, "internal_error", "The request failed; see the log.", request_id, {})
    response.headers["X-Request-Id"] = request_id
    if state := request.get(CACHE_STATE):
        response.headers["X-Cache"] = state
        response.headers["Server-Timing"] = f"data;dur={request.get(DATA_SECONDS, 0.0) * 1000:.3f}"
    if request.path == "/health" and response.status < 400:
        return response  # a balancer asks every second; what fails is told
    logger.info(
        "%s %s %d %.1f ms%s [%s]",
        _method(request),
        _shown(request),
        response.status,
        (time.perf_counter() - start) * 1000,
        f" cache={state}" if state else "",
        request_id,
    )
    return response


def _shown(request: web.Request) -> str:
    # Escaped as it came: a decoded path could forge lines of the log.
    return one_line(request.rel_url.raw_path_qs, 200)


def _method(request: web.Request) -> str:
    return one_line(request.method, 20)


def _sentence(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return "No such path."
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{_method(request)} is not allowed here; allowed: {', '.join(sorted(error.allowed_methods))}."
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return "The request body is too large."
    return error.text or error.reason


def _error(
    status: int, code: str, message: str, request_id: str, more: dict[str, object]
) -> web.StreamResponse:
    return web.json_response(
        {"error": {"code": code, "message": message, **more}, "request_id": request_id}, status=status
    )
