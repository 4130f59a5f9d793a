"""Event loops that bots run on, besides asyncio's own."""

import asyncio


def eager_loop() -> asyncio.AbstractEventLoop:
    """A loop whose tasks run at once to their first suspension; Python 3.12 and later."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop
