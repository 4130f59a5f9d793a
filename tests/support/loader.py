"""What a test has the cache load from."""

import asyncio


class Loader:
    """Counts its runs and waits for the test."""

    def __init__(self, value="loaded"):
        self.runs = 0
        self.value = value
        self.error = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def __call__(self):
        self.runs += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self.value
