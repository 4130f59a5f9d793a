"""Checks of what items are submitted with (pure)."""

from __future__ import annotations

from bot.core._shared.errors import invalid
from bot.core.batch_processor.models import MAX_KEY_LENGTH, MAX_PRIORITY


def check_priority(priority: object) -> None:
    """Raises InvalidArgumentError for what is no priority."""
    if priority.__class__ is not int or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise invalid("priority", priority, f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")


def check_key(key: object) -> None:
    """Raises InvalidArgumentError for what is no idempotency key."""
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise invalid("key", key, f"a string of 1 to {MAX_KEY_LENGTH} characters")
