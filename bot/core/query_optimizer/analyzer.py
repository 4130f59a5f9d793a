"""``read``, where scripts import it from; it lives in :mod:`bot.core.query_optimizer.sql.analyzer`."""

from bot.core.query_optimizer.sql.analyzer import read

__all__ = ["read"]
