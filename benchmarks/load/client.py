"""The load generator, run as a process of its own: ``python -m benchmarks.load.client``.

Clients are closed loops: each sends its next request when the answer to the last one is there. A plain
asyncio protocol instead of an HTTP library: the generator must not be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import re
import statistics
import sys
import time
from collections import defaultdict
from typing import Any

from benchmarks.load.workload import MIX, READS, requests

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\nTransfer-Encoding: chunked", re.IGNORECASE)
_DATA_TIME = re.compile(rb"\r\nServer-Timing: data;dur=([\d.]+)", re.IGNORECASE)
_CACHE = re.compile(rb"\r\nX-Cache: (\w+)", re.IGNORECASE)
ANSWER_TIMEOUT = 60.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error or ConnectionResetError("closed by the service"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end])
        if _CHUNKED.search(head):
            raise RuntimeError("a chunked answer, which this client does not read")
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if len(self._buffer) < end + 4 + length:
            return
        del self._buffer[: end + 4 + length]
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result((int(head[9:12]), head))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send one request; status and head of the answer."""
        assert self.transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._waiter


class Tally:
    """What came back, since the measurement began."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.data_ms: dict[str, list[float]] = defaultdict(list)
        self.statuses: dict[str, int] = defaultdict(int)
        self.cache: dict[str, int] = defaultdict(int)
        self.broken = 0

    def take(self, kind: str, status: int, head: bytes, seconds: float) -> None:
        self.statuses[str(status)] += 1
        if status >= 300:
            return
        self.seconds[kind].append(seconds)
        if kind in READS and (found := _DATA_TIME.search(head)):
            self.data_ms[kind].append(float(found[1]))
        if kind in READS and (found := _CACHE.search(head)):
            self.cache[found[1].decode()] += 1

    def report(self, seconds: float) -> dict[str, Any]:
        every = [value for values in self.seconds.values() for value in values]
        data = [value for values in self.data_ms.values() for value in values]
        return {
            "seconds": seconds,
            "answered": len(every),
            "per_second": len(every) / seconds,
            "response_ms": _figures([value * 1000 for value in every]),
            "query_ms": _figures(data),
            "by_kind": {
                kind: {
                    "response_ms": _figures([value * 1000 for value in values]),
                    "query_ms": _figures(self.data_ms.get(kind, [])),
                }
                for kind, values in sorted(self.seconds.items())
            },
            "statuses": dict(self.statuses),
            "cache": dict(self.cache),
            "broken": self.broken,
        }


def _figures(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    values = sorted(values)
    return {
        "count": len(values),
        "mean": statistics.fmean(values),
        "p50": values[len(values) // 2],
        "p99": values[min(len(values) - 1, int(len(values) * 0.99))],
    }


async def load(
    host: str,
    port: int,
    clients: int,
    seconds: float,
    warmup: float,
    seed: int,
    misses: bool,
    mix: dict[str, int],
) -> dict[str, Any]:
    """Put ``clients`` closed loops on the service; what was seen after the warm-up."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    start = time.perf_counter()
    begin, end = start + warmup, start + warmup + seconds

    async def one(number: int) -> None:
        stream = requests(seed + number, misses=misses, mix=mix)
        # Not all in the same instant, as real ones do not come either.
        await asyncio.sleep(random.Random(number).random() * min(1.0, warmup))
        connection: Connection | None = None
        while time.perf_counter() < end:
            kind, data = next(stream)
            try:
                if connection is None or connection.transport is None:
                    _, connection = await loop.create_connection(Connection, host, port)
                sent = time.perf_counter()
                status, head = await connection.ask(data)
            except OSError:
                tally.broken += 1
                await asyncio.sleep(0.05)
                continue
            now = time.perf_counter()
            if begin <= now < end:
                tally.take(kind, status, head, now - sent)
        if connection is not None and connection.transport is not None:
            connection.transport.close()

    gc.freeze()
    tasks = [asyncio.create_task(one(number)) for number in range(clients)]
    _, late = await asyncio.wait(tasks, timeout=warmup + seconds + ANSWER_TIMEOUT)
    for task in late:
        task.cancel()
    report = tally.report(seconds)
    report["unanswered"] = len(late)
    failed = [task for task in tasks if task not in late and task.exception() is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} clients failed") from failed[0].exception()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.client", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warmup", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--misses", action="store_true", help="every read asks for something new")
    parser.add_argument("--mix", help='percent by kind, as JSON: {"user": 100}', default=json.dumps(MIX))
    given = parser.parse_args()
    report = asyncio.run(
        load(
            given.host,
            given.port,
            given.clients,
            given.seconds,
            given.warmup,
            given.seed,
            given.misses,
            json.loads(given.mix),
        )
    )
    json.dump(report, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
