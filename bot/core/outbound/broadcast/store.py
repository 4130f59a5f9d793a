"""What keeps the progress of broadcasts has to be able to do, and which one an address names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from bot.core._shared.errors import invalid
from bot.core._shared.redis_address import SCHEMES
from bot.core.outbound.broadcast.outcomes import Outcome

ChatId = int | str
REASON_LENGTH = 160
"""Characters of a failure's reason that are kept."""

MEMORY = ""
"""The address of a store that ends with the process."""


class Kept(NamedTuple):
    """What is kept of a broadcast beside its recipients."""

    owner: str
    """A token of the process that runs it; empty if none does."""
    beat: int
    """Grows with each sign of life of the owner."""
    lease: float
    """Seconds without a sign of life after which the owner is taken for dead."""
    started_at: float
    finished_at: float | None


class Ended(NamedTuple):
    """How it ended for one recipient."""

    chat: ChatId
    outcome: Outcome
    reason: str = ""


class Store(Protocol):
    """The progress of one broadcast. Every write is atomic, and the same again if it is repeated.

    Raises StoreAwayError where trying later can help, BroadcastStoreError where it cannot, and
    BroadcastLostError from every write once another owner has the broadcast.
    """

    data_was_lost: bool
    """Whether what was kept has vanished under the run; what it still does is kept anew."""

    async def read(self) -> Kept | None:
        """What is kept, None if the name is new."""
        ...

    async def take(
        self, token: str, lease: float, seen: Kept | None, now: float, *, restart: bool
    ) -> Mapping[Outcome, int] | None:
        """Own it if it is still as it was seen: counts of what is done, else None. ``restart``: forget it."""
        ...

    async def beat(self) -> None:
        """Give a sign of life."""
        ...

    async def claim(self, chats: Sequence[ChatId]) -> list[ChatId]:
        """Remember that these are about to be written to; those of them that are not done."""
        ...

    async def unfinished(self) -> list[ChatId]:
        """Claimed, and not done: what an earlier run was about when it ended."""
        ...

    async def record(self, ended: Sequence[Ended]) -> None:
        """These are done."""
        ...

    async def release(self, chats: Sequence[ChatId]) -> None:
        """These were claimed, and nothing was begun."""
        ...

    async def let_go(self, finished_at: float | None) -> None:
        """Own it no more; a time: it is finished."""
        ...

    async def counts(self) -> Mapping[Outcome, int]:
        """How many ended how."""
        ...

    async def page(self, outcome: Outcome, after: str) -> tuple[list[tuple[ChatId, str]], str]:
        """Some that ended so, each with a reason, and where to go on; "": that is all."""
        ...

    async def forget(self) -> None:
        """Delete everything that is kept under the name."""
        ...

    async def close(self) -> None:
        """Give back what is open."""
        ...


def is_redis(address: str) -> bool:
    """Whether a store's address is that of a Redis."""
    return address.startswith(SCHEMES)


def checked_address(name: str, address: object) -> str:
    """The address of a store: an absolute path, a URL of Redis, or ""; ValueError for anything else."""
    allowed = 'a path of a file, the URL of a Redis (redis://, rediss://, unix://), or "" for memory'
    if not isinstance(address, str) or len(address) > 4_096 or "\0" in address:
        raise invalid(name, address, allowed)
    if "://" in address and not is_redis(address):
        raise invalid(name, address.partition("://")[0] + "://...", allowed)
    if is_redis(address) or address in (MEMORY, ":memory:"):
        return MEMORY if address == ":memory:" else address
    return os.path.abspath(os.path.expanduser(address))
