"""All worlds, and the event loops on which they are swept."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib.util import find_spec

from tests.cancellation.sweep.of_balancer import BalancerWorld
from tests.cancellation.sweep.of_batches import BatchWorld, DurableWorld
from tests.cancellation.sweep.of_cache import CacheAloneWorld, CacheWorld
from tests.cancellation.sweep.of_integrations import AiogramWorld, PtbWorld, PyrogramWorld
from tests.cancellation.sweep.of_limiter import LimiterAloneWorld, LimiterWorld
from tests.cancellation.sweep.of_optimizer import (
    CollectionWorld,
    OptimizerWorld,
    StreamsWorld,
    WatchedWorld,
)
from tests.cancellation.sweep.of_outbound import OutboundWorld, SharedOutboundWorld
from tests.cancellation.sweep.of_pools import PostgresqlWorld, RedisPoolWorld, SqliteWorld
from tests.cancellation.sweep.of_startup import StartupWorld
from tests.cancellation.sweep.worlds import World
from tests.support.loops import eager_loop

WORLDS: list[type[World]] = [
    CacheWorld, CacheAloneWorld, OptimizerWorld, WatchedWorld, CollectionWorld, StreamsWorld, SqliteWorld,
    PostgresqlWorld, RedisPoolWorld, LimiterWorld, LimiterAloneWorld, BatchWorld, DurableWorld, BalancerWorld,
    OutboundWorld, SharedOutboundWorld, StartupWorld, AiogramWorld, PtbWorld, PyrogramWorld,
]  # fmt: skip

LOOPS = ("asyncio", "uvloop", "eager")

ON_POSTGRESQL = (PostgresqlWorld, WatchedWorld)
ON_MONGODB = (CollectionWorld,)


def why_not(loop: str) -> str:
    """Why there is no such event loop here, or nothing."""
    if loop == "uvloop" and find_spec("uvloop") is None:
        return "uvloop is not installed"
    if loop == "eager" and sys.version_info < (3, 12):
        return "eager tasks came with Python 3.12"
    return ""


def maker_of(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes an event loop of that kind."""
    if loop == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return eager_loop if loop == "eager" else asyncio.new_event_loop


def redis_of_a_busy_machine(url: str) -> str:
    """Not the timeout of a second: a machine that is busy is no Redis that is away."""
    return f"{url}?socket_timeout=10"
