"""What a link is made of, for what travels over it: batches, scripts, subscriptions."""

from __future__ import annotations

from typing import NamedTuple

from bot.core.redis_link.calls import Calls
from bot.core.redis_link.connections import Connections
from bot.core.redis_link.health import Health
from bot.core.redis_link.nodes import NodeProbes
from bot.core.redis_link.primary import PrimarySearch
from bot.core.redis_link.rights import Rights


class Parts(NamedTuple):
    """The parts of one link, each the owner of its state."""

    connections: Connections
    health: Health
    primary: PrimarySearch
    rights: Rights
    calls: Calls
    probes: NodeProbes
