"""What went wrong in Redis: counted each time, logged the first time."""

from __future__ import annotations

import logging

from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core.cache_manager.codec import OtherVersionError
from bot.core.redis_link import RedisUnavailableError

logger = logging.getLogger(__name__)


class Failures:
    """Operations of the cache that failed, and values that could not be read, since Redis was joined."""

    def __init__(self) -> None:
        self.errors = 0
        self.undecodable = 0
        self._refusal_logged = False

    def failed(self, error: Exception) -> None:
        """Count a failed operation; the first that is no outage is logged."""
        self.errors += 1
        if not isinstance(error, RedisUnavailableError) and not self._refusal_logged:
            # The link logs an outage, once; a refusal is another matter.
            self._refusal_logged = True
            if isinstance(error, BackendError):
                logger.warning("Redis refused a cache operation: %s", one_line(error))
            else:
                logger.warning("Redis answered a cache operation with nonsense: %s", one_line(error))

    def unreadable(self, error: Exception) -> None:
        """Count bytes that are no value; the first are logged. An earlier version's are a miss."""
        if isinstance(error, OtherVersionError):
            return
        self.undecodable += 1
        if self.undecodable == 1:
            logger.warning("A value in Redis cannot be read and counts as a miss: %s", one_line(error))
