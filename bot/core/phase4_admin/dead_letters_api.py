"""``GET dead-letters``: what the batch processor has given up, by pages, the newest first; and one item."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bot.core._shared.errors import BackendError, MisuseError
from bot.core._shared.masking import one_line
from bot.core.phase4_admin.actions import backend_error, running_service
from bot.core.phase4_admin.api_errors import ApiError, bad_request, unknown_parameters
from bot.core.phase4_admin.letters import SHORT, WHOLE, as_dict
from bot.core.phase4_admin.library import Library
from bot.core.phase4_admin.routes import Route

PAGE, MAX_PAGE, MAX_OFFSET = 50, 200, 100_000_000


class DeadLettersApi:
    """Reads only; replaying and dropping are actions."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def routes(self) -> list[Route]:
        """Below the mount's base."""
        return [
            Route("GET", "/dead-letters", self.page),
            Route("GET", "/dead-letters/{item_id}", self.one),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """``?offset=0&limit=50``: ``total``, and ``items`` with the beginning of their data."""
        if unknown := request.query.keys() - {"offset", "limit"}:
            raise unknown_parameters(unknown, "are offset and limit")
        offset = _number(request, "offset", 0, MAX_OFFSET, 0)
        limit = _number(request, "limit", 1, MAX_PAGE, PAGE)

        async def read() -> dict[str, Any]:
            batches = running_service(self._library, "batch_processor")
            items = [
                as_dict(letter, SHORT)
                async for letter in batches.iter_dead_letters(offset, limit, newest_first=True)
            ]
            return {"total": await batches.count_dead_letters(), "items": items}

        return await self._answer(read)

    async def one(self, request: web.Request) -> web.Response:
        """One item, with its data up to a bound."""
        item_id = request.match_info["item_id"]

        async def read() -> dict[str, Any]:
            letter = await running_service(self._library, "batch_processor").get_dead_letter(item_id)
            if letter is None:
                raise ApiError(404, "not_found", "This item is not among the dead letters (any more).")
            return as_dict(letter, WHOLE)

        return await self._answer(read)

    async def _answer(self, read: Any) -> web.Response:
        try:
            found = await self._library.there(read)
        except BackendError as error:
            raise backend_error(error) from error
        except MisuseError as error:
            raise bad_request(one_line(str(error), 300)) from error
        return web.json_response(
            found, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        )


def _number(request: web.Request, name: str, least: int, most: int, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        said = one_line(text, 20)
        raise bad_request(f"{name} = {said!r}: expected a whole number from {least} to {most:,}.")
    return int(text)
