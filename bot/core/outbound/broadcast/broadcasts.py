"""The broadcasts of one Outbound: checked, owned by one process each, run, counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from bot.core._shared.clock import Clock
from bot.core._shared.errors import invalid
from bot.core._shared.loop_owner import still_runs
from bot.core._shared.masking import one_line
from bot.core._shared.redis_address import with_options
from bot.core._shared.tasks import run_on_loop, to_the_end
from bot.core.outbound.broadcast.errors import (
    BroadcastLostError,
    BroadcastRunningError,
    BroadcastStoreError,
)
from bot.core.outbound.broadcast.models import BroadcastReport
from bot.core.outbound.broadcast.options import BroadcastOptions
from bot.core.outbound.broadcast.outcomes import Outcome
from bot.core.outbound.broadcast.progress import terminal_progress
from bot.core.outbound.broadcast.recipients import Recipients, check, opened
from bot.core.outbound.broadcast.runner import STORE_GRACE, Plan, Run
from bot.core.outbound.broadcast.store import MEMORY, ChatId, Kept, Store, checked_address, is_redis
from bot.core.outbound.context import Cover, covered
from bot.core.outbound.errors import OutboundClosedError
from bot.core.outbound.models import Priority, Request

if TYPE_CHECKING:
    from bot.core.outbound.broadcast.sqlite_store import Opened

logger = logging.getLogger(__name__)

DEFAULT_STORE = "broadcasts.sqlite3"
LOOKS = 10
"""Looks, in the time of its lease, at whether the owner of a broadcast gives a sign of life."""


class Sender(Protocol):
    """What a broadcast asks of the Outbound whose limits it keeps."""

    @property
    def enabled(self) -> bool:
        """Whether its limits are on."""

    async def call(self, send: Callable[[], Awaitable[Any]], request: Request) -> Any:
        """Call ``send`` when the limits let ``request`` pass."""


class _Entry:
    """A broadcast that runs; ``run`` from when recipients are read, ``over`` once it has given back all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
        self.loop = loop
        self.over = over
        self.run: Run | None = None


