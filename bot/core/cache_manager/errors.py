"""Errors of the cache."""

from __future__ import annotations

from bot.core._shared.errors import (
    CircularLoadError,
    CorruptPayloadError,
    Phase4Error,
    UnsupportedValueError,
)

__all__ = ["CircularLoadError", "CorruptPayloadError", "LoaderTimeoutError", "UnsupportedValueError"]


class LoaderTimeoutError(Phase4Error, TimeoutError):
    """A loader took longer than its hard timeout, and there was no stale value to serve."""
