"""Run simulated worlds: ``python -m tests.simulation --help``."""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from tests.simulation.world import World
from tests.simulation.worlds import WORLDS, failure_of, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--world", choices=sorted(WORLDS), help="this one; without it, each in turn")
    parser.add_argument("--seed", type=int, help="one run, with its history")
    parser.add_argument("--without", default="", help="the numbers of faults to leave out, such as 0,2")
    parser.add_argument("--first", type=int, default=0, help="the first seed of a search")
    parser.add_argument("--seeds", type=int, default=1000, help="so many seeds of each world")
    parser.add_argument("--seconds", type=float, help="search for so long instead")
    asked = parser.parse_args()
    names = [asked.world] if asked.world else sorted(WORLDS)
    if asked.seed is not None:
        return replay(names[0], asked.seed, frozenset(int(word) for word in asked.without.split(",") if word))
    return search(names, asked.first, asked.seeds, asked.seconds)


def replay(name: str, seed: int, without: frozenset[int]) -> int:
    """Print the history of one run."""
    world = World(seed, WORLDS[name], without)
    try:
        world.run()
    except AssertionError as error:
        print("\n".join(world.lines))
        print(f"{type(error).__name__}: {error}")
        return 1
    print("\n".join(world.lines))
    print(f"nothing wrong; history {world.digest()[:16]}")
    return 0


def search(names: list[str], first: int, seeds: int, seconds: float | None) -> int:
    """Run seed after seed; 1 if any of them failed."""
    begun, failed, runs = time.monotonic(), 0, 0
    for seed in itertools.count(first):
        if (seconds is None and seed >= first + seeds) or (seconds and time.monotonic() - begun > seconds):
            break
        for name in names:
            runs += 1
            failure = failure_of(WORLDS[name], seed)
            if failure is not None:
                failed += 1
                print(told(WORLDS[name], seed, failure), flush=True)
    print(f"{runs:,} runs of {', '.join(names)} in {time.monotonic() - begun:.0f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
