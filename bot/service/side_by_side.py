"""What each instance behind a front tells of itself, for the front's dashboard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from msgspec import Struct, structs

from bot.core._shared.masking import one_line
from bot.core.load_balancer import Instance, LoadBalancer

ANSWER_SECONDS = 2.0
"""In which an instance has to answer."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that are read; a longer one is refused."""
MAX_INSTANCES = 64
MAX_AT_ONCE = 8
FRESH_SECONDS = 2.0
"""For which answers serve all who look."""

_WORD = 80


class _Service(Struct):
    key: str
    state: str


class _Headline(Struct):
    key: str
    value: float | None


class _Process(Struct):
    rss_mb: float | None = None
    cpu_percent: float | None = None


class _Snapshot(Struct):
    """Of ``dashboard/snapshot``, what is shown here; what else is in it is passed over."""

    time: float
    uptime: float
    version: str
    services: list[_Service]
    headlines: list[_Headline]
    process: _Process
    bot: str = ""
    lag_ms: float | None = None


class UnusableAnswerError(Exception):
    """An instance answered, but not with its figures."""


class SideBySide:
    """Asks the instances when somebody looks, and at most every FRESH_SECONDS.

    Any number of callers share one round; one that leaves does not end it.
    """

    def __init__(
        self, balancer: LoadBalancer, token: str, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """``token``: shown to the instances; they have the front's, or none."""
        self._balancer = balancer
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        # Changed by _ask_all only.
        self._rows: list[dict[str, Any]] = []
        self._asked_at = float("-inf")
        self._silent: dict[str, float] = {}  # instance -> since when it does not answer, Unix time
        self._round: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        )

    async def stop(self) -> None:
        if self._round is not None:
            self._round.cancel()
            await asyncio.wait([self._round])
        if self._session is not None:
            await self._session.close()

    async def get(self, _: web.Request) -> web.Response:
        """``instances``: a row for each, in the balancer's order."""
        if self._now() - self._asked_at > FRESH_SECONDS:
            if self._round is None or self._round.done():
                self._round = asyncio.create_task(self._ask_all(), name="side-by-side")
            await asyncio.shield(self._round)
        return web.json_response({"instances": self._rows}, headers={"Cache-Control": "no-store"})

    async def _ask_all(self) -> None:
        places = asyncio.Semaphore(MAX_AT_ONCE)

        async def asked(instance: Instance) -> dict[str, Any]:
            async with places:
                return await self._row(instance)

        instances = self._balancer.instances[:MAX_INSTANCES]
        rows = await asyncio.gather(*map(asked, instances))
        names = {instance.id for instance in instances}
        self._silent = {name: since for name, since in self._silent.items() if name in names}
        self._rows, self._asked_at = rows, self._now()

    async def _row(self, instance: Instance) -> dict[str, Any]:
        row: dict[str, Any] = {"name": instance.id, "balanced": instance.state.value}
        try:
            told = await self._ask(instance)
        except UnusableAnswerError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"nothing within {ANSWER_SECONDS:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = one_line(error, 200)
        else:
            self._silent.pop(instance.id, None)
            return {**row, "answers": True, **told}
        since = self._silent.setdefault(instance.id, time.time())
        return {**row, "answers": False, "since": since, "reason": reason}

    async def _ask(self, instance: Instance) -> dict[str, Any]:
        assert self._session is not None
        url = f"{instance.get_url()}/dashboard/snapshot"
        async with self._session.get(url, allow_redirects=False) as answer:
            if answer.status in (401, 403):
                raise UnusableAnswerError("it asks for a token: give it this front's PHASE4_DASHBOARD_TOKEN")
            if answer.status != 200:
                raise UnusableAnswerError(f"HTTP {answer.status}")
            body = bytearray()
            while chunk := await answer.content.readany():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise UnusableAnswerError(f"an answer of more than {MAX_ANSWER:,} bytes")
        try:
            told = msgspec.json.decode(body, type=_Snapshot)
        except (ValueError, RecursionError):  # also what is not UTF-8, or not of this form
            raise UnusableAnswerError("an answer that is no dashboard's") from None
        return {
            "bot": one_line(told.bot, _WORD),
            "version": one_line(told.version, _WORD),
            "time": told.time,
            "uptime": told.uptime,
            "lag_ms": told.lag_ms,
            "process": structs.asdict(told.process),
            "services": [
                {"key": one_line(each.key, _WORD), "state": one_line(each.state, _WORD)}
                for each in told.services[:MAX_INSTANCES]
            ],
            "headlines": {one_line(each.key, _WORD): each.value for each in told.headlines[:MAX_INSTANCES]},
        }
