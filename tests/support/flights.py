"""Runs of a single flight under test."""

import asyncio

from tests.support.clock import until_idle
from tests.support.loader import Loader


class Work(Loader):
    """Gives the number of its run, once the test lets it."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error
        self.gate.clear()

    async def __call__(self):
        await super().__call__()
        return self.runs


async def start(flights, work, count=3, key="k"):
    """So many callers of ``flights.run(key, work)``, each a task that waits."""
    tasks = [asyncio.ensure_future(flights.run(key, work)) for _ in range(count)]
    await until_idle()
    return tasks
