"""The one door to Redis: one client per URL, its health, its scripts, its reads in batches.

What fails here fails fast. After a failure the link is *open* (in the circuit breaker's sense): calls
are refused at once, without a timeout each, and one call at a time is let through as a probe, after
a delay that doubles from 0.2 to 5 seconds. The log says once that Redis is away and once that it is
back. Source: M. Nygard, "Release It!", the circuit breaker pattern.
"""

from bot.core.redis_link.batches import LARGE_BATCH
from bot.core.redis_link.breaker import CALM, Breaker
from bot.core.redis_link.driver import greeting, leading, primary_of
from bot.core.redis_link.errors import RedisRefusedError, RedisUnavailableError
from bot.core.redis_link.failures import told
from bot.core.redis_link.link import RedisLink
from bot.core.redis_link.reads import MAX_KEYS
from bot.core.redis_link.scripts import MAX_CALLS
from bot.core.redis_link.subscription import Subscription, subscribe

__all__ = [
    "CALM",
    "LARGE_BATCH",
    "MAX_CALLS",
    "MAX_KEYS",
    "Breaker",
    "RedisLink",
    "RedisRefusedError",
    "RedisUnavailableError",
    "Subscription",
    "greeting",
    "leading",
    "primary_of",
    "subscribe",
    "told",
]
