"""A proxy for each instance and server, with faults in either direction."""

from __future__ import annotations

import asyncio
import contextlib

from tests.support.proxy import Proxy

DRIP_BYTES = 64
DRIP_SECONDS = 0.02


class FaultyProxy(Proxy):
    """Passes bytes on, late, in drops, or not at all; ``stop_faults`` lets what it kept back go on.

    A direction is ``to`` (the server) or ``from`` (it).
    """

    def __init__(self, port: int) -> None:
        super().__init__(port=port)
        # Changed by set_fault and stop_faults only.
        self.delay = 0.0
        self.drips = False
        self.holes: frozenset[str] = frozenset()
        self._open = asyncio.Event()
        self._open.set()

    async def set_fault(self, kind: str) -> None:
        """``kind`` as in ``plan``; connections that are open are hit, too."""
        if kind == "cut":
            self.cut()
        elif kind == "delay":
            self.delay = 0.3
        elif kind == "drip":
            self.drips = True
        elif kind == "refuse":
            await self.refuse()
        elif kind == "half open":
            self.hangs = True  # accepted, and never connected to the server
            self._keep_back("to", "from")
        else:
            self._keep_back(kind.removeprefix("hole "))

    async def stop_faults(self) -> None:
        """As if nothing had been; connections that never reached the server are reset."""
        hung, self.hangs = self.hangs, False
        self.delay, self.drips, self.holes = 0.0, False, frozenset()
        self._open.set()
        if hung:
            self.cut()
        if self._server is None:
            await self.listen()

    def _keep_back(self, *directions: str) -> None:
        self.holes = frozenset(directions)
        self._open.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = writer.get_extra_info("peername")[1] == self._target[1]
        direction = "to" if to_server else "from"
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if direction in self.holes:
                    await self._open.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                while self.drips and data:
                    writer.write(data[:DRIP_BYTES])
                    data = data[DRIP_BYTES:]
                    await asyncio.sleep(DRIP_SECONDS)
                if data:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
