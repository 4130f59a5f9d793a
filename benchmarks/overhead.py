"""What each Phase 4 service costs a request when it is on and brings nothing: every read is a miss.

One service process for each flag, and one with none, over the same database. Each is asked, in turn and
again and again, for users that it was not asked for before; the rate limiter, which reads do not pass, for
``/api/upload``. A single client, one request after another: what differs is the work, not a queue. Compared
is the processor time of the service's process per request, which neighbours on the machine disturb least,
and the response time beside it.

    python -m benchmarks.overhead [--rounds 9] [--requests 200]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import statistics
import sys
import time
from pathlib import Path

import psutil

from benchmarks.baseline import COMMON
from benchmarks.harness import machine, verdict
from benchmarks.load.service import Service, own_postgresql
from benchmarks.load.workload import TOKEN
from bot.service.dataset import USERS

READS = ("none", "QUERY_OPTIMIZER", "CACHE_MANAGER", "CONNECTION_POOLING", "BATCH_PROCESSOR", "LOAD_BALANCER")
POOLED = ("none", "QUERY_OPTIMIZER", "CACHE_MANAGER")
"""The same over pools, where a request is short and what is added to it weighs most."""

LIMITED = ("none", "RATE_LIMITER")
TARGET = 5.0
"""Percent of a request."""

OF_A_BOT = {"Authorization": f"Bearer {TOKEN}"}
"""The users that a bot names are believed, so that each has a limit of its own."""


class Contender:
    """One service process, and where its next requests stand."""

    def __init__(self, flag: str, path: str, service: Service) -> None:
        self.flag = flag
        self._path = path
        self._service = service
        self._next = 0
        assert service.process is not None
        self._process = psutil.Process(service.process.pid)
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        self.cpu_us: list[float] = []
        self.wall_us: list[float] = []

    def round(self, requests: int, *, keep: bool = True) -> None:
        before = self._cpu_seconds()
        start = time.perf_counter()
        for _ in range(requests):
            # From the least active users up: their pages cost the database about the same.
            user = USERS - self._next % USERS
            self._next += 1
            self._connection.request("GET", self._path.format(user), headers=OF_A_BOT)
            answer = self._connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{self.flag}: {self._path.format(user)} answered {answer.status}")
        wall = time.perf_counter() - start
        cpu = self._cpu_seconds() - before
        if keep:
            self.wall_us.append(wall / requests * 1e6)
            self.cpu_us.append(cpu / requests * 1e6)

    def _cpu_seconds(self) -> float:
        tasks = Path(f"/proc/{self._process.pid}/task")
        if tasks.exists():  # in nanoseconds, where the usual figures are in hundredths of a second
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        return float(sum(self._process.cpu_times()[:2]))


def compare(
    flags: tuple[str, ...], path: str, url: str, rounds: int, requests: int, *, pools: bool = False
) -> list[Contender]:
    with contextlib.ExitStack() as stack:
        contenders = []
        for flag in flags:
            settings = {**COMMON, "DATABASE_URL": url}
            for name in (*READS[1:], "RATE_LIMITER"):
                on = name == flag or (pools and name == "CONNECTION_POOLING")
                settings[f"ENABLE_{name}"] = "1" if on else "0"
            service = stack.enter_context(Service(settings))
            contenders.append(Contender(flag, path, service))
        for contender in contenders:
            contender.round(max(20, requests // 4), keep=False)
        for number in range(rounds):
            # Each goes first once: what comes after another finds the database's pages warm.
            start = number % len(contenders)
            for contender in contenders[start:] + contenders[:start]:
                contender.round(requests)
        return contenders


def show(title: str, contenders: list[Contender], note: str = "") -> list[str]:
    base = contenders[0]
    base_cpu, base_wall = statistics.median(base.cpu_us), statistics.median(base.wall_us)
    print(f"### {title}\n\n| on | processor time, µs | response, µs | more processor time | of a response |")
    print("|---|---:|---:|---:|---:|")
    verdicts = []
    for c in contenders:
        cpu, wall = statistics.median(c.cpu_us), statistics.median(c.wall_us)
        # Round by round against the bare one of the same round: a slow moment then hits both.
        extra = statistics.median(a - b for a, b in zip(c.cpu_us, base.cpu_us, strict=True))
        share = 100 * extra / base_wall
        name = "no service" if c is base else c.flag.lower().replace("_", " ")
        print(f"| {name} | {cpu:,.0f} | {wall:,.0f} | {100 * extra / base_cpu:+.1f} % | {share:+.1f} % |")
        if c is not base:
            verdicts.append(verdict(f"{name}{note}, percent of a request", share, TARGET))
    print()
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=200)
    given = parser.parse_args()
    if (given.rounds + 1) * given.requests > USERS:
        parser.error(f"(rounds + 1) x requests must be at most {USERS}: a user asked for twice is a hit")
    with own_postgresql() as url:
        print(f"{machine()}; {'PostgreSQL' if url else 'SQLite'}\n")
        reads = compare(READS, "/api/data?user_id={}", url or "", given.rounds, given.requests)
        pooled = compare(POOLED, "/api/data?user_id={}", url or "", given.rounds, given.requests, pools=True)
        limited = compare(LIMITED, "/api/upload?user_id={}", url or "", given.rounds, given.requests * 2)
    title = "A user's page, never asked for before (three queries)"
    verdicts = show(f"{title}, a connection for each request", reads)
    verdicts += show(f"{title}, connections from a pool", pooled, ", over pools")
    verdicts += show("GET /api/upload, each time another user", limited)
    print("\n".join(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
