"""A lease for the length of a block, and its end under any event loop."""

from __future__ import annotations

from asyncio import get_running_loop
from types import TracebackType

from bot.core._shared.loop_owner import still_runs
from bot.core.connection_pool_manager.errors import LeaseError
from bot.core.connection_pool_manager.lease import Owner, PooledConnection, note_error
from bot.core.connection_pool_manager.sql_calls import SqlCalls


class LeaseContext:
    """Holds one lease for the length of an ``async with`` block."""

    __slots__ = ("_in_use", "_lease", "_manager", "_name", "_read_only", "_timeout")

    def __init__(self, manager: SqlCalls, name: str, timeout: float | None, read_only: bool) -> None:
        self._manager = manager
        self._name = name
        self._timeout = timeout
        self._read_only = read_only
        self._lease: PooledConnection | None = None
        self._in_use = False  # also while it waits for its lease

    async def __aenter__(self) -> PooledConnection:
        if self._in_use:
            raise LeaseError("this context is in use already; call connection() for each block")
        self._in_use = True
        try:
            lease = self._lease = await self._manager.acquire_connection(
                self._name, self._timeout, read_only=self._read_only
            )
        except BaseException:
            self._in_use = False
            raise
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, self._lease = self._lease, None
        self._in_use = False
        if lease is not None and not lease.is_released:  # the block may have released it
            if error is not None:
                note_error(lease, error)
            release(lease, True)


def release(lease: PooledConnection, healthy: bool) -> None:
    """End a lease, under whichever event loop; it does not wait."""
    runner = lease._runner
    loop = runner.loop
    if loop is get_running_loop():
        runner.release(lease, healthy)
    elif loop is None or is_orphan(runner):
        runner.release_here(lease, healthy)
    else:
        loop.call_soon_threadsafe(runner.release, lease, healthy)


def is_orphan(runner: Owner) -> bool:
    """Whether the event loop of a pool has ended, or the pool belongs to the parent of a fork."""
    return runner.is_inherited or not still_runs(runner.loop)
