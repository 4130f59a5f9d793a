"""``GET /health``: one word for everybody, all of it for those who may look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from bot.core._shared import __version__
from bot.core._shared.masking import one_line
from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.library import Library
from bot.core.phase4_admin.request_guard import is_foreign

Check = Callable[[], Awaitable[str]]
"""A host's own check: why it cannot do its work, in words; empty: it can."""

Figures = Callable[[], Awaitable[Mapping[str, Any]]]
"""What a host adds to the answer for those who may look."""


class HealthApi:
    """200 while the bot can do its work, 503 when the host's own check says that it cannot."""

    def __init__(
        self, library: Library, access: Access, check: Check | None, figures: Figures | None
    ) -> None:
        self._library = library
        self._access = access
        self._check = check
        self._figures = figures

    async def get(self, request: web.Request) -> web.Response:
        """``status``: "ok" or "down"; with access also "degraded", and every figure."""
        trouble = await self._trouble()
        code = 503 if trouble else 200
        headers = {"Cache-Control": "no-store"}
        # A host may let pages of other sites read its answers (CORS); of this one they read the word.
        if is_foreign(request) or not self._access.may_look(request):
            return web.json_response({"status": "down" if trouble else "ok"}, status=code, headers=headers)
        status = await self._library.there(self._library.status)
        degraded = _degraded(status)
        body: dict[str, Any] = {
            "status": "down" if trouble else "degraded" if degraded else "ok",
            "version": __version__,
            **({"reason": trouble} if trouble else {}),
            "degraded": degraded,
            **(await self._figures() if self._figures is not None else {}),
            "phase4": status,
        }
        return web.json_response(body, status=code, headers=headers)

    async def _trouble(self) -> str:
        if self._check is None:
            return ""
        try:
            return one_line(await self._check() or "", 300)
        except Exception as error:
            return one_line(f"the host's check failed: {type(error).__name__}: {error}", 300)


def _degraded(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The services that do not work as they are set, why, and since when."""
    return [
        {"service": service, **state}
        for service, state in status.get("states", {}).items()
        if state["state"] in ("degraded", "failed")
    ]
