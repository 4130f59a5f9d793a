"""What the event loop reports by itself: masked, few lines, and no traceback for a full table of files."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Any

from bot.core._shared.masking import masked_traceback, one_line

logger = logging.getLogger("bot.loop")

LOG_SECONDS = 60.0
LINES_PER_MINUTE = 20

_ABOUT = ("task", "future", "handle", "transport")
_FULL = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class LoopErrors:
    """An exception handler for ``loop.set_exception_handler``.

    asyncio's own writes the texts of errors as they are, and a traceback for every connection that it could
    not take, many at a time.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # Changed by __call__ and its helpers.
        self._told_full = float("-inf")
        self._full = 0
        self._since = float("-inf")
        self._lines = 0
        self._left_out = 0

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _FULL and "socket" in context:
            self._tell_full(error)
            return
        now = self._now()
        if now - self._since >= LOG_SECONDS:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines > LINES_PER_MINUTE:
            self._left_out += 1
            return
        more = f" ({self._left_out} more were not logged)" if self._left_out else ""
        self._left_out = 0
        what = context.get("message") or "An error in the event loop"
        if isinstance(error, BaseException):
            logger.error("%s%s\n%s", one_line(what), more, masked_traceback(error))
            return
        about = next(
            (context[key] for key in ("task", "future", "handle", "transport") if key in context), ""
        )
        logger.error("%s%s: %s", one_line(what), more, one_line(repr(about)))

    def _tell_full(self, error: OSError) -> None:
        self._full += 1
        now = self._now()
        if now - self._told_full >= LOG_SECONDS:
            logger.error(
                "Connections cannot be accepted (%s), %d time(s) since the last message. Next try in a "
                "second; raise the limit of open files (ulimit -n; systemd: LimitNOFILE=)",
                one_line(error.strerror or error), self._full,
            )  # fmt: skip
            self._told_full, self._full = now, 0
