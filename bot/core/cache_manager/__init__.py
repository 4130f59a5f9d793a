"""Two cache tiers: memory, and Redis shared by instances."""

from bot.core._shared.registered_types import register_type
from bot.core.cache_manager.decorators import CachedFunction, CachedPlainFunction, CacheInfo, cached
from bot.core.cache_manager.errors import (
    CircularLoadError,
    LoaderTimeoutError,
    LockTimeoutError,
    NotAnIntegerError,
    UnsupportedValueError,
)
from bot.core.cache_manager.events import CacheEvent
from bot.core.cache_manager.invalidating import invalidate
from bot.core.cache_manager.models import LoadOptions
from bot.core.cache_manager.service import CacheManager
from bot.core.cache_manager.ttls import FOREVER

__all__ = [
    "FOREVER",
    "CacheEvent",
    "CacheInfo",
    "CacheManager",
    "CachedFunction",
    "CachedPlainFunction",
    "CircularLoadError",
    "LoadOptions",
    "LoaderTimeoutError",
    "LockTimeoutError",
    "NotAnIntegerError",
    "UnsupportedValueError",
    "cached",
    "invalidate",
    "register_type",
]
