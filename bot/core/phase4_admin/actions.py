"""``POST actions/NAME``: what an operator has the running services do, and ``GET audit``: what was done.

An action needs the access that the dashboard needs, a JSON body that no foreign page can send, and fields of
the right types. Each leaves one line in the audit, also one that was refused before it came here. Once it
has begun it goes on to its end, whether its client waits for it or not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from bot.core._shared.errors import BackendError, ClosedError, InvalidArgumentError, shown
from bot.core._shared.loop_owner import still_runs
from bot.core._shared.masking import one_line
from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.api_errors import ApiError, bad_request
from bot.core.phase4_admin.bodies import read_small
from bot.core.phase4_admin.client_address import client_address
from bot.core.phase4_admin.library import ANSWER_SECONDS, Library
from bot.core.phase4_admin.operations import OPERATIONS, Done, Operation
from bot.core.phase4_admin.routes import Route
from bot.core.phase4_statistics.states import SERVICES

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATH = "/actions/{action}"

BODY_SECONDS, MAX_BODY = 10.0, 400_000
"""Seconds for a body to arrive, and its bytes: those of a thousand ids."""
MAX_AT_ONCE = 8
"""Actions that have not ended; with more, further ones are refused."""
END_SECONDS = 60.0
"""Seconds for which an action's end is awaited. It goes on after them."""

_AUDITED: web.RequestKey[bool] = web.RequestKey("phase4_audited", bool)
"""What a request holds once its line is written, or is going to be."""


class _Asked(NamedTuple):
    """Who asks for what."""

    action: str
    target: str
    by: str


