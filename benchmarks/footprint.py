"""What a bot with every service on takes of memory, over a process that has its drivers alone.

Resident memory (RSS) counts pages of library files too, which processes share and the system can drop.
What is "written" is neither (private dirty pages, by Linux). Each row is measured in a process of its
own, after a garbage collection.

    python -m benchmarks.footprint
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import machine, verdict
from bot.core.phase4_wiring import SERVICES

DRIVERS = ("aiohttp", "redis.asyncio", "asyncpg", "psutil", "msgspec", "cachetools")
TARGET_MB = 25.0


class Memory(NamedTuple):
    """Megabytes."""

    resident: float
    written: float


def memory() -> Memory:
    """Of this process, by Linux."""
    gc.collect()
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name] = int(value) / 1024
    return Memory(fields["Rss:"], fields["Private_Dirty:"])


def drivers() -> None:
    for name in DRIVERS:
        __import__(name)


def parser() -> None:
    drivers()
    import sqlglot

    sqlglot.parse("SELECT a FROM b WHERE c = 1")


def services(*, queried: bool) -> None:
    async def run() -> None:
        from bot.core.enhanced_startup_phase4 import initialize_phase4_services
        from bot.core.query_optimizer import QueryOptimizer

        report = await initialize_phase4_services({wiring.flag: True for wiring in SERVICES})
        assert report["success"], report
        if not queried:
            return

        async def executor(query: str, params: Any) -> Any:
            return [{"id": 1}]

        await asyncio.sleep(0.2)  # by then the thread that loads the parser runs
        while any(thread.name.startswith("query optimizer") for thread in threading.enumerate()):
            await asyncio.sleep(0.01)
        await QueryOptimizer.get_instance().execute("SELECT a FROM b WHERE c = $1", (1,), executor)

    drivers()
    asyncio.run(run())


STEPS: dict[str, Callable[[], None]] = {
    "the drivers alone": drivers,
    "and sqlglot, after one parse": parser,
    "and every service, started": lambda: services(queried=False),
    "and every service, after a query": lambda: services(queried=True),
}


def measured(step: str) -> Memory:
    command = [sys.executable, "-m", "benchmarks.footprint", step]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Memory(*json.loads(out.splitlines()[-1]))


def main() -> int:
    if len(sys.argv) > 1:
        STEPS[sys.argv[1]]()
        print(json.dumps(memory()))
        return 0
    found = {step: measured(step) for step in STEPS}
    floor = found["the drivers alone"]
    print(f"{machine()}\n\n| | resident MB | written MB | resident over the drivers | written |")
    print("|---|---:|---:|---:|---:|")
    for step, of in found.items():
        over = f"{of.resident - floor.resident:.1f} | {of.written - floor.written:.1f}"
        print(f"| {step} | {of.resident:.1f} | {of.written:.1f} | {over} |")
    print()
    last, alone = found["and every service, after a query"], found["and sqlglot, after one parse"]
    why = f"the SQL parser alone takes {alone.resident - floor.resident:.0f}"
    added = last.resident - floor.resident
    print(verdict("MB resident over the drivers, after a query", added, TARGET_MB, why=why))
    print(verdict("MB written over the drivers, after a query", last.written - floor.written, TARGET_MB))
    print(
        verdict("MB resident over the drivers and sqlglot", last.resident - alone.resident, TARGET_MB), "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
