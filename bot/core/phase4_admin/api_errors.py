"""Errors as the API's clients see them: JSON with a code, a sentence and the request's id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bot.core._shared.masking import one_line


class ApiError(Exception):
    """Answered with ``status`` and a JSON body; ``code`` is for programs, ``message`` for people."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}
        self.more = more


def bad_request(message: str) -> ApiError:
    return ApiError(400, "bad_request", message)


def unknown_parameters(unknown: Iterable[str], there: str) -> ApiError:
    """400 for names in a query string that mean nothing here; ``there``: those that do."""
    return bad_request(f"{one_line(', '.join(sorted(unknown)), 200)}: unknown; there {there}.")
