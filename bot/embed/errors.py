"""Why Phase 4 cannot be put into a folder, or taken out of it."""

from __future__ import annotations


class EmbedError(Exception):
    """What is wrong and what to do, in sentences for the person at the terminal."""


class UsageError(EmbedError):
    """The arguments name no bot: no such folder, another package, this repository."""
