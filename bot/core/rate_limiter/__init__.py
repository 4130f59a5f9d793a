"""Token buckets per client: limits, tiers, backoff for clients that retry too early."""

from bot.core.rate_limiter.decorators import rate_limited
from bot.core.rate_limiter.errors import RateLimitExceeded, UnknownTierError
from bot.core.rate_limiter.models import Backoff, RateLimitConfig, RateLimitStatus
from bot.core.rate_limiter.service import RateLimiter

__all__ = [
    "Backoff",
    "RateLimitConfig",
    "RateLimitExceeded",
    "RateLimitStatus",
    "RateLimiter",
    "UnknownTierError",
    "rate_limited",
]
