"""Who did what to the running bot: a line for each action, in the log and in a bounded memory."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bot.core._shared.masking import one_line

logger = logging.getLogger(__name__)

KEPT = 200
"""Lines of those who may act; strangers have as many of their own, so they drive none of these out."""

STRANGERS_A_MINUTE = 20
"""Lines for requests without access; more are counted, and told by the next line."""


class Line(NamedTuple):
    """One action, done or refused."""

    at: float
    """Unix time."""
    action: str
    target: str
    outcome: str
    by: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with its time in UTC."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds")
        return {**self._asdict(), "at": at}


class Audit:
    """The last lines, the newest first.

    What users and clients have chosen is masked, cut, and without line breaks; in the log it is quoted, so
    that no part of it passes for another part of the line.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self._of_strangers: deque[Line] = deque(maxlen=KEPT)
        # Changed by refused_stranger: when the running minute began, lines in it, and those left out.
        self._minute = float("-inf")
        self._told = self._left_out = 0

    def record(self, action: str, target: str, outcome: str, by: str) -> None:
        """An action of somebody who may act: what became of it."""
        self._lines.append(self._log(action, target, outcome, by))

    def refused_stranger(self, action: str, outcome: str, by: str) -> None:
        """An action that was asked for by somebody who may not act."""
        now = self._wall()
        if not 0.0 <= now - self._minute < 60.0:
            self._minute, self._told = now, 0
        if self._told >= STRANGERS_A_MINUTE:
            self._left_out += 1
            return
        self._told += 1
        if self._left_out:
            outcome = f"{outcome} (and {self._left_out} more refusals before)"
            self._left_out = 0
        self._of_strangers.append(self._log(action, "", outcome, by))

    def lines(self) -> list[Line]:
        """At most KEPT, of both."""
        both = sorted([*self._lines, *self._of_strangers], key=lambda line: line.at, reverse=True)
        return both[:KEPT]

    def _log(self, action: str, target: str, outcome: str, by: str) -> Line:
        line = Line(
            self._wall(),
            one_line(action, 60),
            one_line(target, 300),
            one_line(outcome, 300),
            one_line(by, 100),
        )
        logger.info(
            "%s %s by %s: %s",
            one_line(line.action),
            one_line(json.dumps(line.target, ensure_ascii=False)),
            one_line(line.by),
            one_line(line.outcome),
        )
        return line
