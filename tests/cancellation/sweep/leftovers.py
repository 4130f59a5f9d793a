"""What is there in a process: tasks, timers, sockets in use, Redis links."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import Any

from bot.core.redis_link import RedisLink

PATIENCE = 5.0
"""Seconds within which what a cancelled call left to a background task has to end."""

SHARED_TIMERS = frozenset({"Alarm._rings", "Deadlines._fire", "_StatementCache._on_entry_expired"})
"""Of a service or a connection, not of a call. One of a service waits for the earliest of many deadlines, and
goes when that has passed or the service stops; asyncpg has one for each statement that a connection keeps."""

DOUBTS = frozenset({"MongoResults._tell_again"})
"""Of a write to MongoDB that was cancelled: for ten seconds it may still happen, whoever stops meanwhile."""

FOLDER = "/proc/self/fd"


def _named(function: Any) -> str:
    function = getattr(function, "__func__", function)
    return str(getattr(function, "__qualname__", type(function).__name__))


def tasks() -> Counter[str]:
    found = (task for task in asyncio.all_tasks() if task is not asyncio.current_task())
    return Counter(_named(task.get_coro()) for task in found)


def timers() -> Counter[str]:
    """Those of asyncio's own loop; uvloop does not tell."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return Counter(_named(timer._callback) for timer in scheduled if not timer.cancelled())


def sockets() -> int:
    """Open sockets, as Linux shows them; elsewhere 0."""
    if not os.path.isdir(FOLDER):
        return 0
    found = 0
    for name in os.listdir(FOLDER):
        try:
            found += os.readlink(f"{FOLDER}/{name}").startswith("socket:")
        except OSError:
            continue
    return found


def idle() -> int:
    """Open sockets that wait in the pools of Redis links: their number follows how many calls
    there were at once, and a cancelled call closes one or opens one."""
    clients = [link._connections._client for held in RedisLink._links.values() for link in held]
    pools = [client.connection_pool for client in clients if client is not None]
    return sum(each.is_connected for pool in pools for each in pool._available_connections)


def links() -> int:
    """How many hold a Redis link."""
    return sum(sum(held.values()) for held in RedisLink._links.values())


def used() -> int:
    """Open sockets, without those that wait in pools."""
    return sockets() - idle()


class Leftovers:
    """How much there was of each, to be compared with later."""

    def __init__(self) -> None:
        self.tasks, self.timers, self.sockets, self.links = tasks(), timers(), used(), links()

    def grow(self) -> None:
        """What is there now is right, too."""
        self.tasks |= tasks()
        self.timers |= timers()
        self.sockets = max(self.sockets, used())
        self.links = max(self.links, links())

    def more(self, *, running: bool = True) -> list[str]:
        """What there is now and was not; ``running``: the services that were there are."""
        found = [f"{n} task(s) {name}" for name, n in (tasks() - self.tasks).items()]
        found += [f"{n} timer(s) of {name}" for name, n in self._timers(shared=not running).items()]
        if (open_now := used()) > self.sockets:
            found.append(f"{open_now} sockets in use, {self.sockets} before")
        if links() > self.links:
            found.append(f"{links()} holders of Redis links, {self.links} before")
        return found

    def _timers(self, *, shared: bool) -> Counter[str]:
        more = timers() - self.timers
        more = Counter({name: n for name, n in more.items() if name not in DOUBTS})
        return more if shared else Counter({name: n for name, n in more.items() if name not in SHARED_TIMERS})


async def settled(check: Any, patience: float = PATIENCE) -> list[str]:
    """Wait until ``check()`` finds nothing; what it still finds after ``patience`` seconds."""
    for _ in range(3):
        if not (found := await check()):
            return []
        await asyncio.sleep(0)
    until = time.monotonic() + patience
    while (found := await check()) and time.monotonic() < until:
        await asyncio.sleep(0.002)
    return list(found)
