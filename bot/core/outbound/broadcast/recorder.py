"""Writes down in the store what became of the recipients of a broadcast."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bot.core._shared.backoff import exponential
from bot.core._shared.clock import Clock
from bot.core._shared.masking import one_line
from bot.core.outbound.broadcast.errors import BroadcastStoppedError, StoreAwayError
from bot.core.outbound.broadcast.outcomes import Outcome
from bot.core.outbound.broadcast.progress import Troubles
from bot.core.outbound.broadcast.store import Ended, Store

T = TypeVar("T")


class Recorder:
    """Outcomes on their way into the store, and failures of which it is not known yet whose fault they are.

    A failure may be the message's and not the recipient's. So failures in a row are suspects: they are
    recorded when another recipient gets the message, or when nobody else is left, and
    ``stop_after_failures`` of them stop the broadcast. ``written(outcomes)`` is called when some are in the
    store.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        clock: Clock,
        troubles: Troubles,
        counts: dict[Outcome, int],
        *,
        stop_after_failures: int | None,
        written: Callable[[list[Ended]], None],
    ) -> None:
        self._name = name
        self._store = store
        self._clock = clock
        self._troubles = troubles
        self.counts = counts
        """Recipients that are done, by outcome. Changed by write."""
        self._stop_after_failures = stop_after_failures
        self._written = written
        self._loop = asyncio.get_running_loop()
        # Each with the future of who waits until it is in the store.
        self._outcomes: list[tuple[Ended, asyncio.Future[None]]] = []
        self._dirty = asyncio.Event()
        # Failures since the last success.
        self._suspects: list[Ended] = []

    async def record(self, ended: Ended) -> None:
        """Return when it is in the store, or a suspect. Raises BroadcastStoppedError for one too many."""
        if ended.outcome is Outcome.FAILED:
            self._suspects.append(ended)
            limit = self._stop_after_failures
            if limit is None:
                await self._confirm()
            elif len(self._suspects) >= limit:
                raise BroadcastStoppedError(
                    self._name, f"{limit} recipients in a row failed, the last with {ended.reason}"
                )
            return
        if ended.outcome is Outcome.SENT and self._suspects:
            await self._confirm()
        await self._enqueue(ended)

    def only_suspects_left(self, recipients: int) -> None:
        """So many recipients are not done. If all of them are suspects, it was they, and not the message."""
        if recipients == len(self._suspects):
            suspects, self._suspects = self._suspects, []
            for suspect in suspects:
                self._enqueue(suspect)

    async def _confirm(self) -> None:
        """The suspects failed by themselves."""
        suspects, self._suspects = self._suspects, []
        for suspect in suspects[:-1]:
            self._enqueue(suspect)
        await self._enqueue(suspects[-1])

    def _enqueue(self, ended: Ended) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._outcomes.append((ended, future))
        self._dirty.set()
        return future

    async def run(self) -> None:
        """Write outcomes down: all that have come while the ones before were written."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self.stored(self.write)

    async def write(self) -> None:
        """Write down what has come, once. Raises what the store raises."""
        taken = self._outcomes[:]
        if not taken:
            return
        outcomes = [ended for ended, _ in taken]
        await self._store.record(outcomes)
        # Not taken off before: if this is cancelled they are written again, which changes nothing.
        del self._outcomes[: len(taken)]
        for ended, future in taken:
            self.counts[ended.outcome] = self.counts.get(ended.outcome, 0) + 1
            if not future.done():
                future.set_result(None)
        self._written(outcomes)

    async def stored(self, action: Callable[[], Awaitable[T]]) -> T:
        """The store's answer, however long it is away."""
        tries = 0
        while True:
            try:
                answer = await action()
            except StoreAwayError as error:
                tries += 1
                self._troubles.say("store", "the broadcast waits for its store (%s)", one_line(error))
                await self._clock.sleep(exponential(tries, 0.1, 2.0))
                continue
            if self._store.data_was_lost:
                self._troubles.say(
                    "lost",
                    "its store has lost what it kept%s",
                    "; if the broadcast is interrupted now, those that were written to before are written to "
                    "again",
                )
                self._store.data_was_lost = False
            return answer
