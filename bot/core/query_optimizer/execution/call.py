"""A query in progress, as it is handed on (pure)."""

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
    """``await executor(query, params)`` runs it; None where the caller runs it."""
    analysis: Analysis
    key: Hashable
    """Under what its result is kept; None where its parameters cannot be told apart."""
    ttl: float = 0.0
    """Seconds for which its result may be kept."""
    database: str = ""
    """Where its tables are; "" if that is not known."""
