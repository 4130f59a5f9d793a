"""What the server keeps for each bot: its limits, its updates and how they reach it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.masking import one_line
from bot.testing.telegram_limits import ServerLimits, TelegramLimits
from bot.testing.telegram_world import ApiError, Json, bad

logger = logging.getLogger(__name__)

MAX_UPDATES = 100_000
"""Updates that wait for a bot; beyond, the oldest are dropped."""

NOT_BY_DEFAULT = frozenset({"chat_member", "message_reaction", "message_reaction_count"})
"""Updates that a bot gets only if it asks for them."""

WEBHOOK_TRIES = 6
"""Attempts to deliver an update, each after twice the wait of the one before; Telegram tries for longer."""

Deliver = Callable[[str, dict[str, str], Json], Awaitable[Any]]
"""Posts an update to a URL with headers; raises what went wrong."""


class BotAccount:
    """One bot: made by the server."""

    def __init__(self, token: str, user: Json, limits: ServerLimits, clock: Clock) -> None:
        self.token = token
        self.user = user
        self.limits = TelegramLimits(limits)
        self.settings: dict[str, Any] = {}
        """What setMyCommands and its like were told, by their names."""
        self.queries: dict[str, Json | None] = {}
        """Callback, inline and other queries that the bot got: None until they are answered."""
        self._clock = clock
        self._updates: deque[Json] = deque(maxlen=MAX_UPDATES)
        self._next_update = 1
        self._allowed: frozenset[str] | None = None
        # The long poll that waits now; its result is whether another poll ended it.
        self._poll: asyncio.Future[bool] | None = None
        self.webhook: Json = {}
        self._delivery: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._deliver: Deliver | None = None
        self.last_webhook_error = ""

    @property
    def id(self) -> int:
        """The bot's user id."""
        return int(self.user["id"])

    @property
    def waiting(self) -> int:
        """Updates that the bot has not taken yet."""
        return len(self._updates)

    def enqueue(self, kind: str, content: Json) -> int | None:
        """Give the bot an update: its id, or None if the bot did not ask for this kind."""
        wanted = kind not in NOT_BY_DEFAULT if self._allowed is None else kind in self._allowed
        if not wanted:
            return None
        update_id = self._next_update
        self._next_update += 1
        self._updates.append({"update_id": update_id, kind: content})
        self._notify()
        return update_id

    def allow(self, kinds: list[Any] | None) -> None:
        """Remember ``allowed_updates``; None keeps what was set before, an empty list is the default."""
        if kinds is not None:
            self._allowed = frozenset(str(kind) for kind in kinds) or None

    def drop_updates(self) -> None:
        """Forget all that wait."""
        self._updates.clear()

    def _notify(self) -> None:
        self._wake.set()
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(False)

    # Long polls.

    async def get_updates(self, offset: int, limit: int, timeout: float) -> list[Json]:
        """Updates from ``offset`` on; waits for the first one for ``timeout`` s.

        As Telegram does, a second poll ends the one that waits, which is answered with 409.
        """
        if self.webhook.get("url"):
            raise ApiError(
                409,
                "Conflict: can't use getUpdates method while webhook is active; "
                "use deleteWebhook to delete the webhook first",
            )
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(True)
        if offset < 0:
            while len(self._updates) > -offset:
                self._updates.popleft()
        while self._updates and offset > 0 and self._updates[0]["update_id"] < offset:
            self._updates.popleft()
        if not self._updates and timeout > 0:
            loop = asyncio.get_running_loop()
            poll = self._poll = loop.create_future()
            timer = self._clock.call_later(timeout, functools.partial(_end, poll), loop)
            try:
                ended_by_another = await poll
            finally:
                timer.cancel()
                if self._poll is poll:
                    self._poll = None
            if ended_by_another:
                raise ApiError(
                    409,
                    "Conflict: terminated by other getUpdates request; "
                    "make sure that only one bot instance is running",
                )
        limit = limit if 1 <= limit <= 100 else 100
        return [self._updates[index] for index in range(min(limit, len(self._updates)))]

    # Webhooks.

    def set_webhook(self, given: Json, deliver: Deliver) -> None:
        """Post updates to ``given["url"]`` from now on; an empty one ends that."""
        url = str(given.get("url") or "")
        if url and not url.startswith(("http://", "https://")):
            raise bad(f"bad webhook: an HTTP or HTTPS URL must be provided, not {url[:100]}")
        self.webhook = given if url else {}
        self._deliver = deliver
        if url and (self._delivery is None or self._delivery.done()):
            self._delivery = asyncio.get_running_loop().create_task(self._keep_delivering())
        self._wake.set()

    async def _keep_delivering(self) -> None:
        """Updates in their order, as many at once as the webhook allows."""
        posts: set[asyncio.Task[None]] = set()
        try:
            while self.webhook:
                room = int(self.webhook.get("max_connections") or 40)
                while self._updates and len(posts) < room and self.webhook:
                    post = asyncio.get_running_loop().create_task(self._post(self._updates.popleft()))
                    posts.add(post)
                    post.add_done_callback(posts.discard)
                    post.add_done_callback(lambda _: self._wake.set())
                self._wake.clear()
                await self._wake.wait()
        finally:
            for post in posts:
                post.cancel()
            await asyncio.gather(*posts, return_exceptions=True)

    async def _post(self, update: Json) -> None:
        wait = 1.0
        for _ in range(WEBHOOK_TRIES):
            if not self.webhook or self._deliver is None:
                break
            headers = {}
            if secret := self.webhook.get("secret_token"):
                headers["X-Telegram-Bot-Api-Secret-Token"] = str(secret)
            try:
                await self._deliver(str(self.webhook["url"]), headers, update)
            except Exception as error:
                self.last_webhook_error = one_line(f"{type(error).__name__}: {error}", 200)
            else:
                return
            await self._clock.sleep(wait)
            wait *= 2
        logger.warning("Test server: an update was not delivered: %s", one_line(self.last_webhook_error))

    async def stop(self) -> None:
        """End polls and deliveries."""
        self.webhook = {}
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(False)
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)


def _end(poll: asyncio.Future[bool]) -> None:
    """Nothing has come in time."""
    if not poll.done():
        poll.set_result(False)
