"""Phase 4, performance and optimization, for asynchronous bots; the services live in ``bot.core``."""

from bot.core._shared import __version__ as __version__
