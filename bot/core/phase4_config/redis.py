"""Settings of what all services do in Redis (pure)."""

from typing import Annotated, Any

from msgspec import Meta, field

from bot.core._shared.redis_address import (
    ALLOWED_PREFIX,
    KEY_PREFIX,
    LONGEST_TIMEOUT,
    SHORTEST_TIMEOUT,
    TIMEOUT,
)
from bot.core.phase4_config.fields import starting
from bot.core.phase4_config.settings import Settings


class RedisSettings(Settings, frozen=True, rename=starting("PHASE4_REDIS_")):
    """How every service uses the Redis that its own setting names."""

    key_prefix: Annotated[
        str,
        Meta(
            pattern=rf"^({KEY_PREFIX})?\Z",
            title=ALLOWED_PREFIX,
            description="what every key and channel in Redis begins with, for several bots on one Redis",
        ),
    ] = field(default="", name="PHASE4_KEY_PREFIX")

    timeout: Annotated[
        float,
        Meta(
            ge=SHORTEST_TIMEOUT,
            le=LONGEST_TIMEOUT,
            description="seconds that one call to Redis may take before Redis counts as away",
        ),
    ] = TIMEOUT

    def options(self) -> dict[str, Any]:
        """What is added to the URL of each service, unless the URL says it itself."""
        timeout = None if self.timeout == TIMEOUT else f"{self.timeout:g}"
        return {"key_prefix": self.key_prefix, "socket_timeout": timeout}
