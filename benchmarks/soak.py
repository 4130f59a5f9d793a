"""Minutes of mixed load on the service with Phase 4 on: is memory flat, does anything pile up?

200 clients for ten minutes by default, the workload and settings of ``benchmarks.baseline``. Prints memory,
tasks, descriptors and connections along the way, what was refused or failed, and every warning of the log
by its text.

    python -m benchmarks.soak [--minutes 10] [--clients 200] [--sqlite]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.baseline import COMMON, ON, failures, hit_rate
from benchmarks.harness import machine, verdict
from benchmarks.load.service import Service, own_postgresql
from benchmarks.load.workload import MIX

EVERY = 10.0
"""Seconds between two looks at the process."""

SETTLED = 2.0
"""Minutes after which memory must not grow."""

_PROBLEM = re.compile(rb"^\S+ \S+ (WARNING|ERROR|CRITICAL)\s+(.*)$")


_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


class Watch(threading.Thread):
    """Looks at the service's own figures every few seconds."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.samples: list[dict[str, Any]] = []
        self._service = service
        self._done = threading.Event()
        self._start = time.monotonic()

    def run(self) -> None:
        while not self._done.wait(EVERY):
            self.look()

    def look(self) -> None:
        with contextlib.suppress(OSError):
            health = self._service.health()
            process = health["phase4"]["process"]
            self.samples.append(
                {
                    "minute": (time.monotonic() - self._start) / 60,
                    "rss_mb": process["rss_mb"],
                    "tasks": process["tasks"],
                    "fds": process["open_fds"],
                    "threads": process["threads"],
                    "connections": health["database"]["connections_open"],
                }
            )

    def stop(self) -> None:
        self._done.set()
        self.join(60)

    def at(self, minute: float) -> dict[str, Any]:
        """The sample nearest to a minute."""
        return min(self.samples, key=lambda sample: abs(sample["minute"] - minute))


def problems(log: Path) -> Counter[str]:
    """Warnings and errors of a log, numbers left out so that alike ones count together."""
    found: Counter[str] = Counter()
    with log.open("rb") as lines:
        for line in lines:
            if b" INFO " in line:
                continue
            if match := _PROBLEM.match(line.rstrip()):
                text = match[2].decode("utf-8", "replace")
                found[match[1].decode() + " " + _NUMBER.sub("N", text)[:160]] += 1
    return found


def report(given: argparse.Namespace, watch: Watch, result: dict[str, Any], log: Path) -> None:
    marks = sorted({mark for mark in (1.0, SETTLED, 5.0, given.minutes) if mark <= given.minutes})
    print("| minute | memory, MB | tasks | descriptors | threads | connections |")
    print("|---:|---:|---:|---:|---:|---:|")
    for mark in marks:
        s = watch.at(mark)
        figures = (s["tasks"], s["fds"], s["threads"], s["connections"])
        print(f"| {mark:g} | {s['rss_mb']:.1f} | {' | '.join(map(str, figures))} |")
    response = result["response_ms"]
    print(
        f"\n{result['answered']:,} requests answered, {result['per_second']:,.0f} per second, response "
        f"mean {response['mean']:.1f} ms, p99 {response['p99']:.1f} ms; cache answered "
        f"{hit_rate(result):.0f} % of reads"
    )
    print(f"statuses: {result['statuses']}, broken {result['broken']}, unanswered {result['unanswered']}\n")
    settled, last = watch.at(min(SETTLED, given.minutes / 2)), watch.at(given.minutes)
    for name, figure, bound in (
        ("memory since minute 2, percent more", 100 * (last["rss_mb"] / settled["rss_mb"] - 1), 10),
        ("descriptors since minute 2, more", last["fds"] - settled["fds"], 10),
        ("tasks since minute 2, more", last["tasks"] - settled["tasks"], 50),
        ("requests refused or failed", failures(result), 0),
    ):
        print(verdict(name, float(figure), bound))
    found = problems(log)
    print(f"\nwarnings and errors in the log: {sum(found.values())}")
    for text, count in found.most_common(20):
        print(f"  {count} x {text}")


def run(url: str, where: str, given: argparse.Namespace) -> None:
    print(f"{machine()}; {where}; {given.clients} clients, {given.minutes:g} minutes\n", flush=True)
    with Service({**COMMON, **ON, "DATABASE_URL": url}) as service:
        mix = dict(MIX)
        if not service.has_batches():
            mix["upload_check"] += mix.pop("batch")
        watch = Watch(service)
        watch.start()
        result = service.load(
            clients=given.clients, seconds=given.minutes * 60 - 5, warmup=5.0, mix=mix, seed=7
        )
        watch.stop()
        report(given, watch, result, service.log)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--sqlite", action="store_true")
    given = parser.parse_args()
    url = os.environ.get("PHASE4_BENCH_POSTGRESQL_URL", "")
    if given.sqlite or url:
        run("" if given.sqlite else url, "SQLite" if given.sqlite else "a PostgreSQL of the machine", given)
    else:
        with own_postgresql() as started:
            run(started or "", "PostgreSQL started for this run" if started else "SQLite", given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
