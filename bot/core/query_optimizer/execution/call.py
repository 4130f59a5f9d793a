"""A query in progress (pure)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from msgspec import Struct

from bot.core.query_optimizer.models import Analysis


class Call(Struct):
    """One query that is being executed, or that its caller has executed."""

    query: str
    params: Any
    executor: Any
    """``await executor(query, params)`` runs it; None if the caller runs it."""
    analysis: Analysis
    key: Hashable
    """The key of its result; None if its parameters cannot be compared."""
    ttl: float = 0.0
    """Seconds for which its result may be kept."""
    database: str = ""
    """The database of its tables; "" if unknown."""
    site: str = ""
    """The line that runs it, if the frames that are in progress do not tell."""
