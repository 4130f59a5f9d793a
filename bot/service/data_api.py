"""``GET /api/data``: what a bot's commands read, through the cache and the query optimizer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from bot.core.cache_manager import CacheManager
from bot.core.query_optimizer import QueryOptimizer
from bot.service.api_errors import ApiError, bad_request
from bot.service.database import Database, Row
from bot.service.middleware import CACHE_STATE

MAX_SEARCH_LENGTH = 64
ANSWERS = "api"
ANSWER_TTL = 60.0
FILES_TAG = "files"
"""On every cached answer: each of them reads the table of files, or may come to."""

USER = "SELECT id, username, tier, status, joined_at FROM users WHERE id = ?"
USER_TOTALS = """
SELECT status, COUNT(*) AS downloads, SUM(bytes_done) AS bytes
FROM downloads WHERE user_id = ? GROUP BY status ORDER BY status
"""
USER_RECENT = """
SELECT d.id, f.name, f.kind, d.status, d.bytes_done, d.started_at
FROM downloads AS d JOIN files AS f ON f.id = d.file_id
WHERE d.user_id = ? ORDER BY d.started_at DESC, d.id DESC LIMIT 10
"""
OVERVIEW = """
SELECT f.kind, COUNT(*) AS downloads, COUNT(DISTINCT d.user_id) AS users, SUM(d.bytes_done) AS bytes
FROM downloads AS d JOIN files AS f ON f.id = d.file_id
WHERE d.status = ? GROUP BY f.kind ORDER BY downloads DESC
"""
SEARCH = """
SELECT f.id, f.name, f.kind, f.size_bytes, COUNT(d.id) AS downloads
FROM files AS f LEFT JOIN downloads AS d ON d.file_id = f.id
WHERE f.name LIKE ? ESCAPE '\\'
GROUP BY f.id, f.name, f.kind, f.size_bytes ORDER BY downloads DESC, f.id LIMIT 20
"""


class DataApi:
    """Reads, each query through :meth:`QueryOptimizer.execute`; ``X-Cache`` tells what served them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, request: web.Request) -> web.Response:
        """``?user_id=N``: that user; ``?search=text``: files; neither: totals by kind of file."""
        unknown = set(request.query) - {"user_id", "search"}
        if unknown:
            raise bad_request(f"{', '.join(sorted(unknown))}: unknown; there are user_id and search.")
        if "user_id" in request.query and "search" in request.query:
            raise bad_request("Give user_id or search, not both.")
        reads = _Reads(self._database)
        if "user_id" in request.query:
            user_id = parse_user_id(request.query["user_id"])
            body = await self._cached(f"user:{user_id}", lambda: self._user(reads, user_id))
            if body is None:
                raise ApiError(404, "no_such_user", f"There is no user {user_id}.")
        elif "search" in request.query:
            text = _search_text(request.query["search"])
            body = await self._cached(f"search:{text}", lambda: self._search(reads, text))
        else:
            body = await self._cached("overview", lambda: self._overview(reads))
        request[CACHE_STATE] = reads.state()
        return web.json_response(body)

    async def _cached(self, key: str, load: Callable[[], Awaitable[Any]]) -> Any:
        """Whole answers, kept for all instances until a file is added; without the cache, just loaded."""
        cache = CacheManager.get_instance()
        return await cache.get_or_load(key, load, ANSWER_TTL, ANSWERS, tags=(FILES_TAG,))

    async def _overview(self, reads: _Reads) -> dict[str, Any]:
        return {"by_kind": await reads.fetch(OVERVIEW, ("done",))}

    async def _user(self, reads: _Reads, user_id: int) -> dict[str, Any] | None:
        rows = await reads.fetch(USER, (user_id,))
        if not rows:
            return None
        return {
            "user": rows[0],
            "totals": await reads.fetch(USER_TOTALS, (user_id,)),
            "recent": await reads.fetch(USER_RECENT, (user_id,)),
        }

    async def _search(self, reads: _Reads, text: str) -> dict[str, Any]:
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return {"search": text, "files": await reads.fetch(SEARCH, (f"%{escaped}%",))}


class _Reads:
    """The queries of one request, and whether any of them reached the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._optimizer = QueryOptimizer.get_instance()
        self._reached_database = False

    async def fetch(self, query: str, params: Sequence[Any]) -> list[Row]:
        found: list[Row] = await self._optimizer.execute(query, params, self._run)
        return found

    async def _run(self, query: str, params: Any) -> list[Row]:
        self._reached_database = True
        return await self._database.fetch(query, params)

    def state(self) -> str:
        if not self._optimizer.enabled and not CacheManager.get_instance().enabled:
            return "off"
        return "miss" if self._reached_database else "hit"


def _search_text(text: str) -> str:
    text = text.strip()
    if not 2 <= len(text) <= MAX_SEARCH_LENGTH:
        raise bad_request(f"search: expected 2 to {MAX_SEARCH_LENGTH} characters, not {len(text)}.")
    return text


def parse_user_id(text: str) -> int:
    """A user id of a query string; raises ApiError 400."""
    # isascii too: isdigit accepts digits of every script, and superscripts that int refuses.
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:20]) <= 2**63 - 1 or len(text) > 20:
        raise bad_request(f"user_id = {text[:40]!r}: expected a whole number of 1 or more.")
    return int(text)
