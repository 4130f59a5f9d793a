"""What happens to a request that comes in over HTTP: read, planned, limited, done, logged and answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import ClientSession, web
from msgspec import Struct

from bot.core._shared.clock import Clock

# Editing, reading and sending are imported for the methods that they register.
from bot.testing import telegram_editing, telegram_reading, telegram_sending  # noqa: F401
from bot.testing.telegram_bodies import Arguments, read_arguments, read_reply
from bot.testing.telegram_bots import BotAccount
from bot.testing.telegram_limits import Verdict
from bot.testing.telegram_log import Call, Log
from bot.testing.telegram_methods import METHODS, Context, Planned, answer, plan
from bot.testing.telegram_world import ApiError, Json, World, bad


class Fault(Struct, kw_only=True):
    """An answer that the test ordered."""

    method: str | None
    chat: int | None
    code: int
    description: str
    retry_after: int
    performed: bool
    times: int


class Requests:
    """The requests of all bots. Between a request's arrival and what it does nothing is awaited."""

    def __init__(self, log: Log, world: World, clock: Clock) -> None:
        self.log = log
        self.world = world
        self.clock = clock
        self.bots: dict[str, BotAccount] = {}
        """By token."""
        self.faults: list[Fault] = []
        self.results: dict[str, Any] = {}
        self.delay: float | Callable[[str], float] = 0.0
        self.client: ClientSession | None = None
        """Posts to webhooks; there while the server runs."""
        # Resolved by the next request.
        self._waiting: set[asyncio.Future[None]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        bot = self.bots.get(request.match_info["token"])
        if bot is None:
            return _json(401, _not_ok(ApiError(401, "Unauthorized")))
        refused_for = bot.limits.begin()
        try:
            return await self._handle(request, bot, refused_for)
        finally:
            bot.limits.end()

    async def _handle(self, request: web.Request, bot: BotAccount, refused_for: int) -> web.StreamResponse:
        name = request.match_info["method"]
        name = METHODS[name.lower()][0] if name.lower() in METHODS else name
        try:
            given = await read_arguments(request)
            failed: ApiError | None = None
        except ApiError as error:
            given, failed = Arguments({}, {}), error
        if failed is None and refused_for:
            failed = _too_many(refused_for)
        if failed is None and name.lower() in _UPDATES:
            return await self._update_method(bot, name.lower(), given)
        code, body = self._perform(bot, name, given, failed)
        delay = self.delay(name) if callable(self.delay) else self.delay
        if delay > 0:
            await self.clock.sleep(delay)
        if code == 0:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return web.Response(status=code, body=body, content_type="application/json")

    def _perform(
        self, bot: BotAccount, name: str, given: Arguments, failed: ApiError | None
    ) -> tuple[int, bytes]:
        """Do what is asked, all at once, and log it: HTTP status and body of the answer."""
        planned: Planned | None = None
        verdict, result = Verdict(0), None
        error: ApiError | None
        now = self.clock.monotonic()
        fault: Fault | None = None
        try:
            if failed is not None:
                raise failed
            planned = self._plan(bot, name, given)
            fault = self._fault(name, planned.chat)
            if fault is not None and not fault.performed:
                raise _error_of(fault)
            verdict = self._admit(bot, planned, given, now)
            if verdict.admitted:
                result = planned.commit(verdict.admitted)
            if verdict.retry_after:
                raise _refusal(verdict)
            if fault is not None:
                raise _error_of(fault)
            code, body, error = 200, {"ok": True, "result": result}, None
        except ApiError as raised:
            code, body, error = raised.code, _not_ok(raised), raised
        told = 0 if error is None else error.parameters.get("retry_after", verdict.retry_after)
        self.log.add(
            Call(
                time=now,
                bot=bot.id,
                method=name,
                chat=planned.chat if planned else _chat_of(given),
                kind=planned.kind if planned else "other",
                cost=planned.cost if planned else 1,
                done=verdict.admitted,
                parameters=given.logged(),
                code=code,
                description="" if error is None else error.description,
                retry_after=told,
                in_penalty=verdict.in_penalty,
            )
        )
        self._tell()
        return code, json.dumps(body).encode()

    def _plan(self, bot: BotAccount, name: str, given: Arguments) -> Planned:
        for own in self.results:
            if own.lower() == name.lower():
                return answer(self.results[own])
        return plan(Context(self.world, bot, name, given))

    def _admit(self, bot: BotAccount, planned: Planned, given: Arguments, now: float) -> Verdict:
        if planned.chat is None:
            return Verdict(planned.cost)
        paid = given.flag("allow_paid_broadcast")
        return bot.limits.admit(
            planned.chat, planned.kind, now, cost=planned.cost, paid=paid, album=planned.album
        )

    def _fault(self, name: str, chat: int | None) -> Fault | None:
        for fault in self.faults:
            if fault.method not in (None, name.lower()) or fault.chat not in (None, chat):
                continue
            fault.times -= 1
            if fault.times <= 0:
                self.faults.remove(fault)
            return fault
        return None

    async def changed(self, timeout: float) -> None:
        """Return after the next request, or after ``timeout`` s."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(changed)
        try:
            await asyncio.wait((changed,), timeout=timeout)
        finally:
            self._waiting.discard(changed)

    def _tell(self) -> None:
        for changed in self._waiting:
            if not changed.done():
                changed.set_result(None)

    async def _update_method(self, bot: BotAccount, name: str, given: Arguments) -> web.StreamResponse:
        """Methods about updates: they are neither limited nor logged."""
        try:
            fault = self._fault(name, None)
            if fault is not None:
                raise _error_of(fault)
            result: Any = True
            if name == "getupdates":
                bot.allow(given.value("allowed_updates"))
                result = await bot.get_updates(
                    given.number("offset"), given.number("limit", 100), min(given.number("timeout"), 50)
                )
            elif name == "getwebhookinfo":
                result = {
                    "url": bot.webhook.get("url", ""),
                    "has_custom_certificate": False,
                    "pending_update_count": bot.waiting,
                }
                if bot.last_webhook_error:
                    result["last_error_message"] = bot.last_webhook_error
            else:
                if given.flag("drop_pending_updates"):
                    bot.drop_updates()
                bot.allow(given.value("allowed_updates"))
                webhook = dict(given.given) if name == "setwebhook" else {}
                bot.set_webhook(webhook, lambda url, headers, update: self._post(bot, url, headers, update))
            self._tell()
            return _json(200, {"ok": True, "result": result})
        except ApiError as error:
            return _json(error.code or 500, _not_ok(error))

    async def _post(self, bot: BotAccount, url: str, headers: dict[str, str], update: Json) -> None:
        """Deliver an update; a webhook may answer with a method, which is then done."""
        assert self.client is not None
        async with self.client.post(url, json=update, headers=headers) as response:
            response.raise_for_status()
            asked = await read_reply(response)
        name = asked.given.pop("method", None)
        if isinstance(name, str):
            self._perform(bot, METHODS.get(name.lower(), (name,))[0], asked, None)

    async def download(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["token"] not in self.bots:
            return _json(401, _not_ok(ApiError(401, "Unauthorized")))
        path = request.match_info["path"]
        for stored in self.world.files.values():
            if stored.path == path and stored.content is not None:
                return web.Response(body=stored.content, content_type="application/octet-stream")
        return _json(404, _not_ok(ApiError(404, "Not Found")))


_UPDATES = frozenset({"getupdates", "setwebhook", "deletewebhook", "getwebhookinfo"})

DESCRIPTIONS = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
}


def _too_many(seconds: int) -> ApiError:
    return ApiError(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


def _refusal(verdict: Verdict) -> ApiError:
    refused = _too_many(verdict.retry_after)
    if not verdict.admitted:
        return refused
    return bad(
        f'failed to send message #{verdict.admitted + 1} with the error message "{refused.description}"'
    )


def _error_of(fault: Fault) -> ApiError:
    parameters = {"retry_after": fault.retry_after} if fault.retry_after else {}
    return ApiError(fault.code, fault.description, **parameters)


def _chat_of(given: Arguments) -> int | None:
    text = given.text("chat_id")
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < 20 else None


def _not_ok(error: ApiError) -> Json:
    answer = {"ok": False, "error_code": error.code, "description": error.description}
    return answer | ({"parameters": error.parameters} if error.parameters else {})


def _json(code: int, answer: Json) -> web.Response:
    return web.Response(status=code, body=json.dumps(answer).encode(), content_type="application/json")
