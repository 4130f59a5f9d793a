"""How late the event loop runs what is due: the first thing to look at when everything is slow."""

from __future__ import annotations

import asyncio

from bot.core._shared.histogram import Histogram, HistogramSnapshot

PERIOD = 0.5
"""Seconds between two measurements."""


class LoopLag:
    """Measures, twice a second, how much later than asked a timer fires."""

    def __init__(self) -> None:
        self._lags = Histogram()
        self._task: asyncio.Task[None] | None = None
        self.last = 0.0
        """Seconds of the last measurement."""

    def start(self) -> None:
        """Measure from now on, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._measure(), name="loop-lag")

    async def stop(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PERIOD
            await asyncio.sleep(PERIOD)
            self.last = max(0.0, loop.time() - due)
            self._lags.record(self.last)

    def histograms(self) -> list[HistogramSnapshot]:
        """For the metrics reader."""
        return [self._lags.snapshot("event_loop_lag_seconds", "How late the event loop runs a timer")]
