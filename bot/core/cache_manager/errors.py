"""Errors of the cache."""

from __future__ import annotations

from bot.core._shared.errors import BackendError, Phase4Error


class UnsupportedValueError(Phase4Error, TypeError):
    """A value of a type that the second tier does not carry; it stays in the first."""


class CorruptPayloadError(BackendError):
    """Bytes under a key that this version did not write or cannot read; taken for a miss."""


class LoaderTimeoutError(Phase4Error, TimeoutError):
    """A loader took longer than its hard timeout, and there was no stale value to serve."""
