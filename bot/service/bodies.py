"""Bodies of requests: read within time limits, and kept while they are passed on, within a bound."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import IO

from aiohttp import web

from bot.core._shared.masking import one_line
from bot.core.phase4_admin.api_errors import ApiError, bad_request

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
            with _hung_up(request):
                return await request.content.read(4 * CHUNK)
    except TimeoutError:
        raise ApiError(408, "too_slow", f"No more of the body arrived for {READ_SECONDS:g} s.") from None


@contextlib.contextmanager
def _hung_up(request: web.Request) -> Iterator[None]:
    """ConnectionResetError also for a client that left before its body was first read."""
    try:
        yield
    except RuntimeError:  # "Connection closed.", of aiohttp
        if request.transport is not None:
            raise
        raise ConnectionResetError("the client hung up") from None


@contextlib.asynccontextmanager
async def deadline(seconds: float = BODY_SECONDS) -> AsyncIterator[None]:
    """A time limit for taking in a body: ApiError 408 beyond it."""
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise ApiError(408, "too_slow", f"The body did not arrive within {seconds:g} s.") from None


async def read_json(request: web.Request, seconds: float | None = None) -> bytes:
    """The whole body, decoded, which the application's ``client_max_size`` bounds.

    ``seconds``: in which it has to be there, else JSON_SECONDS.

    Raises ApiError: 408 if it is late, and what :func:`chunks_of` raises; HTTPRequestEntityTooLarge.
    """
    body = bytearray()
    async with deadline(JSON_SECONDS if seconds is None else seconds):
        if not request.can_read_body or coding_of(request) == "identity":
            with _hung_up(request):
                return await request.read()
        async with contextlib.aclosing(chunks_of(request)) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > request.client_max_size:
                    raise web.HTTPRequestEntityTooLarge(request.client_max_size, len(body))
    return bytes(body)


def coding_of(request: web.Request) -> str:
    """How the body is encoded: identity, gzip or deflate; ApiError 415 for any other way."""
    named = ",".join(request.headers.getall("Content-Encoding", ())).strip().lower() or "identity"
    coding = "gzip" if named == "x-gzip" else named
    if coding not in ("identity", "gzip", "deflate"):
        raise ApiError(
            415, "unsupported_encoding",
            f"Content-Encoding = {one_line(named, 60)!r}: expected gzip, deflate or identity.",
            headers={"Accept-Encoding": "gzip, deflate"},
        )  # fmt: skip
    return coding


async def chunks_of(request: web.Request) -> AsyncGenerator[bytes]:
    """The body as it comes, decoded, in pieces of at most 256 KiB. Whoever stops reading stops the decoding.

    The web server would decode what it merely discards, too: a bomb of 1 MB, refused, held the event loop
    for seconds. Raises ApiError: 408 if nothing comes for READ_SECONDS, 415 for a coding that is not known,
    400 for a body that is not encoded as its headers say.
    """
    coding = coding_of(request)
    decoder = None if coding == "identity" else _Decoder(coding)
    while chunk := await next_chunk(request):
        if decoder is None:
            yield chunk
            continue
        for piece in decoder.decode(chunk):
            yield piece
            await asyncio.sleep(0)  # a small chunk may hold a thousand pieces
    if decoder is not None and not decoder.ended:
        raise _badly_encoded()


class _Decoder:
    """Undoes gzip or deflate. One member, and nothing behind it."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._zlib: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes stand for, in pieces; ApiError 400 for bytes that stand for nothing."""
        if self._zlib is None:
            # Some send deflate without the frame that RFC 9110 asks for.
            bare = self._coding == "deflate" and data[0] & 0x0F != 8
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
        more = True
        while more:
            if self.ended and data:
                raise _badly_encoded()
            try:
                piece = self._zlib.decompress(data, 4 * CHUNK)
            except zlib.error:
                raise _badly_encoded() from None
            data = self._zlib.unconsumed_tail or self._zlib.unused_data
            # A full piece may have left some of the output behind, although all of the input is used up.
            more = bool(data) or len(piece) == 4 * CHUNK
            if piece:
                yield piece

    @property
    def ended(self) -> bool:
        return self._zlib is not None and self._zlib.eof


def _badly_encoded() -> ApiError:
    return bad_request("The body cannot be read as its headers say.")


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

    So a slow client delays only itself, and a body can be sent again. At most ``in_flight``
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
