"""What a request carries: parameters of its query, JSON, form or multipart body, and files."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, ClientResponse, MultipartReader, web
from aiohttp.multipart import MultipartResponseWrapper
from msgspec import Struct

from bot.testing.telegram_world import MAX_FILE_BYTES, ApiError, Json, bad

MAX_BODY_BYTES = 1024 * 1024
"""Of a body without files, and of a parameter in one with files."""

MAX_PARAMETERS = 1_000


class Upload(Struct, frozen=True):
    """A file in a multipart body."""

    name: str
    mime: str
    content: bytes


class Arguments:
    """Parameters and files, read by type; raises ApiError for what Telegram would not take."""

    def __init__(self, given: Json, uploads: dict[str, Upload]) -> None:
        self.given = given
        self.uploads = uploads

    def logged(self) -> Json:
        """The parameters as the log keeps them: of a file its name and size."""
        files = {
            key: {"name": upload.name, "bytes": len(upload.content)} for key, upload in self.uploads.items()
        }
        return {**self.given, **files}

    def text(self, name: str) -> str:
        """A text, "" if it is not given."""
        value = self.given.get(name)
        return "" if value is None else str(value)

    def flag(self, name: str) -> bool:
        """A Boolean, False if it is not given."""
        return str(self.given.get(name, "")).lower() in ("true", "1", "yes")

    def number(self, name: str, otherwise: int = 0) -> int:
        """A whole number."""
        value = self.given.get(name)
        if value is None or value == "":
            return otherwise
        try:
            return int(str(value))
        except ValueError:
            raise bad(f"invalid {name} specified") from None

    def value(self, name: str) -> Any:
        """An object or a list, as JSON text or as it came in a JSON body; None if it is not given."""
        value = self.given.get(name)
        if not isinstance(value, str):
            return value
        if not value:
            return None
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise bad(f"can't parse {name}: can't parse JSON object") from None

    def listed(self, name: str) -> list[Any]:
        """A list, empty if it is not given."""
        value = self.value(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise bad(f"can't parse {name}: expected an Array")
        return value

    def mapping(self, name: str) -> Json | None:
        """An object, None if it is not given."""
        value = self.value(name)
        if value is not None and not isinstance(value, dict):
            raise bad(f"can't parse {name}: expected an Object")
        return value


async def read_arguments(request: web.Request) -> Arguments:
    """The parameters of a request, those of the body over those of the query. Raises ApiError."""
    given: Json = dict(request.query)
    uploads: dict[str, Upload] = {}
    if request.content_type == "application/json":
        try:
            body = json.loads(await _limited(request) or b"{}")
        except (ValueError, RecursionError):
            raise bad("can't parse request: can't parse JSON object") from None
        if not isinstance(body, dict):
            raise bad("can't parse request: object expected")
        given.update(body)
    elif request.content_type == "multipart/form-data":
        try:
            await _read_parts(await request.multipart(), given, uploads)
        except ValueError:
            raise bad("can't parse multipart body") from None
    elif request.can_read_body:
        try:
            pairs = parse_qsl((await _limited(request)).decode(), keep_blank_values=True)
        except ValueError:
            raise bad("strings must be encoded in UTF-8") from None
        given.update(pairs[:MAX_PARAMETERS])
    return Arguments(given, uploads)


async def _limited(request: web.Request) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, "Request Entity Too Large")
    return bytes(body)


async def read_reply(response: ClientResponse) -> Arguments:
    """A webhook's answer, which may be a request: its method is among the parameters. Raises ApiError."""
    given: Json = {}
    uploads: dict[str, Upload] = {}
    try:
        if response.content_type.startswith("multipart/"):
            await _read_parts(MultipartReader.from_response(response), given, uploads)
        else:
            body = json.loads(await response.content.read(MAX_BODY_BYTES) or b"{}")
            given = body if isinstance(body, dict) else {}
    except (ValueError, RecursionError):
        return Arguments({}, {})  # such as "ok"
    return Arguments(given, uploads)


async def _read_parts(
    parts: MultipartReader | MultipartResponseWrapper, given: Json, uploads: dict[str, Upload]
) -> None:
    async for part in parts:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise bad("can't parse multipart body")
        if len(given) + len(uploads) >= MAX_PARAMETERS:
            raise bad("too many parameters")
        limit = MAX_BODY_BYTES if part.filename is None else MAX_FILE_BYTES
        content = bytearray()
        while chunk := await part.read_chunk(1 << 16):
            content += chunk
            if len(content) > limit:
                raise ApiError(413, "Request Entity Too Large")
        if part.filename is None:
            given[part.name] = content.decode()
        else:
            mime = part.headers.get("Content-Type", "application/octet-stream")
            uploads[part.name] = Upload(part.filename, mime, bytes(content))
