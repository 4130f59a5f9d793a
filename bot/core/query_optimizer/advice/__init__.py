"""Advice on SQL statements: rules, rewrites, indexes."""

from __future__ import annotations

from typing import Any

__all__ = ["advise"]


def __getattr__(name: str) -> Any:
    """``advise`` is imported when it is used: the rules of GraphQL and MongoDB need no SQL parser."""
    if name == "advise":
        from bot.core.query_optimizer.advice.advisor import advise

        return advise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
