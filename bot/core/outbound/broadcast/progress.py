"""Telling how far a broadcast is: the rate, the callback, a bar for terminals."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TextIO

from bot.core._shared.masking import masked_traceback, one_line
from bot.core.outbound.broadcast.models import BroadcastProgress

logger = logging.getLogger(__name__)

OnProgress = Callable[[BroadcastProgress], Awaitable[object] | object]

INTERVAL = 0.3
"""Seconds between two calls of ``on_progress`` at least."""

RATE_OVER = 10.0
"""Seconds that the rate is an average of."""

SAID_EACH = 60.0
"""Seconds between two lines of log about one trouble."""

LINE_EVERY = 30.0
"""Seconds between two lines where standard error is no terminal."""

BAR_LEAST, BAR_MOST = 10, 40
NAME_MOST = 24


class Rate:
    """How many per second in the last RATE_OVER seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=256)

    def now(self, now: float, done: int) -> float:
        """Take note of how many are done, and tell the rate."""
        seen = self._seen
        if not seen or now > seen[-1][0]:
            seen.append((now, done))
        while len(seen) > 2 and seen[1][0] <= now - RATE_OVER:
            seen.popleft()
        at, before = seen[0]
        return (done - before) / (now - at) if now > at else 0.0


class Troubles:
    """What a broadcast waits for or leaves out, in the log; of each kind a line in SAID_EACH seconds."""

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        self._name = name
        self._now = now
        self._said: dict[str, float] = {}

    def say(self, trouble: str, text: str, detail: str) -> None:
        """``trouble``: the kind; ``text``: what the log says, with a ``%s`` for the detail."""
        now = self._now()
        if now - self._said.get(trouble, float("-inf")) >= SAID_EACH:
            self._said[trouble] = now
            logger.warning(f"Broadcast %s: {text}", one_line(self._name), one_line(detail))


async def tell(on_progress: OnProgress, progress: BroadcastProgress) -> bool:
    """Call it, and await what it gives; False if it raised, which is logged and stops nothing."""
    try:
        told = on_progress(progress)
        if inspect.isawaitable(told):
            await told
    except Exception as error:
        logger.warning(
            "on_progress of broadcast %s raised an error; the broadcast continues\n%s",
            one_line(progress.name),
            masked_traceback(error),
        )
        return False
    return True


def terminal_progress(stream: TextIO | None = None) -> Callable[[BroadcastProgress], None]:
    """A progress bar as ``on_progress``, on standard error if no stream is given.

    A terminal gets one line that changes, never wider than the terminal. Anything else, a log file say, gets
    a whole line every 30 seconds and one at the end.
    """
    told_at: float | None = None

    def show(progress: BroadcastProgress) -> None:
        nonlocal told_at
        target = stream if stream is not None else sys.stderr
        if target is None or target.closed:  # a daemon's, or pythonw's
            return
        if target.isatty():
            # One column less: a terminal that is written full goes on to the next line.
            line = line_of(progress, max(1, _columns(target) - 1))
            target.write(f"\r\x1b[K{line}" + ("" if progress.running else "\n"))
        else:
            now = time.monotonic()
            if progress.running and told_at is not None and now - told_at < LINE_EVERY:
                return
            told_at = now
            target.write(line_of(progress, 200, bar=False) + "\n")
        target.flush()

    return show


def line_of(progress: BroadcastProgress, columns: int, *, bar: bool = True) -> str:
    """One line for people, at most so many columns wide."""
    done, total = progress.done, progress.total
    name = _cut(one_line(progress.name), NAME_MOST)
    counts = f"{done:,}" if total is None else f"{done:,}/{total:,}"
    share = None if not total else min(1.0, done / total)
    parts = [counts, f"{progress.rate:.1f}/s"]
    if share is not None:
        parts.insert(0, f"{int(share * 100)}%")
    if progress.running and progress.eta is not None:
        parts.append(f"{_duration(progress.eta)} left")
    gone = progress.blocked + progress.deactivated + progress.not_found
    if gone:
        parts.append(f"{gone:,} unreachable")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    text = " ".join(parts)
    room = min(BAR_MOST, columns - _cells(name) - len(text) - 4)
    if not bar or share is None or room < BAR_LEAST:
        return _cut(f"{name} {text}", columns)
    full = int(room * share)
    return f"{name} [{'#' * full}{'-' * (room - full)}] {text}"


def _cells(text: str) -> int:
    """Columns that a terminal gives the text: two for a wide letter, none for one that combines."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _cut(text: str, columns: int) -> str:
    while _cells(text) > columns:
        text = text[:-1]
    return text


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(min(seconds, 8_640_000.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
