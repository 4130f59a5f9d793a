"""Errors as the API's clients see them: JSON with a code, a sentence and the request's id."""

from __future__ import annotations

import re
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


_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://\S+|\b[\w.-]*\w:\d{2,5}\b")


def without_addresses(text: str) -> str:
    """A text for a client, who must not see where servers are: ``Redis at (address) is away``."""
    return _ADDRESS.sub("(address)", text)


def unknown_parameters(unknown: Iterable[str], there: str) -> ApiError:
    """400 for names in a query string that mean nothing here; ``there``: those that do."""
    return bad_request(f"{one_line(', '.join(sorted(unknown)), 200)}: unknown; there {there}.")
