"""``cache.lock``: a block that one caller at a time is in, of all instances."""

from __future__ import annotations

from types import TracebackType

from bot.core._shared.validation import valid_seconds
from bot.core.cache_manager.keys import LOCK, valid_key, valid_name
from bot.core.cache_manager.locks import At, Lease, Locks
from bot.core.cache_manager.models import DEFAULT_NAMESPACE
from bot.core.phase4_service import Phase4Service


class Lock:
    """An async context manager; each of its blocks gets a lease of its own."""

    def __init__(self, locks: Locks, at: At, ttl: float, wait: float) -> None:
        self._locks = locks
        self._at = at
        self._ttl = ttl
        self._wait = wait
        # The leases of the blocks that were entered and not left, the latest last.
        self._leases: list[Lease] = []

    async def __aenter__(self) -> Lease:
        lease = await self._locks.take(self._at, self._ttl, self._wait)
        self._leases.append(lease)
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._locks.release(self._leases.pop())


class Locking(Phase4Service):
    """Locks by key."""

    _locks: Locks

    def lock(
        self, key: str, ttl: float = 10.0, namespace: str = DEFAULT_NAMESPACE, *, wait: float = 30.0
    ) -> Lock:
        """A block that one caller of all instances is in at a time: ``async with cache.lock("import"): ...``

        The lease in Redis lives for ``ttl`` seconds and is renewed while the block runs, so it ends that long
        after the process died. Entering waits for ``wait`` seconds at most, then raises LockTimeoutError. The
        block gets the :class:`Lease`: ``held`` turns False if Redis could not be told in time that it goes
        on, ``shared`` is False if it holds against tasks of this process only: without Redis, and if Redis
        does not answer. A lock is no value: ``get`` of the same key does not see it. The task that holds it
        cannot enter it again.
        """
        at = (LOCK, valid_name(namespace, "namespace"), valid_key(key))
        return Lock(self._locks, at, valid_seconds("ttl", ttl), valid_seconds("wait", wait, zero=True))
