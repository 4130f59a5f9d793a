"""What happened lately: the library's log lines of note, without user content, in a bounded ring."""

from __future__ import annotations

import logging
import re
from collections import deque
from enum import Enum
from typing import Any

from msgspec import Struct

from bot.core._shared.masking import one_line

MAX_EVENTS = 100
MAX_TEXT = 300

LOGGER = "bot.core"

_SHOWN_IN_FULL = (
    "bot.core.connection_pool_manager",
    "bot.core.enhanced_startup_phase4",
    "bot.core.query_optimizer",
    "bot.core.redis_link",
)
"""Loggers whose lines hold names of pools, addresses, and query shapes, but nothing of a user's."""


_NAMES_SHOWN = "bot.core.load_balancer"
"""Here single words are ids and states of instances; longer texts may quote a handler's error."""

_NAME = re.compile(r"[\w.:-]{1,64}")
_FIGURES = re.compile(r"\d+(?:\.\d+)?")


class Event(Struct):
    """One line; the same line again, with whatever figures, counts on."""

    time: float
    """Unix time in seconds, of the last one."""
    level: str
    source: str
    text: str
    count: int


class EventLog(logging.Handler):
    """Keeps the last lines that the library logs at INFO or above.

    Of loggers that are not known to be free of user content (a cache logs keys), only the words of the
    line and its numbers are kept.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        # Changed by emit, under the handler's lock.
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.changes = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = text_of(record)
        except Exception:
            self.handleError(record)
            return
        source = record.name.removeprefix(f"{LOGGER}.").partition(".")[0]
        self.changes += 1
        # The same line with other figures is the same event: it must not push the others out.
        shape = _FIGURES.sub("#", text)
        for event in self._events:
            if event.source == source and _FIGURES.sub("#", event.text) == shape:
                self._events.remove(event)
                event.time, event.text, event.count = record.created, text, event.count + 1
                self._events.append(event)
                return
        self._events.append(Event(record.created, record.levelname.lower(), source, text, 1))

    def latest(self) -> list[Event]:
        """The newest first."""
        self.acquire()
        try:
            return list(reversed(self._events))
        finally:
            self.release()


def text_of(record: logging.LogRecord) -> str:
    """What of a log line may be shown."""
    if record.name.startswith(_SHOWN_IN_FULL):
        text = record.getMessage().partition("\n  | ")[0]  # the traceback is for the log
    else:
        text = str(record.msg)
        if record.args:
            keep = _name_or_hidden if record.name.startswith(_NAMES_SHOWN) else _number_or_hidden
            hidden: Any
            if isinstance(record.args, tuple):
                hidden = tuple(keep(arg) for arg in record.args)
            else:
                hidden = {name: keep(arg) for name, arg in record.args.items()}
            text = text % hidden
    return one_line(text, MAX_TEXT)


def _number_or_hidden(value: object) -> object:
    return value if isinstance(value, int | float) else _HIDDEN


def _name_or_hidden(value: object) -> object:
    if isinstance(value, Enum):
        value = value.value
    text = str(value)
    return text if _NAME.fullmatch(text) else _HIDDEN


class _Hidden:
    def __repr__(self) -> str:
        return "…"


_HIDDEN = _Hidden()
