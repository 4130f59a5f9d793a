"""A server that speaks Redis's protocol and answers what the test says, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import hiredis

OK = b"+OK\r\n"
NULL = b"_\r\n"


class FakeRedis:
    """Greets as Redis 7 does; ``answer(command)`` gives the bytes for everything else, None: nothing.

    ``answer`` may return an exception class to cut the connection with.
    """

    def __init__(self, answer: Callable[[list[bytes]], bytes | type[Exception] | None]) -> None:
        self.answer = answer
        self.connections = 0
        self.commands: list[list[bytes]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> FakeRedis:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    said = self._greeting(command)
                    if said is None:
                        self.commands.append(command)
                        said = self.answer(command)
                    if isinstance(said, type):
                        return
                    if said is not None:
                        writer.write(said)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _greeting(self, command: list[bytes]) -> bytes | None:
        name = command[0].upper()
        if name == b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        return OK if name in (b"CLIENT", b"SELECT", b"AUTH") else None
