"""A query in progress, as it is handed on (pure)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from bot.core.query_optimizer.models import Analysis


class Call:
    """One query that is being executed, or that its caller has executed."""

    __slots__ = ("analysis", "database", "executor", "key", "params", "query", "ttl")

    def __init__(
        self,
        query: str,
        params: Any,
        executor: Any,
        analysis: Analysis,
        key: Hashable,
        ttl: float = 0.0,
        database: str = "",
    ) -> None:
        self.query = query
        self.params = params
        self.executor = executor
        """``await executor(query, params)`` runs it; None where the caller runs it."""
        self.analysis = analysis
        self.key = key
        """Under what its result is kept; None where its parameters cannot be told apart."""
        self.ttl = ttl
        """Seconds for which its result may be kept."""
        self.database = database
        """Where its tables are; "" if that is not known."""
