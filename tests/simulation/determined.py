"""All that is chance, and all that is time, taken from one run's seed and loop."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import redis.utils

from bot.core._shared.clock import LoopTimers, SystemClock
from tests.simulation.loop import PROCESS, VirtualLoop
from tests.simulation.network import Poll

EPOCH = 1_700_000_000.0


class HostClock(LoopTimers):
    """The clock of one machine: its wall clock may be set, its monotonic one only goes on."""

    def __init__(self, loop: VirtualLoop, *, wall: float = 0.0) -> None:
        self._loop = loop
        self.wall = wall

    def monotonic(self) -> float:
        return self._loop.time()

    def time(self) -> float:
        return EPOCH + self._loop.time() + self.wall


@contextlib.contextmanager
def determined(seed: int, loop: VirtualLoop, clock: HostClock) -> Iterator[None]:
    """While it stands, modules find this run's time and chance.

    What belongs to a simulated process goes by its clock, the rest of the world by ``clock``.
    Garbage is not collected meanwhile: when it is depends on what the process has done before.
    """
    bytes_of = random.Random(f"bytes {seed}")
    seeds_of = random.Random(f"seeds {seed}")
    random_class, before, collected = random.Random, random.getstate(), gc.isenabled()

    def wall() -> float:
        process = PROCESS.get()
        here = clock if process is None or process.clock is None else process.clock
        return float(here.time())

    class Seeded(random_class):  # type: ignore[misc, valid-type]
        def __init__(self, seed: Any = None) -> None:
            super().__init__(seeds_of.getrandbits(64) if seed is None else seed)

    replaced = [
        (time, "time", wall), (time, "monotonic", loop.time), (time, "perf_counter", loop.time),
        (SystemClock, "monotonic", staticmethod(loop.time)), (SystemClock, "time", staticmethod(wall)),
        (redis.utils, "get_lib_version", lambda: redis.__version__),  # it reads files, at each connection
        (select, "poll", lambda: Poll(loop.network)),
        (os, "urandom", bytes_of.randbytes), (random, "_urandom", bytes_of.randbytes),
        (random, "Random", Seeded),
    ]  # fmt: skip
    gc.disable()
    random.seed(seed)
    try:
        with contextlib.ExitStack() as stack:
            for owner, name, value in replaced:
                stack.enter_context(mock.patch.object(owner, name, value))
            yield
    finally:
        random.setstate(before)
        if collected:
            gc.enable()
