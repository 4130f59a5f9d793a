"""Two cache tiers: memory, and Redis shared by instances."""

from bot.core.cache_manager.decorators import cached
from bot.core.cache_manager.errors import CircularLoadError, LoaderTimeoutError, UnsupportedValueError
from bot.core.cache_manager.models import LoadOptions
from bot.core.cache_manager.service import CacheManager

__all__ = [
    "CacheManager",
    "CircularLoadError",
    "LoadOptions",
    "LoaderTimeoutError",
    "UnsupportedValueError",
    "cached",
]
