"""What a broadcast tells: its progress while it runs, its report when it is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from msgspec import Struct

from bot.core._shared.errors import invalid
from bot.core.outbound.broadcast.outcomes import Outcome
from bot.core.outbound.broadcast.store import ChatId, Store


class BroadcastProgress(Struct, frozen=True, kw_only=True):
    """The progress of a broadcast. Counts are of recipients and include earlier runs of the same name."""

    name: str
    done: int
    """Sent, blocked, deactivated, not found and failed together."""
    total: int | None
    """How many there are; None if the recipients do not tell their number."""
    sent: int
    blocked: int
    deactivated: int
    not_found: int
    failed: int
    rate: float
    """Recipients done per second in the last seconds."""
    eta: float | None
    """Seconds that it will take at that rate; None if it cannot be told."""
    running: bool
    """False in the last call, whether the broadcast is finished or was stopped."""


@dataclass(frozen=True, kw_only=True)
class BroadcastReport:
    """How a broadcast ended. The outcomes of single recipients are read from the store on request."""

    name: str
    done: int
    """Recipients, each counted once."""
    sent: int
    blocked: int
    deactivated: int
    not_found: int
    failed: int
    invalid: int
    """Recipients that are no chat, left out in this run."""
    started_at: float
    finished_at: float
    """Seconds since the Unix epoch; of the first run's start, and of the end."""
    _open: Callable[[], Store] = field(repr=False, compare=False)

    async def chats(self, *outcomes: Outcome | str) -> AsyncIterator[ChatId]:
        """The recipients that ended so, in no promised order: ``"sent"``, ``"blocked"``, ``"deactivated"``,
        ``"not_found"``, ``"failed"``. Raises BroadcastStoreError, and ValueError for another word.
        """
        for outcome in [_outcome(one) for one in outcomes]:
            async for chat, _ in self._read(outcome):
                yield chat

    async def unreachable(self) -> list[ChatId]:
        """Recipients that blocked the bot, are deactivated or were not found: the bot need not keep them."""
        return [chat async for chat in self.chats(Outcome.BLOCKED, Outcome.DEACTIVATED, Outcome.NOT_FOUND)]

    async def failures(self) -> AsyncIterator[tuple[ChatId, str]]:
        """The recipients that failed, each with the error's type and text, masked."""
        async for chat, reason in self._read(Outcome.FAILED):
            yield chat, reason

    async def forget(self) -> None:
        """Delete the stored progress of the broadcast; its name can then be used again."""
        store = self._open()
        try:
            await store.forget()
        finally:
            await store.close()

    async def _read(self, outcome: Outcome) -> AsyncIterator[tuple[ChatId, str]]:
        store = self._open()
        try:
            after = ""
            while True:
                rows, after = await store.page(outcome, after)
                for row in rows:
                    yield row
                if not after:
                    return
        finally:
            await store.close()


def _outcome(word: Outcome | str) -> Outcome:
    try:
        return Outcome(word)
    except ValueError:
        allowed = ", ".join(f'"{outcome.value}"' for outcome in Outcome)
        raise invalid("outcome", word, f"one of {allowed}") from None
