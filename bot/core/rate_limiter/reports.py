"""Tells Redis of clients that came too early and were refused without asking it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from bot.core.rate_limiter.mirror import Mirror, client_key
from bot.core.rate_limiter.models import ClientId
from bot.core.rate_limiter.window_mirror import WindowMirror
from bot.core.redis_link import RedisLink

REPORT_INTERVAL = 0.1
"""Seconds for which the violations of clients that are refused without Redis are gathered."""


class Reports:
    """The clients in backoff whose last violations Redis has not heard of.

    ``send(key, argument)`` has bucket.lua run, and waits for nothing. ``reachable()`` says whether Redis can
    be told now; if not, this instance goes on refusing them.
    """

    def __init__(
        self,
        link: RedisLink,
        send: Callable[[bytes, bytes], object],
        now: Callable[[], float],
        reachable: Callable[[], bool],
    ) -> None:
        self._link = link
        self._send = send
        self._now = now
        self._reachable = reachable
        self.pending: dict[tuple[Mirror | WindowMirror, ClientId], None] = {}
        """Always the same object. Changed by the methods below only."""
        self._timer: asyncio.TimerHandle | None = None
        self.offset: float | None = None
        """Redis's clock less ours, at the last answer; too small by the time that took to arrive."""
        self.refused = 0
        """Requests refused without asking Redis."""

    def add(self, mirror: Mirror | WindowMirror, client: ClientId) -> None:
        """A client was refused; if it came too early Redis hears of it a little later."""
        self.refused += 1
        if not mirror.early(client):
            return
        self.pending[mirror, client] = None
        if self._timer is None:
            with contextlib.suppress(RuntimeError):  # called by code that runs in no event loop
                loop = asyncio.get_running_loop()
                self._link.here()
                if not self._link.owner.elsewhere:
                    self._timer = loop.call_later(REPORT_INTERVAL, self.send_all)

    def send_all(self) -> None:
        """Tell Redis of all now."""
        self.cancel_timer()
        pending = list(self.pending)
        self.pending.clear()
        if self._reachable():
            for mirror, client in pending:
                self._tell(mirror, client)

    def send(self, mirror: Mirror | WindowMirror, client: ClientId) -> None:
        """Tell Redis of one client now: before it decides about that client."""
        self.pending.pop((mirror, client), None)
        self._tell(mirror, client)

    def _tell(self, mirror: Mirror | WindowMirror, client: ClientId) -> None:
        if self.offset is not None:
            argument = mirror.penalty_argument(client, self._now(), self.offset)
            if argument is not None:
                self._send(client_key(client, self._link.root_bytes), argument)

    def forget(self, mirror: Mirror | WindowMirror, client: ClientId) -> None:
        """The client was forgiven: there is nothing to tell."""
        self.pending.pop((mirror, client), None)

    def cancel_timer(self) -> None:
        """Have nothing sent by itself, until another client is added."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abandon_timer(self) -> None:
        """The event loop of the timer has ended, and the timer with it."""
        self._timer = None