class Actions:
    """The routes, and the actions under way; :meth:`finish` waits for these."""

    def __init__(self, library: Library, access: Access, base: str) -> None:
        self.audit = library.audit
        self._library = library
        self._access = access
        self._base = base
        # Changed by _act: tasks that have not ended.
        self._under_way: set[asyncio.Task[Done]] = set()

    def routes(self) -> list[Route]:
        """Below the mount's base."""
        return [
            Route("POST", PATH, self.act),
            Route("GET", "/audit", self.lines),
        ]

    async def finish(self) -> None:
        """Let what is under way come to its end."""
        mine = {task for task in self._under_way if task.get_loop() is asyncio.get_running_loop()}
        if mine:
            await asyncio.wait(mine, timeout=END_SECONDS)

    async def lines(self, request: web.Request) -> web.Response:
        """The last lines of the audit, the newest first."""
        return _told({"lines": [line.as_dict() for line in self.audit.lines()]})

    async def act(self, request: web.Request) -> web.Response:
        """Do it: 200 with ``done``, a sentence, and ``count``."""
        request[_AUDITED] = True
        asked = _Asked(request.match_info["action"], "", self._by(request))
        try:
            operation = OPERATIONS.get(asked.action)
            if operation is None:
                known = ", ".join(OPERATIONS)
                raise ApiError(404, "unknown_action", f"There is no such action; the actions are {known}.")
            values = await _body(request, operation)
            asked = asked._replace(target=_target(values))
            if len(self._under_way) >= MAX_AT_ONCE:
                said = f"{MAX_AT_ONCE} actions are under way; nothing was done. Try again."
                raise ApiError(503, "busy", said, headers={"Retry-After": "1"})
        except BaseException as error:
            self._record_refusal(asked, error)
            raise
        task = asyncio.get_running_loop().create_task(
            self._perform(operation, values, asked), name=f"phase4 action {asked.action}"
        )
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        done = await asyncio.shield(task)  # a client that leaves does not end it half-way
        return _told({"done": done.said, "count": done.count})

    def _ended(self, task: asyncio.Task[Done]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen: it is in the audit

    async def _perform(self, operation: Operation, values: Mapping[str, Any], asked: _Asked) -> Done:
        """Run it where the services live, and write the audit's line, whatever becomes of it."""
        try:
            done = await _there(self._library, lambda: self._run(operation, values))
        except BaseException as error:
            told = _as_api_error(error)
            self._record_refusal(asked, error if told is None else told)
            if told is None:
                raise
            raise told from error
        self.audit.record(asked.action, asked.target, f"done: {done.said}", asked.by)
        return done

    async def _run(self, operation: Operation, values: Mapping[str, Any]) -> Done:
        if not operation.service:
            running = [self._library.running(name) for name in SERVICES]
            return await operation.perform([service for service in running if service is not None])
        return await operation.perform(running_service(self._library, operation.service), **values)

    # The audit.

    def _record_refusal(self, asked: _Asked, error: BaseException) -> None:
        if isinstance(error, ApiError):
            outcome = f"refused: {error.code}: {error.message}"
        elif isinstance(error, asyncio.CancelledError | ConnectionError):
            outcome = "refused: the client left before its request was whole"
        else:
            outcome = f"failed: {type(error).__name__}"
        self.audit.record(asked.action, asked.target, outcome, asked.by)

    async def refused_elsewhere(self, request: web.Request, response: web.StreamResponse) -> None:
        """For ``on_response_prepare``: an action that was answered before it came to :meth:`act`.

        By the check of access or origin, or by a middleware of the host.
        """
        if request.method != "POST" or _AUDITED in request:
            return
        resource = request.match_info.route.resource
        # By its end: the application may be within another one of the host's.
        if resource is not None and resource.canonical.endswith(f"{self._base}{PATH}"):
            request[_AUDITED] = True
            said = _code_of(response) or str(response.status)
            self.audit.refused_stranger(
                request.match_info.get("action", ""), f"refused: {said}", client_address(request)
            )

    def _by(self, request: web.Request) -> str:
        session = ", session" if self._access.session_of(request) else ""
        return f"{client_address(request)}{session}"


def _code_of(response: web.StreamResponse) -> str:
    """The code of an error of ours; empty for an answer of the host's own."""
    if not isinstance(response, web.Response) or response.content_type != "application/json":
        return ""
    try:
        return str(msgspec.json.decode(response.body or b"", type=dict[str, Any])["error"]["code"])  # type: ignore[arg-type]
    except (msgspec.DecodeError, TypeError, KeyError, RecursionError):
        return ""


def running_service(library: Library, name: str) -> Any:
    """The service, if it is on. Raises ApiError 409 otherwise."""
    service = library.running(name)
    if service is None:
        said = name.replace("_", " ")
        raise ApiError(409, "service_off", f"The {said} is off, so nothing was done.")
    return service


def _as_api_error(error: BaseException) -> ApiError | None:
    """What a client is told of a service's error: never an address. None for what is no service's."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidArgumentError | TypeError):
        return bad_request(one_line(str(error), 500))
    if isinstance(error, ClosedError):
        return ApiError(409, "service_off", "The service was switched off meanwhile; nothing was done.")
    if isinstance(error, BackendError):
        return backend_error(error)
    return None


def backend_error(error: BackendError) -> ApiError:
    """503 for a Redis that is away or refuses, in words of its own; the log has the rest."""
    from bot.core.redis_link import RedisUnavailableError

    logger.warning("An operator's request failed: %s", one_line(error))
    if isinstance(error, RedisUnavailableError):
        said = "Redis is unreachable: the action was not completed. Check again when Redis is back."
        return ApiError(503, "redis_unavailable", said, headers={"Retry-After": "5"})
    return ApiError(503, "backend_refused", "Redis, or another server, refused this; the log says why.")


async def _body(request: web.Request, operation: Operation) -> dict[str, Any]:
    """The fields, of the types that the operation wants. Raises ApiError naming the one at fault."""
    if request.content_type != "application/json" or "Content-Type" not in request.headers:
        raise ApiError(415, "unsupported_type", "Send JSON, with Content-Type: application/json.")
    body = await read_small(request, BODY_SECONDS, MAX_BODY)
    try:
        given = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise bad_request(f"The body is no JSON object ({one_line(str(error), 100)}).") from None
    fields = operation.fields
    unknown = sorted(given.keys() - fields.keys())
    if unknown:
        there = ", ".join(fields) or "no fields"
        raise bad_request(f"{one_line(unknown[0], 100)}: unknown; expected {there}.")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in given:
            raise bad_request(f"{name}: missing; expected {field.allowed}.")
        try:
            values[name] = msgspec.convert(given[name], field.type)
        except msgspec.ValidationError:
            said = one_line(shown(given[name]), 200)
            raise bad_request(f"{name} = {said}: expected {field.allowed}.") from None
    return values


def _target(values: Mapping[str, Any]) -> str:
    """What an action is about, for the audit: short, and so that 5 and "5" differ."""
    parts = []
    for name, value in values.items():
        if isinstance(value, list):
            some = ", ".join(map(str, value[:5])) + (", ..." if len(value) > 5 else "")
            parts.append(f"{len(value)} item{'' if len(value) == 1 else 's'}: {some}")
        else:
            parts.append(f"{name} {json.dumps(value, ensure_ascii=False)}")
    return ", ".join(parts)


def _told(what: Mapping[str, Any]) -> web.Response:
    return web.json_response(what, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


async def _there(library: Library, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await ``action()`` on the services' event loop, which may be another thread's.

    If that does not begin with it in time, it is not done: ApiError 503. Once begun it is awaited, and not
    cut off: for END_SECONDS, then ApiError 504.
    """
    loop = library.loop()
    if loop is None or loop is asyncio.get_running_loop() or not still_runs(loop):
        return await action()
    turn = _Turn()

    async def begun() -> T:
        if not turn.begin():
            raise asyncio.CancelledError
        return await action()

    there = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(begun(), loop))
    await asyncio.wait({there}, timeout=ANSWER_SECONDS)
    if not there.done() and turn.give_up():
        there.cancel()
        raise ApiError(
            503, "bot_busy",
            f"The bot's event loop has not answered for {ANSWER_SECONDS:g} s; nothing was done.",
        )  # fmt: skip
    await asyncio.wait({there}, timeout=END_SECONDS)
    if not there.done():
        raise ApiError(504, "not_ended", f"It has not ended within {END_SECONDS:g} s, and continues.")
    return there.result()


class _Turn:
    """Whether an action has begun, or is given up: one of both, whichever thread is first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False

    def begin(self) -> bool:
        """False if it was given up."""
        return self._take()

    def give_up(self) -> bool:
        """False if it has begun."""
        return self._take()

    def _take(self) -> bool:
        with self._lock:
            first, self._taken = not self._taken, True
            return first
