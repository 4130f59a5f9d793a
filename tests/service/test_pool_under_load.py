"""A thousand requests at once, and no more server connections than the pool may have."""

import asyncio
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from tests.service.conftest import Service


async def test_a_thousand_requests_at_once_use_at_most_fifteen_server_connections(
    data_dir, service_postgresql_url
):
    busy = Service(
        data_dir, DATABASE_URL=service_postgresql_url, ENABLE_CONNECTION_POOLING="1", POOL_MAX_SIZE="15",
        ENABLE_QUERY_OPTIMIZER="0", ENABLE_RATE_LIMITER="0", POOL_ACQUIRE_TIMEOUT="60",
    )  # fmt: skip
    watcher = await asyncpg.connect(service_postgresql_url)
    count = (  # autovacuum works in the database, too
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = $1 AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    name = urlsplit(service_postgresql_url).path[1:]
    seen = []

    async def watch(stop):
        while not stop.is_set():
            seen.append(await watcher.fetchval(count, name))
            await asyncio.sleep(0.002)

    try:
        await asyncio.to_thread(busy.start)
        stop = asyncio.Event()
        watching = asyncio.create_task(watch(stop))
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{busy.port}", connector=connector) as session:

            async def request(number):
                async with session.get(f"/api/data?user_id={number % 2000 + 1}") as answer:
                    await answer.read()
                    return answer.status

            statuses = await asyncio.gather(*[request(number) for number in range(1000)])
        stop.set()
        await watching
        figures = (await asyncio.to_thread(busy.call, "/health")).body["database"]
    finally:
        await watcher.close()
        busy.process.kill()
        busy.process.wait()
    assert statuses == [200] * 1000
    assert 2 <= max(seen) <= 15
    assert figures["connections_peak"] <= 15
