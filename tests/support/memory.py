"""How much memory a piece of work takes."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


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
