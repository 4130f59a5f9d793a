"""Resets a client in Redis and tells every instance; what Redis misses it hears when it is back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from bot.core._shared.errors import BackendError
from bot.core.rate_limiter.messages import CHANNEL, reset_message
from bot.core.rate_limiter.mirror import RESET_ARGUMENT, Mirror, client_key
from bot.core.rate_limiter.models import ClientId
from bot.core.rate_limiter.window_mirror import WindowMirror
from bot.core.redis_link import RedisLink

MAX_OWED = 1_000
"""Clients forgiven while Redis is away that are remembered, to be forgiven there when it is back."""

Reset = tuple[ClientId, Mirror | WindowMirror | None]
"""A client, and the limit under which it is forgiven (None: every limit)."""


class OwedResets:
    """The resets that Redis has not heard of. ``call(key, argument)`` runs bucket.lua."""

    def __init__(self, link: RedisLink, call: Callable[[bytes, bytes], Awaitable[Any]]) -> None:
        self._link = link
        self._call = call
        # Changed by the methods below only.
        self._owed: dict[Reset, None] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, resets: Iterable[Reset]) -> None:
        """Redis is to hear of these; beyond MAX_OWED they are not remembered."""
        for reset in resets:
            if len(self._owed) < MAX_OWED:
                self._owed[reset] = None

    async def settle(self, reset: Reset) -> bool:
        """Have Redis forgive a client; whether it knew of any state. Raises BackendError if it fails."""
        client, limit = reset
        key = client_key(client, self._link.root_bytes)
        argument, limit_id = RESET_ARGUMENT, b""
        if limit is not None:
            argument, limit_id = limit.reset_argument(), limit.limit_id
        _, found, _, _ = await self._call(key, argument)
        # After the reset in Redis: an instance that asks it because of this message finds a full bucket.
        await self._link.execute(
            "PUBLISH", self._link.root + CHANNEL, reset_message(client_key(client), client, limit_id)
        )
        self._owed.pop(reset, None)
        return bool(found)

    async def settle_all(self) -> None:
        """Have Redis forgive all; what it misses again stays owed."""
        for reset in list(self._owed):
            try:
                await self.settle(reset)
            except BackendError:
                return
