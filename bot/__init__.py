"""Phase 4, performance and optimization, for asynchronous bots; the services live in ``bot.core``."""

__version__ = "0.1.0"
