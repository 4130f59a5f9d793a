"""A database that numbers its answers, and what the optimizer keeps of them."""

import asyncio
import contextvars


class CountingDatabase:
    """A database that counts how often it is asked, and answers with that count."""

    def __init__(self):
        self.asked = 0

    async def __call__(self, query, params):
        self.asked += 1
        return self.asked


async def kept(optimizer, *queries):
    """Whether each query's result is in the cache, as this caller sees it."""
    return [await optimizer.get_cached_result(query) is not None for query in queries]


async def in_fresh_context(work):
    """What ``work`` gives to a caller that shares no transaction and no look-up with this one."""
    return await asyncio.get_running_loop().create_task(work, context=contextvars.Context())
