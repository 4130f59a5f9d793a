"""Sees the queries of a driver's own calls, without a decorator: ``instrument(pool)``."""

from bot.core.query_optimizer.instruments.instrumenting import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
