"""``GET /api/activity``: what users did of late, from the journal in MongoDB."""

from __future__ import annotations

from aiohttp import web

from bot.core.phase4_admin.api_errors import ApiError, unknown_parameters
from bot.service.data_api import parse_user_id
from bot.service.journal import Journal, JournalUnavailableError

LIMIT = 50


class ActivityApi:
    """Reads the journal; ``journal`` is None without ``MONGODB_URL``."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    async def get(self, request: web.Request) -> web.Response:
        """``?user_id=N``: that user's last 50 actions; without: everybody's. Newest first."""
        if unknown := set(request.query) - {"user_id"}:
            raise unknown_parameters(unknown, "is user_id")
        user = request.query.get("user_id")
        user_id = parse_user_id(user) if user is not None else None
        if self._journal is None:
            raise ApiError(404, "no_journal", "No journal is kept: MONGODB_URL is not set.")
        try:
            found = await self._journal.latest(user_id, LIMIT)
        except JournalUnavailableError:
            raise ApiError(
                503, "journal_unavailable", "The journal cannot be read now; try again soon.",
                headers={"Retry-After": "5"},
            ) from None  # fmt: skip
        return web.json_response({"activity": found})
