"""Errors of the query optimizer."""

from __future__ import annotations

from bot.core._shared.errors import BackendError, MisuseError


class QueryTooComplexError(MisuseError):
    """A GraphQL query is deeper or costs more than the settings allow; it was not executed.

    ``depth`` and ``complexity`` are the measured figures; None if the text was too large to measure.
    """

    def __init__(
        self,
        message: str = "GraphQL query refused: it is too complex",
        *,
        depth: int | None = None,
        complexity: int | None = None,
    ) -> None:
        super().__init__(message)
        self.depth = depth
        self.complexity = complexity


class QueryTimeoutError(BackendError, TimeoutError):
    """The executor of a read did not answer in time; every caller that waited for it gets this error."""
