"""Bodies of requests: read within time limits, and kept while they are passed on, within a bound."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from aiohttp import web

from bot.service.api_errors import ApiError

READ_SECONDS = 30.0
"""For which a client may send nothing of a body it has announced."""

JSON_SECONDS = 30.0
"""In which a JSON body has to be there."""

BODY_SECONDS = 600.0
"""In which any body has to be there: 16 MiB at 28 kB/s."""

CHUNK = 64 * 1024


async def next_chunk(request: web.Request) -> bytes:
    """The next bytes of the body, ``b""`` at its end; ApiError 408 if none come for READ_SECONDS."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.content.read(4 * CHUNK)
    except TimeoutError:
        raise ApiError(408, "too_slow", f"Nothing of the body came for {READ_SECONDS:g} s.") from None


@contextlib.asynccontextmanager
async def deadline(seconds: float = BODY_SECONDS) -> AsyncIterator[None]:
    """A time limit for taking in a body: ApiError 408 beyond it."""
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise ApiError(408, "too_slow", f"The body was not there after {seconds:g} s.") from None


async def read_json(request: web.Request) -> bytes:
    """The whole body, which the application's ``client_max_size`` bounds; ApiError 408 if it is late."""
    async with deadline(JSON_SECONDS):
        return await request.read()


class Body:
    """A body that has been taken in; it can be read as often as it is sent."""

    def __init__(self, head: bytes, file: IO[bytes] | None, size: int) -> None:
        self.size = size
        self._head = head
        self._file = file

    @property
    def data(self) -> bytes | None:
        """All of it, if it is in memory."""
        return self._head if self._file is None else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, from memory and from the disk."""
        yield self._head
        if self._file is not None:
            await asyncio.to_thread(self._file.seek, 0)
            while chunk := await asyncio.to_thread(self._file.read, 4 * CHUNK):
                yield chunk


class Bodies:
    """Takes in bodies before they are passed on: 64 KiB of each in memory, the rest in a temporary file.

    So a slow client holds nobody up but itself, and a body can be sent again. At most ``in_flight``
    bytes are held for all requests together, and ``largest`` for one.
    """

    def __init__(self, largest: int, in_flight: int) -> None:
        self._largest = largest
        self._limit = in_flight
        self.held = 0
        """Bytes held now. Changed by received."""

    @contextlib.asynccontextmanager
    async def received(self, request: web.Request) -> AsyncIterator[Body]:
        """The request's body, while the context lasts.

        Raises ApiError: 413 above ``largest``, 503 when there is no room, 408 when the client is too slow.
        """
        if (request.content_length or 0) > self._largest:
            raise self._too_large()
        head = bytearray()
        file: IO[bytes] | None = None
        size = 0
        try:
            if request.can_read_body:
                async with deadline():
                    while chunk := await next_chunk(request):
                        self.held += len(chunk)
                        size += len(chunk)
                        if size > self._largest:
                            raise self._too_large()
                        if self.held > self._limit:
                            raise ApiError(
                                503, "busy", "Too many bytes are being passed on now; try again soon.",
                                headers={"Retry-After": "1"},
                            )  # fmt: skip
                        if file is None and len(head) + len(chunk) <= CHUNK:
                            head += chunk
                            continue
                        if file is None:
                            file = await asyncio.to_thread(tempfile.TemporaryFile)
                        await asyncio.to_thread(file.write, chunk)
            yield Body(bytes(head), file, size)
        finally:
            self.held -= size
            if file is not None:
                file.close()

    def _too_large(self) -> ApiError:
        return ApiError(413, "too_large", f"A body is at most {self._largest:,} bytes.")
