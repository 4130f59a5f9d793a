"""Bodies of an operator's calls: small, and read within a time limit."""

from __future__ import annotations

import asyncio

from aiohttp import web

from bot.core._shared.masking import one_line
from bot.core.phase4_admin.api_errors import ApiError


async def read_small(request: web.Request, seconds: float, most: int) -> bytes:
    """The whole body, at most ``most`` bytes, in at most ``seconds``.

    Raises ApiError: 408 if it is late, 413 if it is larger, 415 if it is encoded (a host's application may
    decode bodies by itself or not).
    """
    coding = ",".join(request.headers.getall("Content-Encoding", ())).strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(
            415, "unsupported_encoding",
            f"Content-Encoding = {one_line(coding, 60)!r}: send the body as it is.",
            headers={"Accept-Encoding": "identity"},
        )  # fmt: skip
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > most:
                    raise ApiError(413, "too_large", f"The body may have at most {most:,} bytes.")
    except TimeoutError:
        raise ApiError(408, "too_slow", f"The body did not arrive within {seconds:g} s.") from None
    except RuntimeError:  # "Connection closed.", of aiohttp
        if request.transport is not None:
            raise
        raise ConnectionResetError("the client hung up") from None
    return bytes(body)
