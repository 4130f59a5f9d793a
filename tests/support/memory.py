"""How much memory a piece of work takes."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Traced:
    """``kept``: bytes that are still held at the end of the block."""

    kept = 0


@contextmanager
def traced() -> Iterator[Traced]:
    """What the block allocates and keeps: ``with traced() as memory: ...``, then ``memory.kept``."""
    memory = Traced()
    gc.collect()
    gc.freeze()  # else each collection looks through everything that pytest and the other tests hold
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield memory
        gc.collect()
        memory.kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


class Bounded(Protocol):
    """What tells how many bytes it holds."""

    bytes_used: int


def check_reported_bytes(store: Bounded, fill: Callable[[int], object], count: int, most: int) -> None:
    """While ``fill`` is called with each number below ``count``: the store reports what it takes, within
    half, and no more than ``most`` bytes."""
    with traced() as memory:
        for number in range(count):
            fill(number)
    assert memory.kept / 1.5 < store.bytes_used < memory.kept * 1.5
    assert store.bytes_used <= most
