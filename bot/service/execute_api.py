"""``POST /api/execute``: a bot command as JSON, which is what peers ask through the load balancer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bot.core._shared.masking import one_line
from bot.core.phase4_admin.api_errors import bad_request
from bot.core.phase4_admin.request_guard import check_json
from bot.service.bodies import read_json
from bot.service.data_api import DataApi
from bot.service.middleware import CACHE_STATE, DATA_SECONDS


class Command(Struct, forbid_unknown_fields=True):
    """The body of a request. Every command only reads, so a balancer may repeat it."""

    command: Literal["data", "ping"]
    user_id: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    search: str | None = None


_DECODER = msgspec.json.Decoder(Command)


class ExecuteApi:
    """``data`` with ``user_id`` or ``search`` or neither, as ``GET /api/data``; ``ping`` with nothing.

    200 answers ``{"command": ..., "result": ...}``; 400 and 404 say what is wrong with the command.
    """

    def __init__(self, data: DataApi) -> None:
        self._data = data

    async def post(self, request: web.Request) -> web.Response:
        """Execute one command."""
        check_json(request)
        try:
            command = _DECODER.decode(await read_json(request))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError included
            raise bad_request(
                f'body: expected JSON such as {{"command": "data"}}: {one_line(str(error))}.'
            ) from None
        if command.command == "ping":
            if command.user_id is not None or command.search is not None:
                raise bad_request("ping takes no arguments.")
            return _answer(b'{"command":"ping","result":"pong"}')
        if command.user_id is not None and command.search is not None:
            raise bad_request("Give user_id or search, not both.")
        body, request[CACHE_STATE], request[DATA_SECONDS] = await self._data.read(
            command.user_id, command.search
        )
        return _answer(b'{"command":"data","result":' + body + b"}")


def _answer(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json", charset="utf-8")
