"""Whether a pool works, and why not."""

from __future__ import annotations

from bot.core.connection_pool_manager.connecting import Connector
from bot.core.connection_pool_manager.pool import Pool
from bot.core.connection_pool_manager.reports import Reports, overdue_calls


class Health:
    """Says what is wrong with one pool, without secrets. It holds no state of its own."""

    def __init__(self, pool: Pool, connector: Connector, reports: Reports) -> None:
        self._pool = pool
        self._connector = connector
        self._reports = reports

    def warning(self) -> str | None:
        """Why the pool has not worked since its start; None: it works, or has worked."""
        pool = self._pool
        if pool.counters.opened or pool.last_error is None:
            return None
        again = (
            "is retried rarely, since the server may lock the user out"
            if pool.login_refused
            else "is retried"
        )
        said = self._connector.masked_text(pool.last_error)
        return f"{said}; until it works, callers wait in vain, and it {again}"

    def problem(self, now: float) -> str | None:
        """Why the pool, or a part of it, does not work; None: it works."""
        pool = self._pool
        if pool.last_error is not None:
            return self._connector.masked(pool.last_error)
        if pool.demoted_since is not None:
            return f"the server does not accept writes: {self._reports.demotion}"
        if overdue := overdue_calls(pool):
            longest = now - min(slot.call_since for slot in overdue)
            return f"{len(overdue)} calls have had no answer for up to {longest:.1f} s"
        return None
