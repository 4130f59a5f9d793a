"""Limits per client: token buckets, exact windows, tiers, backoff for clients that retry too early."""

from bot.core.rate_limiter.byte_limit import ByteLimit
from bot.core.rate_limiter.concurrency import ConcurrencyLimit, SlotStatus
from bot.core.rate_limiter.decorators import rate_limited
from bot.core.rate_limiter.errors import ConcurrencyLimitExceeded, RateLimitExceeded, UnknownTierError
from bot.core.rate_limiter.models import Backoff, RateLimitConfig, RateLimitStatus, WindowLimit
from bot.core.rate_limiter.service import RateLimiter
from bot.core.rate_limiter.slot_decorator import limited_slots
from bot.core.rate_limiter.slots import Slot
from bot.core.rate_limiter.texts import parse_limits

__all__ = [
    "Backoff",
    "ByteLimit",
    "ConcurrencyLimit",
    "ConcurrencyLimitExceeded",
    "RateLimitConfig",
    "RateLimitExceeded",
    "RateLimitStatus",
    "RateLimiter",
    "Slot",
    "SlotStatus",
    "UnknownTierError",
    "WindowLimit",
    "limited_slots",
    "parse_limits",
    "rate_limited",
]
