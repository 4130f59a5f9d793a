"""``python -m tests.chaos --seconds 600 --seed 7``: a run, its table, and exit status 1 for a violation."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time

from tests.chaos.run import Result, Times, run
from tests.conftest import MEMORY, memory_serves

SHOWN = 5
"""Violations of an oracle that are shown with their lines."""


def report(result: Result) -> None:
    """The table, then each violation with the lines that show it."""
    print(f"\nseed {result.seed}\n\n| oracle | looked at | violations |\n|---|---|---:|")
    for name, looked_at, count in result.rows:
        print(f"| {name} | {looked_at} | {count} |")
    if result.stalls:
        print("\nthe longest stalls of processes:")
        print("\n".join(result.stalls))
    shown: dict[str, int] = {}
    for one in result.violations:
        shown[one.oracle] = shown.get(one.oracle, 0) + 1
        if shown[one.oracle] <= SHOWN:
            print(f"\n{one.oracle}: {one.text}")
            for line in one.lines[:30]:
                print(f"    {line}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of load (600)")
    parser.add_argument("--seed", type=int, default=None, help="of faults and load (a new one)")
    parser.add_argument("--without-mysql", action="store_true", help="also where a MariaDB is installed")
    given = parser.parse_args()
    seed = int(time.time()) % 1_000_000 if given.seed is None else given.seed
    if "TMPDIR" not in os.environ and memory_serves():
        os.environ["TMPDIR"] = str(MEMORY)
    print(f"seed {seed}, {given.seconds:g} s", flush=True)
    result = asyncio.run(
        run(
            seed, Times.of(given.seconds), mysql=not given.without_mysql,
            tell=lambda line: print(line, flush=True),
        )
    )  # fmt: skip
    report(result)
    assert result.folder is not None
    if result.violations:
        print(f"\n{len(result.violations)} violation(s); logs and ledgers: {result.folder}")
        return 1
    shutil.rmtree(result.folder)
    print("\nno violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
