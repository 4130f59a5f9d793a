"""Locks that hold for all instances, with leases in Redis, and for the tasks of this process without it."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import OrderedDict
from typing import Any

from bot.core._shared.backoff import exponential
from bot.core._shared.clock import Clock
from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.errors import LockTimeoutError
from bot.core.cache_manager.keys import lease_key, redis_key
from bot.core.cache_manager.shared import SharedTier
from bot.core.cache_manager.tiers import Tiers
from bot.core.redis_link import RedisRefusedError

POLL_FIRST, POLL_LONGEST = 0.05, 1.0
"""Seconds between two looks at a lease that another instance holds, if no message says that it is free."""

RENEWALS = 3
"""Times that a lease is renewed before it would end."""

TOPIC = "p4:lease"
"""Of the messages that a lease was given back."""

At = tuple[str, str, str]
"""Kind, namespace and key of a lock."""


class Lease:
    """A lock that one caller holds, until :meth:`Locks.release`."""

    def __init__(self, at: At) -> None:
        self.at = at
        self.token = secrets.token_hex(12)
        self.held = True
        """False once it ended before it was given back: another instance may hold it now."""
        self.tier: SharedTier | None = None
        """The Redis in which it is held; None if it is held against the tasks of this process only."""
        self.key = b""
        self.renewing: asyncio.Task[Any] | None = None
        self.renewed = 0.0

    @property
    def shared(self) -> bool:
        """Whether other instances respect it; False without Redis, and while it is unreachable."""
        return self.tier is not None

    @property
    def fence(self) -> tuple[bytes, str] | None:
        """Where the token must still be when what was made under it is stored; None: nowhere."""
        return None if self.tier is None else (self.key, self.token)


class Locks:
    """The locks of one cache. First the tasks of this process line up, then their first one asks Redis.

    A caller that is cancelled, at whatever point, leaves the line or gives back what it took.
    """

    def __init__(self, tiers: Tiers, tasks: BackgroundTasks, clock: Clock) -> None:
        self._tiers = tiers
        self._tasks = tasks
        self._now = clock.monotonic
        self._sleep = clock.sleep
        # Of each lock that is held or wanted here: those who wait behind the one whose turn it is. Changed
        # only by _line_up and _next.
        self._lines: dict[At, OrderedDict[asyncio.Future[None], None]] = {}
        # Those whose turn it is, and who wait for another instance. Changed only by _pause.
        self._asleep: dict[At, asyncio.Future[None]] = {}
        tiers.listeners[TOPIC] = self._heard

    def __len__(self) -> int:
        return len(self._lines)

    async def take(self, at: At, ttl: float, wait: float) -> Lease:
        """Hold a lock. Raises LockTimeoutError if others hold it for ``wait`` seconds more."""
        until = self._now() + wait
        await self._line_up(at, until, wait)
        lease = Lease(at)
        try:
            await self._ask(lease, ttl, until, wait)
        except BaseException:
            self._next(at)
            raise
        return lease

    async def release(self, lease: Lease) -> None:
        """Give it back, and wake the next; also if the caller is cancelled meanwhile."""
        if lease.renewing is not None:
            lease.renewing.cancel()
        try:
            if lease.tier is not None and lease.held and lease.tier is self._tiers.shared:
                await asyncio.shield(self._tasks.spawn(self._give(lease, lease.tier), name="cache-lease-end"))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
        finally:
            lease.held = False
            self._next(lease.at)

    # In this process.

    async def _line_up(self, at: At, until: float, wait: float) -> None:
        line = self._lines.get(at)
        if line is None:
            self._lines[at] = OrderedDict()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line[turn] = None
        timer = asyncio.get_running_loop().call_later(max(0.0, until - self._now()), _expire, turn)
        try:
            await turn
        except TimeoutError:
            raise _too_late(at, wait) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._next(at)  # its turn came in the moment that it was cancelled
            raise
        finally:
            timer.cancel()
            line.pop(turn, None)

    def _next(self, at: At) -> None:
        line = self._lines[at]
        while line:
            turn, _ = line.popitem(last=False)
            if not turn.done() and not turn.get_loop().is_closed():
                if turn.get_loop() is asyncio.get_running_loop():
                    turn.set_result(None)
                else:
                    turn.get_loop().call_soon_threadsafe(_wake, turn)
                return
        del self._lines[at]

    # In Redis.

    async def _ask(self, lease: Lease, ttl: float, until: float, wait: float) -> None:
        """Take the lease in Redis, or none if it does not answer."""
        attempts = 0
        while True:
            tier = self._tiers.shared
            if tier is None:
                return
            if not tier.link.available:
                if tier.link.probe_due:
                    self._tasks.spawn(tier.link.probe(), name="cache-probe")
                return
            _, namespace, name = lease.at
            where = redis_key(namespace, name, tier.link.root_bytes)
            key = lease_key(*lease.at, tier.link.root_bytes)
            if tier.link.cluster and not _in_one_slot(where, key):
                return
            lease.key = key
            begun = self._now()
            try:
                left = int(await self._run(tier, lease, "take", ttl))
            except RedisRefusedError as error:
                tier.failures.failed(error)
                return
            except BaseException as error:
                # Perhaps it was taken. If it cannot be given back, it ends by itself.
                self._tasks.spawn(self._give(lease, tier), name="cache-lease-end")
                if not isinstance(error, Exception):
                    raise
                tier.failures.failed(error)
                return
            if not left:
                lease.tier, lease.renewed = tier, begun
                lease.renewing = self._tasks.spawn(self._renew(lease, tier, ttl), name="cache-lease")
                return
            attempts += 1
            if self._now() >= until:
                raise _too_late(lease.at, wait)
            pause = exponential(attempts, POLL_FIRST, POLL_LONGEST) * random.uniform(0.5, 1.0)
            await self._pause(lease.at, min(pause, left / 1000 + 0.001, max(0.001, until - self._now())))

    async def _run(self, tier: SharedTier, lease: Lease, what: str, ttl: float) -> Any:
        _, channel, message = tier.backplane.message("tell", TOPIC, list(lease.at))
        milliseconds = max(1, int(ttl * 1000))
        return await tier.lease_script((lease.key,), (what, lease.token, milliseconds, channel, message))

    async def _renew(self, lease: Lease, tier: SharedTier, ttl: float) -> None:
        """Renew it until it is given back, or has ended because Redis could not be told in time."""
        while lease.held:
            await self._sleep(ttl / RENEWALS)
            begun = self._now()
            try:
                if int(await self._run(tier, lease, "renew", ttl)):
                    lease.held = False
                else:
                    lease.renewed = begun
            except Exception as error:
                tier.failures.failed(error)
                if self._now() - lease.renewed >= ttl:
                    lease.held = False

    async def _give(self, lease: Lease, tier: SharedTier) -> None:
        try:
            await self._run(tier, lease, "give", 1)
        except Exception as error:
            tier.failures.failed(error)  # it ends by itself
        else:
            self._wake(lease.at)

    async def _pause(self, at: At, seconds: float) -> None:
        """Wait for so long, or until a message says that the lease was given back."""
        asleep: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asleep[at] = asleep
        timer = asyncio.get_running_loop().call_later(seconds, _wake, asleep)
        try:
            await asleep
        finally:
            timer.cancel()
            if self._asleep.get(at) is asleep:
                del self._asleep[at]

    def _heard(self, items: list[str] | None) -> None:
        if items is None:  # messages may have been missed
            for at in list(self._asleep):
                self._wake(at)
        elif len(items) == 3:
            self._wake((items[0], items[1], items[2]))

    def _wake(self, at: At) -> None:
        asleep = self._asleep.get(at)
        if asleep is not None:
            _wake(asleep)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done() and not waiter.get_loop().is_closed():
        waiter.set_result(None)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _too_late(at: At, wait: float) -> LockTimeoutError:
    return LockTimeoutError(f"the {at[0]} {at[2][:100]!r} in {at[1]!r} is held by others after {wait:g} s")


def _in_one_slot(one: bytes, other: bytes) -> bool:
    from redis.crc import key_slot

    return bool(key_slot(one) == key_slot(other))
