"""Why a call to Redis failed."""

from __future__ import annotations

from bot.core._shared.errors import BackendError


class RedisUnavailableError(BackendError):
    """Redis cannot be reached, or did not answer in time."""


class RedisRefusedError(BackendError):
    """Redis answered with an error, such as that its memory is full."""
