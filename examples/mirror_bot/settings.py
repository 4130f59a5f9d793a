"""Settings: the bot's own, and those of Phase 4."""

import os
from typing import Any

BOT_TOKEN = os.environ.get("BOT_TOKEN", "")
API_ID = os.environ.get("API_ID", "")
API_HASH = os.environ.get("API_HASH", "")
ADMINS = [int(one) for one in os.environ.get("ADMINS", "").split(",") if one]

MAX_FILE_BYTES = 2_000_000_000
MAX_FEED_BYTES = 1_000_000
STATUS_SECONDS = 1.0
FEED_SECONDS = float(os.environ.get("FEED_SECONDS", "300"))

PHASE4: dict[str, Any] = {
    "ENABLE_OUTBOUND": True,
    "ENABLE_RATE_LIMITER": True,
    "RATE_LIMIT_DEFAULT_RPS": 1,
    "RATE_LIMIT_BURST_SIZE": 5,
    "ENABLE_CONNECTION_POOLING": True,
    "DATABASE_POOLS": {"main": {"backend": "sqlite", "url": "sqlite:///mirror.db", "max_size": 4}},
    "ENABLE_QUERY_OPTIMIZER": True,
    "QUERY_OPTIMIZER_DIALECT": "sqlite",
    "ENABLE_BATCH_PROCESSOR": True,
    "BATCH_TIMEOUT": 0.1,
    "ENABLE_CACHE_MANAGER": True,
}
