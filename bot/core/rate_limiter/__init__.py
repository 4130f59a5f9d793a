"""Limits per client: token buckets, exact windows, tiers, backoff for clients that retry too early."""

from bot.core.rate_limiter.decorators import rate_limited
from bot.core.rate_limiter.errors import RateLimitExceeded, UnknownTierError
from bot.core.rate_limiter.models import Backoff, RateLimitConfig, RateLimitStatus, WindowLimit
from bot.core.rate_limiter.service import RateLimiter
from bot.core.rate_limiter.texts import parse_limits

__all__ = [
    "Backoff",
    "RateLimitConfig",
    "RateLimitExceeded",
    "RateLimitStatus",
    "RateLimiter",
    "UnknownTierError",
    "WindowLimit",
    "parse_limits",
    "rate_limited",
]
