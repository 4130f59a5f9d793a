"""Samples of the services, always taken, and the stream of figures to those who look."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, NamedTuple

from bot.core._shared import __version__
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.masking import masked_traceback
from bot.core.phase4_admin import figures
from bot.core.phase4_admin.events import EventLog
from bot.core.phase4_admin.history import FULL_SECONDS, STEPPED, History
from bot.core.phase4_admin.library import Library
from bot.core.phase4_admin.queries import found_queries, opened_query
from bot.core.phase4_statistics.rolling_rates import WINDOW, RecentReader

logger = logging.getLogger(__name__)

INTERVAL = 2.0
MAX_VIEWERS = 20
MAX_OF_ONE = 6
"""Streams of one client; as many as a browser opens to one server."""

FRESH = 0.25
"""Share of the interval up to which a sample is fresh enough for the first who looks."""

RANGES = (FULL_SECONDS, *STEPPED)
"""Seconds that charts can show; of the first the stream has every sample."""


TOLD_AGAIN = 10.0
"""Seconds for which the past that was put together for one serves others."""


class _Viewer(NamedTuple):
    client: str
    session: str
    ended: asyncio.Event


class Sample(NamedTuple):
    """What was read of the services at one moment."""

    at: float
    """Unix time."""
    status: Mapping[str, Any]
    values: Mapping[str, float | None]
    """The charted figures."""


class Feed:
    """Samples the services every ``interval`` seconds from :meth:`start` on, also while nobody looks.

    All viewers share the samples; one that is slow gets the next one late and misses none of the
    history. What the page shows beside the charts is put together only while there are viewers.
    :meth:`close` ends every stream at once, and there are no new ones until it is started again.
    """

    def __init__(
        self,
        library: Library,
        events: EventLog,
        lag: Callable[[], float],
        *,
        name: str = "",
        interval: float = INTERVAL,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``name``: the bot's."""
        self._library = library
        self._events = events
        self._lag = lag
        self.about: dict[str, Any] = {"bot": name}
        """What every state of the page tells, as it is. Whoever serves it may add to it before it starts:
        ``front`` (there is a list of instances side by side), ``api`` (there is an index at ``api``)."""
        self._interval = interval
        self._clock = clock
        self._recent = RecentReader(clock.monotonic())
        self._history = History()
        # The rest is changed by start, stream, close and the sampler.
        self._viewers: list[_Viewer] = []  # the oldest first
        self._sampler: asyncio.Task[None] | None = None
        self._sample: Sample | None = None
        self._measured_at = float("-inf")
        self._renewing = False
        """Whether the sample is too old to begin with."""
        self._state: dict[str, Any] = {}
        self._state_of: Sample | None = None
        self._closed = False
        self._failing: set[str] = set()
        self._told: dict[float, tuple[float, dict[str, Any]]] = {}  # of RANGES, when it was put together
        self._turn: asyncio.Event | None = None

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    @property
    def sampling(self) -> bool:
        return self._sampler is not None and not self._sampler.done()

    def start(self) -> None:
        """Sample from now on, on the running loop; again after :meth:`close`."""
        self._closed = False
        self._keep_sampling()

    def _keep_sampling(self) -> None:
        if not self.sampling:
            # A turn belongs to the loop of those who wait for it.
            self._turn = asyncio.Event()
            self._sampler = asyncio.get_running_loop().create_task(self._run(), name="dashboard")

    def history(self, seconds: float) -> dict[str, Any]:
        """The last ``seconds`` before the last sample as ``History.steps`` tells them, or did a moment ago.

        All who look share it: of a day it takes milliseconds in which the bot does nothing else.
        """
        now = self._sample.at if self._sample is not None else self._clock.time()
        known = self._told.get(seconds)
        if known is None or not 0.0 <= now - known[0] < TOLD_AGAIN:
            known = self._told[seconds] = now, self._history.steps(seconds, now)
        return known[1]

    async def snapshot(self) -> dict[str, Any]:
        """What the page shows of now, or did last before the reading failed; empty if it never succeeded."""
        if self._sample is None:
            try:
                await self.measure()
            except Exception as error:
                self._tell("measure", error)
        sample = self._sample
        if sample is not None and self._state_of is not sample:
            try:
                self._state = await self._compose(sample)
            except Exception as error:
                self._tell("compose", error)
            else:
                self._failing.discard("compose")
                self._state_of = sample
        return self._state

    async def query(self, fingerprint: str) -> dict[str, Any] | None:
        """All that the optimizer knows of one query shape; None if that is nothing."""

        async def opened() -> dict[str, Any] | None:
            return await opened_query(self._library.running("query_optimizer"), fingerprint)

        return await self._library.there(opened)

    async def stream(
        self, after: float = 0.0, client: str = "", session: str = "", *, actions: bool = False
    ) -> AsyncGenerator[bytes]:
        """Server-sent events: the state and the history later than ``after`` (Unix time), at each sample.

        ``client``: where the viewer asks from; ``session``: what it has signed in with. Both together have
        MAX_OF_ONE streams at most; a further one ends the oldest of theirs. With MAX_VIEWERS in all, the
        client that holds the most streams loses the oldest of them. So no client is shut out by
        one that opens many. ``actions``: whether the viewer may act.
        """
        viewer = _Viewer(client, session, asyncio.Event())
        self._make_room(viewer)
        if not self._viewers:
            self._refresh()
        self._viewers.append(viewer)
        try:
            yield b"retry: 2000\n\n"
            seen = -1.0
            while not self._closed and not viewer.ended.is_set():
                self._keep_sampling()
                turn = self._turn
                state = await self.snapshot()
                if not state or state["time"] == seen or self._renewing:
                    assert turn is not None
                    await turn.wait()
                    continue
                seen = state["time"]
                if after > seen:
                    after = 0.0  # the clock was set back, so all that is kept is later than that
                body = {**state, "actions": actions, "history": self._history.columns(after)}
                after = seen
                yield f"id: {after:.3f}\ndata: {as_json(body)}\n\n".encode()
        finally:
            if viewer in self._viewers:
                self._viewers.remove(viewer)

    def _refresh(self) -> None:
        """Sample now rather than when it is time, unless that was just done."""
        if not self._closed and self._clock.monotonic() - self._measured_at > FRESH * self._interval:
            if self._sampler is not None:
                self._sampler.cancel()
                self._sampler = None
            self._renewing = True
            self._next_turn()
            self._keep_sampling()

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
        self._next_turn()  # it waits for that

    def _next_turn(self) -> None:
        if self._turn is not None:
            self._turn.set()
            self._turn = asyncio.Event()

    def close(self) -> None:
        """End the sampling and every stream; until :meth:`start` there are none."""
        self._closed = True
        if self._sampler is not None:
            self._sampler.cancel()
            self._sampler = None
        if self._turn is not None:
            self._turn.set()

    async def _run(self) -> None:
        while True:
            try:
                await self.measure()
            except Exception as error:
                self._tell("measure", error)
                self._renewing = False  # there is nothing better than the last one
            else:
                self._failing.discard("measure")
            self._next_turn()
            await self._clock.sleep(self._interval)

    def _tell(self, step: str, error: Exception) -> None:
        """Log what went wrong, once until it goes well again."""
        if step not in self._failing:
            logger.error("The dashboard cannot read its figures\n%s", masked_traceback(error))
        self._failing.add(step)

    async def measure(self) -> Sample:
        """Take one sample, into the history too."""
        status = await self._library.there(self._library.status)
        recent = self._recent.read(self._clock.monotonic(), status["services"])
        at = round(self._clock.time(), 3)
        if self._sample is not None and at < self._sample.at:
            self._history.forget_from(at)
        values = figures.points(status, recent, self._lag())
        self._history.add(at, values)
        self._sample = Sample(at, status, values)
        self._measured_at = self._clock.monotonic()
        self._renewing = False
        return self._sample

    async def _found_queries(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return await found_queries(self._library.running("query_optimizer"), figures.MAX_ROWS)

    async def _compose(self, sample: Sample) -> dict[str, Any]:
        status, values = sample.status, sample.values
        slow, patterns = await self._library.there(self._found_queries)
        return {
            **self.about,
            "time": sample.at,
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
            "priorities": figures.priority_rows(status),
            "slow": slow,
            "n_plus_one": patterns,
            "events": [
                {"time": e.time, "level": e.level, "source": e.source, "text": e.text, "count": e.count}
                for e in self._events.latest()[: figures.MAX_ROWS]
            ],
        }


def as_json(what: Any) -> str:
    """As browsers read it: they know neither NaN nor Infinity, so these are null."""
    try:
        return json.dumps(what, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(what), separators=(",", ":"), allow_nan=False)


def _finite(what: Any) -> Any:
    if isinstance(what, float):
        return what if math.isfinite(what) else None
    if isinstance(what, Mapping):
        return {key: _finite(value) for key, value in what.items()}
    return [_finite(each) for each in what] if isinstance(what, list | tuple) else what


def unix_time(text: str) -> float:
    """The ``Last-Event-ID`` of a browser that comes back; 0.0 for anything else."""
    try:
        at = float(text)
    except ValueError:
        return 0.0
    return at if 0.0 < at <= time.time() + 60 else 0.0
