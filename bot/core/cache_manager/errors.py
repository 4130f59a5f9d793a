"""Errors of the cache."""

from __future__ import annotations

from bot.core._shared.errors import (
    CapacityError,
    CircularLoadError,
    CorruptPayloadError,
    MisuseError,
    Phase4Error,
    UnsupportedValueError,
)

__all__ = [
    "CircularLoadError",
    "CorruptPayloadError",
    "LoaderTimeoutError",
    "LockTimeoutError",
    "NotAnIntegerError",
    "UnsupportedValueError",
]


class LoaderTimeoutError(Phase4Error, TimeoutError):
    """A loader took longer than its hard timeout, and there was no stale value to serve."""


class NotAnIntegerError(MisuseError, TypeError):
    """``incr`` of a value that is no integer; the value stays as it is."""


class LockTimeoutError(CapacityError, TimeoutError):
    """Others held a lock for longer than the caller waits."""