class Broadcasts:
    """What :meth:`Outbound.broadcast` needs to know of the others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.store = DEFAULT_STORE
        """The address of the store where a call names none."""
        self.redis_options: Mapping[str, Any] = {}
        """What is added to the address of a store that is a Redis, unless that says it itself."""
        # What runs, by store and name. Changed by run only.
        self._running: dict[tuple[str, str], _Entry] = {}
        self._memory: Opened | None = None
        self._said_memory = False
        self._forget_counts()

    def _forget_counts(self) -> None:
        self._finished = 0
        self._ended = dict.fromkeys(Outcome, 0)

    async def run(
        self,
        outbound: Sender,
        name: str,
        recipients: Recipients,
        send: Callable[[ChatId], Awaitable[object]],
        options: BroadcastOptions,
    ) -> BroadcastReport:
        """See :meth:`Outbound.broadcast`."""
        address = checked_address("store", self.store if options.store is None else options.store)
        if is_redis(address):
            address = with_options(address, **self.redis_options)
        check(recipients)
        _check(name, send)
        if options.progress and options.on_progress is None:
            options = replace(options, on_progress=terminal_progress())
        if not outbound.enabled:
            raise OutboundClosedError("outbound is off, and a broadcast needs it: set ENABLE_OUTBOUND")
        loop = asyncio.get_running_loop()
        key = (address, name)
        entered = self._running.get(key)
        if entered is not None and not entered.loop.is_closed():
            raise BroadcastRunningError(name)
        entry = self._running[key] = _Entry(loop, asyncio.Event())
        kept_in: Store | None = None
        try:
            kept_in = self._open(address, name)
            counts, kept = await self._own(kept_in, name, float(options.lease), restart=options.restart)
            if counts is None:
                logger.info("Broadcast %s is already finished: nothing is sent", one_line(name))
                return self._report(address, kept, name, dict(await kept_in.counts()), 0)
            try:
                given = await opened(recipients)
                plan = Plan(name, given, send, options)
                call = _calls(outbound, paid=options.paid, cost=options.cost)
                run = entry.run = Run(plan, kept_in, call, self._clock, self._count, dict(counts))
                await run.run()
                kept = kept._replace(finished_at=self._clock.time())
                await run.recorder.stored(partial(kept_in.let_go, kept.finished_at))
            except GeneratorExit:
                raise  # the event loop was closed under it: the lease ends by itself
            except BaseException:
                await to_the_end(_let_go(kept_in))
                raise
            self._finished += 1
            return self._report(address, kept, name, run.recorder.counts, run.invalid)
        finally:
            if self._running.get(key) is entry:
                del self._running[key]
            try:
                if kept_in is not None and loop.is_running():
                    await to_the_end(kept_in.close())
            finally:
                if not loop.is_closed():
                    entry.over.set()

    async def _own(self, store: Store, name: str, lease: float, *, restart: bool) -> tuple[Any, Kept]:
        """Counts of what is done, once the broadcast is ours; None if it is finished."""
        while True:
            seen = await store.read()
            if seen is not None and seen.owner:
                await self._outlive(store, name, seen)
            if seen is not None and seen.finished_at is not None and not restart:
                return None, seen
            now = self._clock.time()
            token = secrets.token_hex(8)
            counts = await store.take(token, lease, seen, now, restart=restart)
            if counts is not None:
                started_at = now if seen is None or restart else seen.started_at
                return counts, Kept(token, 0, lease, started_at, None)

    async def _outlive(self, store: Store, name: str, seen: Kept) -> None:
        """Return once the owner has given no sign of life for its lease; raise if it gives one.

        Measured by this process's own clock: those of two machines differ.
        """
        for look in range(LOOKS + 1):
            now = await store.read()
            if now is None or not now.owner:
                return
            if now[:2] != seen[:2]:
                raise BroadcastRunningError(name)
            if look < LOOKS:
                await self._clock.sleep(min(seen.lease, 3_600.0) / LOOKS)
        logger.warning("Broadcast %s resumes where a dead process stopped", one_line(name))

    # What stores there are.

    def _open(self, address: str, name: str) -> Store:
        if is_redis(address):
            try:
                from bot.core.outbound.broadcast.redis_store import RedisStore

                return RedisStore(address, name)
            except ImportError as error:
                raise BroadcastStoreError(
                    f"the Redis for the progress of broadcasts cannot be used: {error}"
                ) from error
        from bot.core.outbound.broadcast.sqlite_store import Opened, SqliteStore, connect

        if address != MEMORY:
            return SqliteStore(address, name)
        if self._memory is None:
            self._memory = Opened(connect(":memory:"))
        if not self._said_memory:
            self._said_memory = True
            logger.warning(
                "The progress of broadcasts is kept in memory: it is lost when this process ends "
                "(OUTBOUND_BROADCAST_STORE names a file or a Redis)"
            )
        return SqliteStore("", name, self._memory)

    def _report(
        self, address: str, kept: Kept, name: str, counts: dict[Outcome, int], left_out: int
    ) -> BroadcastReport:
        return BroadcastReport(
            name=name,
            done=sum(counts.values()),
            sent=counts.get(Outcome.SENT, 0),
            blocked=counts.get(Outcome.BLOCKED, 0),
            deactivated=counts.get(Outcome.DEACTIVATED, 0),
            not_found=counts.get(Outcome.NOT_FOUND, 0),
            failed=counts.get(Outcome.FAILED, 0),
            invalid=left_out,
            started_at=kept.started_at,
            finished_at=kept.finished_at or kept.started_at,
            _open=lambda: self._open(address, name),
        )

    # The service's.

    async def stop(self, timeout: float) -> None:
        """End what runs with OutboundClosedError; its progress is kept. Waits up to ``timeout`` seconds."""
        task = asyncio.current_task()
        for entry in list(self._running.values()):
            run = entry.run
            if run is None or not still_runs(entry.loop):
                continue  # one that has not begun sees by itself that outbound is off

            async def stop(run: Run = run, over: asyncio.Event = entry.over) -> None:
                run.stop(
                    OutboundClosedError("outbound was switched off; the progress of the broadcast is kept")
                )
                if task is None or not run.owns(task):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(timeout):
                            await over.wait()

            await run_on_loop(entry.loop, stop)
        if self._memory is not None and not self._running:
            self._memory.connection.close()
            self._memory = None

    def _count(self, outcome: Outcome) -> None:
        self._ended[outcome] += 1

    def reset(self) -> None:
        """Counters to zero."""
        self._forget_counts()

    def figures(self) -> dict[str, int]:
        """For the statistics."""
        running = sum(1 for entry in self._running.values() if not entry.loop.is_closed())
        return {
            "broadcasts_running": running,
            "broadcasts_finished": self._finished,
            **{f"broadcast_{outcome.value}": number for outcome, number in self._ended.items()},
        }


def _calls(
    outbound: Sender, *, paid: bool, cost: int
) -> Callable[[ChatId, Callable[[], Awaitable[object]]], Awaitable[object]]:
    """Sending to a chat in its turn."""

    async def call(chat: ChatId, send: Callable[[], Awaitable[object]]) -> object:
        request = Request("sendMessage", chat, cost=cost, priority=Priority.BROADCAST, paid=paid)
        if not outbound.enabled:
            raise OutboundClosedError("outbound was switched off; the progress of the broadcast is kept")

        async def send_covered() -> object:
            # What a framework's adapter passes through Outbound again must not queue behind itself.
            cover = Cover(outbound)
            covered.set(
                cover
            )  # for the life of the worker's task: it makes no difference once it is inactive
            try:
                return await send()
            finally:
                cover.active = False

        return await outbound.call(send_covered, request)

    return call


async def _let_go(store: Store) -> None:
    """Own it no more, unfinished. If that cannot be told to the store, the lease ends by itself."""
    try:
        async with asyncio.timeout(STORE_GRACE):
            await store.let_go(None)
    except (BroadcastLostError, BroadcastStoreError, TimeoutError) as error:
        logger.debug("A broadcast could not be let go: %s", one_line(error))


def _check(name: object, send: object) -> None:
    """Raise ValueError for what no broadcast can have."""
    allowed = "a text of 1 to 200 characters"
    if not isinstance(name, str) or not 1 <= len(name) <= 200:
        raise invalid("name", name, allowed)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise invalid("name", name, f"{allowed} that UTF-8 can hold") from None
    if not callable(send):
        raise invalid("send", send, "a function that takes a chat and sends to it")
