"""``GET /api/data``: what a bot's commands read, through the cache and the query optimizer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from bot.core.cache_manager import CacheManager, LoadOptions
from bot.core.phase4_admin.api_errors import ApiError, bad_request, unknown_parameters
from bot.core.query_optimizer import QueryOptimizer
from bot.service.database import Database, Row
from bot.service.middleware import CACHE_STATE, DATA_SECONDS

MIN_SEARCH_LENGTH, MAX_SEARCH_LENGTH = 2, 64
_LETTERS = 8
MOST_FOUND = 20
"""Files in the answer to a search: the LIMIT of its query."""

ANSWERS = "api"
ANSWER_TTL = 60.0

EXACT = LoadOptions()
"""Until a write drops it."""

COUNTS_TTL = 30.0
"""Seconds that an answer which counts everybody's downloads may lag behind them: totals, and how often the
files that a search found were downloaded. Somebody downloads something all the time, so such an answer that
had to be exact would never be cached."""

COUNTS = LoadOptions(early_refresh=1.0, ttl_jitter=10)
"""Values that many clients read are loaded again in the background before they expire."""

_ENCODER = msgspec.json.Encoder()

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


def search_tag(text: str) -> str:
    """The tag of a cached search: only files whose name holds these letters can change its answer."""
    return f"search:{text.casefold()[:_LETTERS]}"


def is_full(answer: dict[str, Any]) -> bool:
    """Whether a search found as many files as it shows: then a new one, which has no downloads, changes
    nothing, as it sorts last."""
    return len(answer["files"]) >= MOST_FOUND


def user_tag(user_id: int) -> str:
    """The tag of what is answered about one user."""
    return f"user:{user_id}"


def tags_of_name(name: str) -> list[str]:
    """The tags of every search that a file of this name can change. Others keep their cached answers."""
    folded = name.casefold()
    found = {
        folded[start : start + length]
        for length in range(MIN_SEARCH_LENGTH, _LETTERS + 1)
        for start in range(len(folded) - length + 1)
    }
    return [f"search:{letters}" for letters in sorted(found)]


class DataApi:
    """Reads, each query through :meth:`QueryOptimizer.execute`; ``X-Cache`` tells what served them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, request: web.Request) -> web.Response:
        """``?user_id=N``: that user; ``?search=text``: files; neither: totals by kind of file."""
        unknown = set(request.query) - {"user_id", "search"}
        if unknown:
            raise unknown_parameters(unknown, "are user_id and search")
        if "user_id" in request.query and "search" in request.query:
            raise bad_request("Give user_id or search, not both.")
        user_id = parse_user_id(request.query["user_id"]) if "user_id" in request.query else None
        body, request[CACHE_STATE], request[DATA_SECONDS] = await self.read(
            user_id, request.query.get("search")
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def read(self, user_id: int | None, search: str | None) -> tuple[bytes, str, float]:
        """An answer as JSON, what served it, and the seconds it took; raises ApiError 400 and 404."""
        reads = _Reads(self._database)
        start = time.perf_counter()
        if user_id is not None:
            body = await self._cached(
                f"user:{user_id}", (user_tag(user_id),), lambda: self._user(reads, user_id)
            )
            if body is None:
                raise ApiError(404, "no_such_user", f"There is no user {user_id}.")
        elif search is not None:
            text = _search_text(search)
            body = await self._cached(
                f"search:{text}",
                lambda answer: () if is_full(answer) else (search_tag(text),),
                lambda: self._search(reads, text),
                COUNTS_TTL,
                COUNTS,
            )
        else:
            body = await self._cached("overview", (), lambda: self._overview(reads), COUNTS_TTL, COUNTS)
        assert body is not None  # only of a user there can be nothing
        return body, reads.state(), time.perf_counter() - start

    async def _cached(
        self,
        key: str,
        tags: Sequence[str] | Callable[[Any], Sequence[str]],
        load: Callable[[], Awaitable[Any]],
        ttl: float = ANSWER_TTL,
        options: LoadOptions = EXACT,
    ) -> bytes | None:
        """Whole answers, encoded, kept for all instances until a write drops them; else just loaded.

        ``tags`` may be a function of the answer.
        """
        answer: Any = None

        async def encoded() -> bytes | None:
            nonlocal answer
            async with self._database.one_connection():
                answer = await load()
            return None if answer is None else _ENCODER.encode(answer)

        found: bytes | None = await CacheManager.get_instance().get_or_load(
            key,
            encoded,
            ttl,
            ANSWERS,
            tags=(lambda _: tags(answer)) if callable(tags) else tags,
            options=options,
        )
        return found

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
    if not MIN_SEARCH_LENGTH <= len(text) <= MAX_SEARCH_LENGTH:
        raise bad_request(
            f"search: expected {MIN_SEARCH_LENGTH} to {MAX_SEARCH_LENGTH} characters, not {len(text)}."
        )
    if not text.isprintable():
        raise bad_request("search: expected no control characters.")
    return text


def parse_user_id(text: str) -> int:
    """A user id of a query string; raises ApiError 400."""
    # isascii too: isdigit accepts digits of every script, and superscripts that int refuses.
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:20]) <= 2**63 - 1 or len(text) > 20:
        raise bad_request(f"user_id = {text[:40]!r}: expected a whole number from 1 to {2**63 - 1}.")
    return int(text)
