"""Settings: which services run (pure)."""

from typing import Annotated

from bot.core.phase4_config.fields import doc, starting
from bot.core.phase4_config.settings import Settings


class Switches(Settings, frozen=True, rename=starting("ENABLE_")):
    """A flag for each service, all off."""

    query_optimizer: Annotated[bool, doc("switch the query optimizer on")] = False
    cache_manager: Annotated[bool, doc("switch the cache manager on")] = False
    connection_pooling: Annotated[bool, doc("switch the connection pool manager on")] = False
    rate_limiter: Annotated[bool, doc("switch the rate limiter on")] = False
    batch_processor: Annotated[bool, doc("switch the batch processor on")] = False
    load_balancer: Annotated[bool, doc("switch the load balancer on")] = False
    outbound: Annotated[bool, doc("switch flood control for messages to Telegram on")] = False
