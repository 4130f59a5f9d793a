"""Settings: the bot's own, and those of Phase 4."""

import os
from typing import Any

BOT_TOKEN = os.environ.get("BOT_TOKEN", "")
ADMINS = [int(one) for one in os.environ.get("ADMINS", "").split(",") if one]
# A server in place of Telegram's: a local Bot API server, or a test server.
TELEGRAM_API_URL = os.environ.get("TELEGRAM_API_URL", "https://api.telegram.org")

# Flood control for the bot's messages, and a limit on the messages of each user.
PHASE4: dict[str, Any] = {
    "ENABLE_OUTBOUND": True,
    "ENABLE_RATE_LIMITER": True,
    "RATE_LIMIT_DEFAULT_RPS": 1,
    "RATE_LIMIT_BURST_SIZE": 5,
}

# A database: its connections from a pool, its queries through the optimizer.
PHASE4 |= {
    "ENABLE_CONNECTION_POOLING": True,
    "DATABASE_POOLS": {"main": {"backend": "sqlite", "url": "sqlite:///bot.db", "max_size": 4}},
    "ENABLE_QUERY_OPTIMIZER": True,
    "QUERY_OPTIMIZER_DIALECT": "sqlite",
}

# What is written within a tenth of a second, in one transaction.
PHASE4 |= {"ENABLE_BATCH_PROCESSOR": True, "BATCH_TIMEOUT": 0.1}

# Answers that may be some seconds old.
PHASE4 |= {"ENABLE_CACHE_MANAGER": True}
