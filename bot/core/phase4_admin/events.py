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
_FIGURES = re.compile(r"(?<![\w.:-])\d+(?:\.\d+)?(?![\w:-])")
"""Numbers that stand alone; in ``bot-3`` and ``10.0.0.1:8000`` they are part of a name."""

_ERROR = re.compile(
    r"[A-Z]\w{0,80}(?:Error|Exception|Failure|Timeout|Exit|Interrupt|Closed|Refused|Limited|After|Wait)\b"
)
"""A class of errors by its name: it says why, and holds nothing of a user's. Its message may."""

_ADDRESS = re.compile(r"https?://[\w.:\[\]-]{1,80}")

_REASONS = frozenset(
    """a added again answer answered are at balancer check check(s) checks drained ejection enabled failed
    failing failures false for good half health healthy HTTP in instances is last load no not of off open out
    over progress reachable request request(s) requests returned row s slow start still succeeded the to trial
    value within""".split()
)
"""Words of which the load balancer's own reasons consist."""


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
        text = record.getMessage()
    else:
        text = str(record.msg)
        if record.args:
            keep = _words_or_hidden if record.name.startswith(_NAMES_SHOWN) else _number_or_hidden
            hidden: Any
            if isinstance(record.args, tuple):
                hidden = tuple(keep(arg) for arg in record.args)
            else:
                hidden = {name: keep(arg) for name, arg in record.args.items()}
            text = text % hidden
    return one_line(text.partition("\n")[0], MAX_TEXT)  # the traceback is for the log


def _number_or_hidden(value: object) -> object:
    if isinstance(value, int | float):
        return value
    if isinstance(value, BaseException):
        return _Shown(type(value).__name__)
    text = str(value)
    name = _ERROR.match(text)
    return _HIDDEN if name is None else _Shown(name[0] if name[0] == text else f"{name[0]}: …")


def _words_or_hidden(value: object) -> object:
    if isinstance(value, Enum):
        value = value.value
    text = str(value)
    return text if _NAME.fullmatch(text) else _Shown(_reason(text))


def _reason(text: str) -> str:
    """A load balancer's reason, with the names of errors and without what they say."""
    parts = []
    for part in text[:MAX_TEXT].split("; "):
        error = _ERROR.search(part)
        own = part if error is None else part[: error.start()]
        words = [
            word
            if word.strip(",:%") in _REASONS or not word.strip(",:%.0123456789") or _ADDRESS.fullmatch(word)
            else "…"
            for word in own.split()
        ]
        if error is not None:
            words.append(f"{error[0]}: …" if part[error.end() :] else error[0])
        parts.append(" ".join(words))
    return re.sub(r"…(?:[ ;]*…)+", "…", "; ".join(parts))


class _Shown:
    """A text as it is, also for ``%r``."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


_HIDDEN = _Shown("…")
