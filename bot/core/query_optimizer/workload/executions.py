"""What logs and a server's statistics say about statements that ran (pure)."""

from __future__ import annotations

from typing import NamedTuple


class Execution(NamedTuple):
    """One execution of a statement, or many of one shape together."""

    text: str
    seconds: float
    """The time of all calls together."""
    calls: int = 1
    """0 for a part of an execution that is counted elsewhere, as the parsing of a prepared statement."""
    longest: float | None = None
    """Seconds of the longest call, where ``seconds`` is of many; None if it is not known."""
    rows: float | None = None
    """Rows that all calls returned together; None if it is not known."""
    parameters: tuple[str | None, ...] | None = None
    """Values of ``$1``, ``$2``... as texts, None for NULL; None altogether if they are not known."""
    at: float | None = None
    """When it ended, in Unix seconds by the clock of the log."""
    session: str = ""
    """What tells the connection in its source, if anything does."""
    user: str = ""
    database: str = ""
    nested: bool = False
    """Whether it ran within another statement (in a function), whose time has it too."""


class SourceError(Exception):
    """A source that cannot be read; the message says why, and what to do."""
