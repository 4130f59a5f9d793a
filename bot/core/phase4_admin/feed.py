"""The stream of figures: one sampler for all viewers, none while there are none."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

from bot.core._shared import __version__
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.masking import masked_traceback
from bot.core.phase4_admin import figures
from bot.core.phase4_admin.events import EventLog
from bot.core.phase4_admin.history import History
from bot.core.phase4_admin.library import Library
from bot.core.phase4_statistics.rolling_rates import WINDOW, RecentReader

logger = logging.getLogger(__name__)

INTERVAL = 2.0
MAX_VIEWERS = 20
MAX_OF_ONE = 6
"""Streams of one client; as many as a browser opens to one server."""


class _Viewer(NamedTuple):
    client: str
    session: str
    ended: asyncio.Event


class Feed:
    """Samples the services every ``interval`` seconds while there are viewers.

    All viewers share the samples; one that is slow gets the next one late and misses none of the
    history. :meth:`close` ends every stream at once, and there are no new ones.
    """

    def __init__(
        self,
        library: Library,
        events: EventLog,
        lag: Callable[[], float],
        *,
        interval: float = INTERVAL,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._library = library
        self._events = events
        self._lag = lag
        self._interval = interval
        self._clock = clock
        self._recent = RecentReader(clock.monotonic())
        self._history = History()
        # The rest is changed by stream, close and the sampler.
        self._viewers: list[_Viewer] = []  # the oldest first
        self._sampler: asyncio.Task[None] | None = None
        self._state: dict[str, Any] = {}
        self._state_at = 0.0
        self._closed = False
        self._turn: asyncio.Event | None = None

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    @property
    def sampling(self) -> bool:
        return self._sampler is not None and not self._sampler.done()

    async def stream(self, after: float = 0.0, client: str = "", session: str = "") -> AsyncGenerator[bytes]:
        """Server-sent events: the state and the history later than ``after`` (Unix time), at each sample.

        ``client``: where the viewer asks from; ``session``: what it has signed in with. Both together have
        MAX_OF_ONE streams at most; a further one ends the oldest of theirs. With MAX_VIEWERS in all, the
        client that holds the most streams loses the oldest of them. So no client is shut out by
        one that opens many.
        """
        viewer = _Viewer(client, session, asyncio.Event())
        self._make_room(viewer)
        self._viewers.append(viewer)
        try:
            yield b"retry: 2000\n\n"
            seen = -1.0
            while not self._closed and not viewer.ended.is_set():
                if self._sampler is None or self._sampler.done():
                    self._turn = self._turn or asyncio.Event()
                    self._sampler = asyncio.get_running_loop().create_task(self._sample(), name="dashboard")
                turn = self._turn
                if self._state_at == seen or not self._state:
                    assert turn is not None
                    await turn.wait()
                    continue
                seen = self._state_at
                if after > seen:
                    after = 0.0  # the clock was set back, so all that is kept is later than that
                body = {**self._state, "history": self._history.columns(after)}
                after = seen
                yield f"id: {seen:.3f}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n".encode()
        finally:
            if viewer in self._viewers:
                self._viewers.remove(viewer)
            if not self._viewers:
                self._stop_sampling()

    def _make_room(self, new: _Viewer) -> None:
        """End the stream that has to go for ``new``, if one has to."""
        own = [viewer for viewer in self._viewers if viewer[:2] == new[:2]]
        if len(own) >= MAX_OF_ONE:
            victim = own[0]
        elif len(self._viewers) >= MAX_VIEWERS:
            held = Counter(viewer.client for viewer in self._viewers)
            most = max(held.values())
            victim = next(viewer for viewer in self._viewers if held[viewer.client] == most)
        else:
            return
        self._viewers.remove(victim)
        victim.ended.set()
        if self._turn is not None:
            self._turn.set()  # it waits for that
            self._turn = asyncio.Event()

    def close(self) -> None:
        """End every stream; from now on there are none."""
        self._closed = True
        self._stop_sampling()
        if self._turn is not None:
            self._turn.set()

    def _stop_sampling(self) -> None:
        if self._sampler is not None:
            self._sampler.cancel()
            self._sampler = None
        # What was sampled before a pause must not be shown as the present when there is a viewer again.
        self._state = {}

    async def _sample(self) -> None:
        failing = False
        while True:
            try:
                state = await self.measure()
            except Exception as error:
                if not failing:
                    logger.error("The dashboard's figures cannot be read\n%s", masked_traceback(error))
                failing = True
            else:
                failing = False
                self._state, self._state_at = state, state["time"]
                if self._turn is not None:
                    self._turn.set()
                self._turn = asyncio.Event()
            await self._clock.sleep(self._interval)

    async def measure(self) -> dict[str, Any]:
        """Take one sample: into the history, and what the page shows of now."""
        status = await self._library.status()
        recent = self._recent.read(self._clock.monotonic(), status["services"])
        at = round(self._clock.time(), 3)
        if at < self._state_at:
            self._history = History()  # its times would lie ahead of the present
        values = figures.points(status, recent, self._lag())
        self._history.add(at, values)
        slow, patterns = await _queries(self._library.running("query_optimizer"))
        return {
            "time": at,
            "interval": self._interval,
            "window": WINDOW,
            "version": __version__,
            "uptime": status["uptime_seconds"],
            "process": status["process"],
            "lag_ms": values["lag"],
            "headlines": figures.headlines(status, values),
            "services": figures.services(status),
            "pools": figures.pool_rows(status),
            "instances": figures.instance_rows(status),
            "limits": figures.limit_rows(status),
            "slow": slow,
            "n_plus_one": patterns,
            "events": [
                {"time": e.time, "level": e.level, "source": e.source, "text": e.text, "count": e.count}
                for e in self._events.latest()[: figures.MAX_ROWS]
            ],
        }


async def _queries(optimizer: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Slow query shapes and N+1 findings: texts without literals, so without anything of a user's."""
    if optimizer is None:
        return [], []
    slow = [
        {
            "query": query.query,
            "fingerprint": query.fingerprint,
            "executions": query.executions,
            "slow": query.slow_executions,
            "avg_ms": query.avg_time_ms,
            "max_ms": query.max_time_ms,
            "last_seen": query.last_seen,
        }
        for query in (await optimizer.get_slow_queries())[: figures.MAX_ROWS]
    ]
    patterns = [
        {
            "query": pattern.query,
            "count": pattern.count,
            "requests": pattern.contexts,
            "where": pattern.call_sites,
            "instead": pattern.suggestion,
            "last_seen": pattern.last_seen,
        }
        for pattern in (await optimizer.get_n_plus_one_patterns())[: figures.MAX_ROWS]
    ]
    return slow, patterns


def unix_time(text: str) -> float:
    """The ``Last-Event-ID`` of a browser that comes back; 0.0 for anything else."""
    try:
        at = float(text)
    except ValueError:
        return 0.0
    return at if 0.0 < at <= time.time() + 60 else 0.0
