"""Large values: compressed by a thread, and decoded in pieces, so that the event loop goes on.

zlib and zstd let other threads run meanwhile. msgspec does not: encoding and decoding would hold the event
loop from a thread, too. So decoding lets others run after each piece. Encoding does not, since a value must
not change while it is encoded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from bot.core._shared.values import thaw_in_pieces
from bot.core.cache_manager import codec
from bot.core.cache_manager.compression import Pack, Packed

PIECE = 32 * 1024
"""Bytes of a large value that are checked, or decoded, before others may run: one to two milliseconds."""

T = TypeVar("T")

SUPERSEDED: Any = object()
"""Instead of a compressed body: a later value of the key is on its way to Redis, or is there."""


async def by_thread(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` by a thread of the event loop's own; here if there is none to be had.

    A caller that is cancelled leaves; the thread ends by itself.
    """
    try:
        answer = asyncio.get_running_loop().run_in_executor(None, function, *args)
    except RuntimeError:  # the event loop is ending, or the process may have no more threads
        return function(*args)
    return await answer


async def unpacked(payload: bytes, body: bytes) -> bytes:
    """As :func:`codec.unpack_body`; what is more than :data:`codec.LARGE` is decompressed by a thread."""
    head, reader = codec.unpack_head(payload, body)
    return head if reader is None else await by_thread(codec.unpack_rest, head, reader)


class LargeValues:
    """The large values of one tier that are being compressed, each for its key, or decoded, one at a time.

    A later value of the key takes the place of the one that is being compressed, which is then not sent.
    """

    def __init__(self) -> None:
        # Of the event loop that is running: together, many would take one turn of it with a piece each.
        self._decoding: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}
        self.packing: dict[tuple[str, str], object] = {}
        """By namespace and key. Changed only by the methods below."""

    def supersede(self, namespace: str, key: str) -> None:
        """A later value of the key was set."""
        self.packing.pop((namespace, key), None)

    def take_all(self) -> list[tuple[str, str]]:
        """Redis is left: none of these is sent any more."""
        keys = list(self.packing)
        self.packing.clear()
        return keys

    async def packed(self, namespace: str, key: str, body: bytes, pack: Pack) -> Packed | None:
        """The body made smaller, None if it is not worth it, or :data:`SUPERSEDED`."""
        if not codec.may_shrink(body):
            return None
        at = (namespace, key)
        mine = self.packing[at] = object()
        try:
            smaller = await by_thread(pack, body)
        finally:
            in_force = self.packing.get(at) is mine
            if in_force:
                del self.packing[at]
        return smaller if in_force else SUPERSEDED

    async def thawed(self, body: bytes) -> Any:
        """As ``thaw_body``, in pieces; others run in between. Raises whatever exception it comes to."""
        loop = asyncio.get_running_loop()
        lock = self._decoding.get(loop)
        if lock is None:
            lock = asyncio.Lock()
            self._decoding = {loop: lock}
        async with lock:
            pieces = thaw_in_pieces(body, PIECE)
            while True:
                try:
                    next(pieces)
                except StopIteration as end:
                    return end.value
                await asyncio.sleep(0)
