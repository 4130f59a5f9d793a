"""What went wrong in Redis: counted each time, logged the first time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core._shared.registered_types import OtherTypeError
from bot.core.cache_manager.codec import OtherVersionError
from bot.core.cache_manager.compression import MissingZstdError
from bot.core.redis_link import RedisUnavailableError

logger = logging.getLogger(__name__)


class Failures:
    """How many operations failed, and how many values could not be read, since Redis was joined."""

    def __init__(self) -> None:
        self.errors = 0
        self.undecodable = 0
        self._refusal_logged = False
        self._miss_logged: set[type[Exception]] = set()
        self._unreadable_logged = False
        self.on_failure: Callable[[Exception], None] | None = None
        """Called with each failure; set by the cache, for its hooks."""

    def failed(self, error: Exception) -> None:
        """Count a failed operation; the first one that is not an outage is logged."""
        self.errors += 1
        if self.on_failure is not None:
            self.on_failure(error)
        if not isinstance(error, RedisUnavailableError) and not self._refusal_logged:
            # The link logs an outage, once; refusals are logged here.
            self._refusal_logged = True
            if isinstance(error, BackendError):
                logger.warning("Redis refused a cache operation: %s", one_line(error))
            else:
                logger.warning("Redis gave a cache operation an invalid answer: %s", one_line(error))

    def unreadable(self, error: Exception) -> None:
        """Count bytes that are not a value, and log the first. Values of an earlier version are misses."""
        if isinstance(error, OtherVersionError):
            return
        self.undecodable += 1
        if isinstance(error, OtherTypeError | MissingZstdError):
            if type(error) not in self._miss_logged:
                self._miss_logged.add(type(error))
                logger.warning("A value in Redis counts as a miss: %s", one_line(error))
            return
        if not self._unreadable_logged:
            self._unreadable_logged = True
            logger.warning("A value in Redis cannot be read and counts as a miss: %s", one_line(error))
