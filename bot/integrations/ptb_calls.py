"""Requests of python-telegram-bot as flood control makes them: errors, and files."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from telegram import Bot, InputFile
from telegram.error import BadRequest, NetworkError, RetryAfter

if TYPE_CHECKING:
    from bot.core.outbound import Request

Callback = Callable[..., Coroutine[Any, Any, Any]]
"""What a bot hands its rate limiter to be called."""

_TOO_MANY = re.compile(r"too many requests(?:: retry after (\d{1,9}))?", re.IGNORECASE)


def bot_id_of(callback: Callback) -> int:
    """The id of the bot whose method it is; its token begins with it. 0: unknown."""
    caller = getattr(callback, "__self__", None)
    number = caller.token.partition(":")[0] if isinstance(caller, Bot) else ""
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= 20 else 0


class _AsRefusal:
    """Tells of an error what python-telegram-bot leaves out.

    A 429 without a wait, or from a proxy, comes as NetworkError. And no error has its code: servers send a
    ``retry_after`` with 429 alone, when nothing was done; of an album that was sent in part a BadRequest says
    in its text how long the rest is to wait.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RetryAfter):
            error.error_code = 429  # type: ignore[attr-defined]
        elif isinstance(error, BadRequest):
            error.error_code = 400  # type: ignore[attr-defined]
        elif type(error) is NetworkError:
            found = _TOO_MANY.match(error.message)
            if found is not None:
                refusal = RetryAfter(int(found[1] or 0) or 1)
                refusal.error_code = 429  # type: ignore[attr-defined]
                raise refusal from error


as_refusal = _AsRefusal()


def replaced(request: Request, **changes: Any) -> Request:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return type(request)(**fields | changes)


def is_read_once(data: Mapping[str, Any]) -> bool:
    """Whether the request uploads a stream that cannot be read from its beginning again."""
    for value in data.values():
        for part in value if isinstance(value, list | tuple) else (value,):
            for held in (part, *(getattr(part, name, None) for name in _FILES)):
                if isinstance(held, InputFile) and not isinstance(held.input_file_content, bytes):
                    seekable = getattr(held.input_file_content, "seekable", None)
                    if not (callable(seekable) and seekable()):
                        return True
    return False


_FILES = ("media", "thumbnail", "sticker", "photo", "animation", "video", "cover")
