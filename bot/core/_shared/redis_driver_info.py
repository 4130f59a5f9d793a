"""What redis-py tells a server of itself (CLIENT SETINFO), looked up once."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def redis_driver_info() -> dict[str, Any]:
    """The argument for redis-py's connections; empty where they know none.

    Without it, new versions of redis-py read the metadata of their own package for each connection that they
    make: a millisecond and more of the event loop's time for each one that a burst of calls opens.
    """
    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # older ones look it up once, when they are imported
        return {}
    return {"driver_info": DriverInfo()}
