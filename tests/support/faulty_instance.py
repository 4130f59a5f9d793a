"""The real service with faults: ``python -m tests.support.faulty_instance FAULT --port ...``.

``fail:0.5`` answers that share of commands with 500; ``slow:0.05`` takes that many seconds longer.
"""

import asyncio
import itertools
import sys

from aiohttp import web

from bot.service import server
from bot.service.cli import main


def with_fault(fault):
    kind, _, amount = fault.partition(":")
    turns = itertools.count()
    create_app = server.create_app

    @web.middleware
    async def faulty(request, handler):
        if request.path.startswith("/api/"):
            if kind == "slow":
                await asyncio.sleep(float(amount))
            elif next(turns) % 2 < 2 * float(amount):
                return web.json_response({"error": "injected"}, status=500)
        return await handler(request)

    def create(settings):
        app = create_app(settings)
        app.middlewares.insert(1, faulty)
        return app

    return create


if __name__ == "__main__":
    server.create_app = with_fault(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
