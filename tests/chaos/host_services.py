"""Limits, slots, batches and messages of a chaos instance."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from aiohttp import ClientSession, web

from bot.core.batch_processor import BatchItem, BatchProcessor
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.outbound import Outbound, Request
from bot.core.rate_limiter import (
    ConcurrencyLimit,
    ConcurrencyLimitExceeded,
    RateLimitConfig,
    RateLimiter,
    WindowLimit,
)
from tests.chaos.ledger import Ledger

WINDOW = WindowLimit(10, 2.0, "window")
BUCKET = RateLimitConfig(5.0, 10, "bucket", backoff=None)
ONE = ConcurrencyLimit(1, "one")


class TelegramError(OSError):
    """What the Bot API answered; with ``retry_after`` if it was a 429."""

    def __init__(self, code: int, retry_after: float) -> None:
        super().__init__(f"HTTP {code}")
        if retry_after:
            self.retry_after = retry_after


class ServicesApi:
    """Answers with what the services said, and writes down who held what and when."""

    def __init__(self, given: dict[str, Any], ledger: Ledger, session: ClientSession) -> None:
        self._who = given["who"]
        self._telegram = given["telegram"]
        self._ledger = ledger
        self._session = session
        self._runs = itertools.count(1)

    async def start(self) -> None:
        BatchProcessor.get_instance().process_handler = self.handle

    # Limits and slots.

    async def limit(self, request: web.Request) -> web.Response:
        limit = {"window": WINDOW, "bucket": BUCKET}[request.query["limit"]]
        allowed, status = await RateLimiter.get_instance().is_allowed(request.query["client"], limit)
        return web.json_response(
            {"allowed": allowed, "degraded": status.degraded, "who": self._who, "wait": status.retry_after}
        )

    async def slot(self, request: web.Request) -> web.Response:
        client, seconds = request.query["client"], float(request.query["seconds"])
        try:
            slot = await RateLimiter.get_instance().acquire_slot(client, ONE, timeout=1.0)
        except ConcurrencyLimitExceeded:
            return web.json_response({"held": False}, status=429)
        number = next(self._runs)
        self._ledger.note("slot", client=client, number=number)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._ledger.note("slot end", client=client, number=number, lost=slot.lost)
            slot.release()
        return web.json_response({"held": True})

    # Batches.

    async def handle(self, items: list[BatchItem]) -> list[Any]:
        """Write the ids into a table, once each; an item with ``fails`` fails."""
        run = f"{self._who}-{next(self._runs)}"
        lanes = [(item.lane, item.data.get("number")) for item in items if item.lane is not None]
        self._ledger.note("begin", run=run, items=[item.item_id for item in items], lanes=lanes)
        try:
            good = [item.item_id for item in items if not item.data.get("fails")]
            await ConnectionPoolManager.get_instance().execute(
                "postgresql", "INSERT INTO handled SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", good
            )
            await asyncio.sleep(0.02)
        finally:
            self._ledger.note("end", run=run, lanes=lanes)
        return [ValueError("meant to fail") if item.data.get("fails") else run for item in items]

    async def batch(self, request: web.Request) -> web.Response:
        """Submit items ``{"key", "data"}``, in the lane ``lane`` if there is one."""
        told = await request.json()
        answers = await BatchProcessor.get_instance().submit_many(
            [item["data"] for item in told["items"]],
            keys=[item["key"] for item in told["items"]],
            lane=told.get("lane"),
        )
        return web.json_response(
            {"taken": [one.success for one in answers], "refusals": [one.refusal for one in answers]}
        )

    async def result(self, request: web.Request) -> web.Response:
        status = await BatchProcessor.get_instance().get_item_status(request.query["id"])
        if status is None:
            return web.json_response({"state": "unknown"})
        return web.json_response({"state": status.state, "result": status.result, "error": status.error})

    async def results(self, request: web.Request) -> web.Response:
        """How each of many items ended."""
        told = await asyncio.gather(
            *[BatchProcessor.get_instance().get_item_status(name) for name in await request.json()]
        )
        return web.json_response(
            [{"state": one.state, "result": one.result} if one else {"state": "unknown"} for one in told]
        )

    async def replay(self, _: web.Request) -> web.Response:
        """Submit all dead letters again."""
        answer = await BatchProcessor.get_instance().replay_dead_letters()
        return web.json_response({"replayed": answer.replayed})

    # Messages.

    async def send(self, request: web.Request) -> web.Response:
        """Send texts to a chat at once; the answers are in their order."""
        told = await request.json()
        chat = told["chat"]

        async def one(text: str) -> str:
            try:
                await Outbound.get_instance().call(
                    lambda: self._post(chat, text), Request("sendMessage", chat, deadline=6.0)
                )
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            return ""

        errors = await asyncio.gather(*[one(text) for text in told["texts"]])
        return web.json_response({"errors": errors})

    async def _post(self, chat: int, text: str) -> None:
        async with self._session.post(
            f"{self._telegram}/sendMessage", json={"chat_id": chat, "text": text}
        ) as answer:
            told = await answer.json()
        if not told["ok"]:
            raise TelegramError(answer.status, told.get("parameters", {}).get("retry_after", 0))
