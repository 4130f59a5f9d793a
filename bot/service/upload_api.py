"""``/api/upload``: a limited action. The limit is the guide's: 2 per second, 5 at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from bot.core.cache_manager import CacheManager
from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.api_errors import ApiError, bad_request
from bot.core.phase4_admin.client_address import client_address, client_of
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from bot.service.bodies import BODY_SECONDS, chunks_of, coding_of, deadline
from bot.service.data_api import parse_user_id, tags_of_name
from bot.service.database import Database
from bot.service.journal import Journal
from bot.service.settings import MAX_UPLOAD_BYTES

LEFTOVER_SECONDS = 2 * BODY_SECONDS
"""Age from which a file of an upload in progress is one of a process that was killed."""

UPLOAD_LIMIT = RateLimitConfig(requests_per_second=2.0, burst_size=5, name="upload")

ADD_FILE = """
INSERT INTO files (name, kind, size_bytes, sha256, uploaded_by, created_at) VALUES (?, ?, ?, ?, ?, ?)
"""
_GOOD_NAME = re.compile(r"[\w][\w .()+-]{0,127}")
_KINDS = {
    ".mkv": "video", ".mp4": "video", ".flac": "audio", ".mp3": "audio", ".zip": "archive",
    ".iso": "image", ".pdf": "document",
}  # fmt: skip


class UploadApi:
    """GET asks whether an upload would be taken now; POST uploads. Both count against the limit."""

    def __init__(
        self, database: Database, directory: Path, access: Access, journal: Journal | None = None
    ) -> None:
        self._database = database
        self._access = access
        self._directory = directory
        self._journal = journal

    async def remove_leftovers(self) -> None:
        """Remove what a killed process left of uploads in progress; other instances' own are younger."""
        await asyncio.to_thread(_remove_older, self._directory, time.time() - LEFTOVER_SECONDS)

    async def get(self, request: web.Request) -> web.Response:
        headers = await self._limit(request)
        return web.json_response(
            {"upload": "accepted", "method": "POST", "max_bytes": MAX_UPLOAD_BYTES}, headers=headers
        )

    async def post(self, request: web.Request) -> web.Response:
        """The body is the file, ``?name=`` its name; answers 201 with the file's id and SHA-256."""
        headers = await self._limit(request)
        name = request.query.get("name", "")
        if not _GOOD_NAME.fullmatch(name):
            raise bad_request("name: expected 1 to 128 letters, digits, spaces or any of . ( ) + - _")
        user = request.query.get("user_id")
        user_id = parse_user_id(user) if user is not None else None
        if user_id is not None and not await self._database.fetch(
            "SELECT id FROM users WHERE id = ?", (user_id,)
        ):
            raise ApiError(404, "no_such_user", f"There is no user {user_id}.")
        kind = _KINDS.get(Path(name).suffix.lower(), "document")

        async def add(query: str, params: tuple[object, ...]) -> int:
            return await self._database.write(query, params)

        async with self._received(request) as (size, digest, keep):
            # Through the optimizer, which drops the cached results that read the table.
            file_id = await QueryOptimizer.get_instance().execute(
                ADD_FILE, (name, kind, size, digest, user_id, int(time.time())), add
            )
            keep()
        await CacheManager.get_instance().invalidate_tags(tags_of_name(name))
        if self._journal is not None:
            self._journal.note("upload", user_id, file_id=file_id, name=name, size_bytes=size)
        return web.json_response(
            {"file_id": file_id, "name": name, "kind": kind, "size_bytes": size, "sha256": digest},
            status=201,
            headers=headers,
        )

    async def _limit(self, request: web.Request) -> dict[str, str]:
        """Take a token, or raise 429.

        The client is the address, whoever it says it uploads for: a user that anybody may name could be
        locked out by anybody. Only of a bot that shows the service's token the user it names is believed.
        """
        user = request.query.get("user_id")
        client = f"ip:{client_of(client_address(request))}"
        if user is not None:
            user_id = parse_user_id(user)
            if self._access.bears_token(request):
                client = f"user:{user_id}"
        allowed, status = await RateLimiter.get_instance().is_allowed(client, UPLOAD_LIMIT)
        headers = {
            "X-RateLimit-Limit": str(status.limit),
            "X-RateLimit-Remaining": str(status.remaining),
            "X-RateLimit-Reset": str(math.ceil(status.reset_at)),
        }
        if allowed:
            return headers
        # Whole seconds, as RFC 9110 has it, and rounded up: sooner would be too soon.
        headers["Retry-After"] = str(math.ceil(status.retry_after))
        raise ApiError(
            429,
            "rate_limited",
            f"Too many uploads: retry after {status.retry_after:.3f} s.",
            headers=headers,
            retry_after=round(status.retry_after, 3),
        )

    @contextlib.asynccontextmanager
    async def _received(self, request: web.Request) -> AsyncIterator[tuple[int, str, Callable[[], None]]]:
        """Stream the body into the upload folder: (bytes, SHA-256, a function that makes it stay).

        Nothing is left of a broken one, nor of one that was not made to stay. Raises what ``chunks_of`` does.
        """
        if request.content_length is not None and request.content_length > MAX_UPLOAD_BYTES:
            raise _too_large()
        if request.content_type.startswith("multipart/"):
            raise ApiError(415, "unsupported_type", "Send the file's bytes as the body, not a form.")
        coding_of(request)  # before there is a file
        digest = hashlib.sha256()
        size = 0
        target = self._directory / f"{secrets.token_hex(16)}.part"
        file = await asyncio.to_thread(_create, target)
        try:
            try:
                async with deadline(), contextlib.aclosing(chunks_of(request)) as chunks:
                    async for chunk in chunks:
                        size += len(chunk)
                        if size > MAX_UPLOAD_BYTES:
                            raise _too_large()
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
            finally:
                file.close()
            if size == 0:
                raise bad_request("The body is empty: send the file's bytes.")
            # Named by content: the client's name never becomes a path.
            name = digest.hexdigest()
            yield size, name, lambda: os.replace(target, self._directory / name)
        finally:
            target.unlink(missing_ok=True)


def _remove_older(directory: Path, before: float) -> None:
    for path in directory.glob("*.part"):
        with contextlib.suppress(OSError):  # another instance may be doing the same
            if path.stat().st_mtime < before:
                path.unlink()


def _create(path: Path):  # type: ignore[no-untyped-def]  # io's type depends on the mode
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _too_large() -> ApiError:
    return ApiError(413, "too_large", f"An upload is at most {MAX_UPLOAD_BYTES:,} bytes.")
