"""Query analysis, results cached until a write, statistics."""

from typing import TYPE_CHECKING, Any

from bot.core.query_optimizer.decorators import optimize_query
from bot.core.query_optimizer.errors import QueryTimeoutError, QueryTooComplexError
from bot.core.query_optimizer.execution.n_plus_one import NPlusOnePattern
from bot.core.query_optimizer.execution.result_scopes import Scope
from bot.core.query_optimizer.execution.timing import database_time
from bot.core.query_optimizer.models import (
    Finding,
    IndexSuggestion,
    OptimizationResult,
    QueryDetails,
    QueryType,
    SlowQuery,
)
from bot.core.query_optimizer.service import QueryOptimizer

if TYPE_CHECKING:
    from bot.core.query_optimizer.complexity import analyze_graphql_complexity

__all__ = [
    "Finding",
    "IndexSuggestion",
    "NPlusOnePattern",
    "OptimizationResult",
    "QueryDetails",
    "QueryOptimizer",
    "QueryTimeoutError",
    "QueryTooComplexError",
    "QueryType",
    "Scope",
    "SlowQuery",
    "analyze_graphql_complexity",
    "database_time",
    "optimize_query",
]


def __getattr__(name: str) -> Any:
    if name == "analyze_graphql_complexity":  # imports all that reads GraphQL, which a start need not
        from bot.core.query_optimizer.complexity import analyze_graphql_complexity

        return analyze_graphql_complexity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
