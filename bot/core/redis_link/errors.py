"""Why a call to Redis failed."""

from __future__ import annotations

from bot.core._shared.errors import BackendError


class RedisUnavailableError(BackendError):
    """Redis cannot be reached, or did not answer in time."""


class RedisCrowdedError(RedisUnavailableError):
    """Redis takes no more connections, and none that stands was free."""


class RedisRefusedError(BackendError):
    """Redis answered with an error, such as that its memory is full."""
