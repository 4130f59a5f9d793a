"""Three processes on one Redis and one bot: together they keep the limits of one.

A message was received somewhere between its leaving and its answer, so the window is judged by the earliest
and the latest: of those not answered a window before one leaves, there are never more than the limit.
"""

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[3]
LIMIT, WINDOW = 20, 1.5


class Worker:
    """tests.support.outbound_worker, and what it has said so far."""

    def __init__(self, url, group_messages, others, latency=0.03, bot="7"):
        arguments = [url, bot, LIMIT, WINDOW, group_messages, others, latency]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.outbound_worker", *map(str, arguments)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self.lines = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.split())

    def of(self, kind):
        return [(float(line[1]), float(line[-1])) for line in list(self.lines) if line[0] == kind]

    @property
    def degraded(self):
        said = [line[0] for line in list(self.lines) if line[0] in ("degraded", "shared")]
        return said[-1] == "degraded" if said else None

    def wait(self):
        self._reader.join(120)
        assert self.process.wait(120) == 0
        assert self.lines[-1] == ["end"]

    def close(self):
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def start():
    workers = []

    def start(*arguments, **named):
        workers.append(Worker(*arguments, **named))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def most_in_a_window(messages, window, since=0.0, until=float("inf")):
    """The most that a receiver can have counted in a window that lies between the two times."""
    counts = [
        sum(1 for left, answered in messages if left <= at and answered > at - window)
        for at, _ in messages
        if since <= at - window and at <= until
    ]
    return max(counts, default=0)


def until(condition, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_three_processes_never_exceed_a_groups_window_nor_that_of_all_chats(redis_server, start):
    workers = [start(redis_server.url, 30, 60) for _ in range(3)]
    for worker in workers:
        worker.wait()
    group = [message for worker in workers for message in worker.of("group")]
    others = [message for worker in workers for message in worker.of("other")]
    assert (len(group), len(others)) == (90, 180)
    assert most_in_a_window(group, WINDOW) == LIMIT
    leavings = [(left, left) for left, _ in group + others]
    assert most_in_a_window(leavings, 1.0) == 27, "the rest of 30 is kept for answers"
    assert not any(worker.of("degraded") for worker in workers)


def test_redis_dies_and_comes_back_each_keeps_its_own_windows_meanwhile(redis_server, start):
    workers = [start(redis_server.url, 60, 0) for _ in range(3)]
    until(lambda: all(len(worker.of("group")) >= 8 for worker in workers))
    killed = time.monotonic()
    redis_server.kill()
    until(lambda: all(worker.degraded for worker in workers))
    alone = [len(worker.of("group")) for worker in workers]
    until(
        lambda: all(len(worker.of("group")) > before for worker, before in zip(workers, alone, strict=True))
    )
    redis_server.start()
    until(lambda: all(worker.degraded is False for worker in workers))
    healed = max(worker.of("shared")[-1][0] for worker in workers)
    for worker in workers:
        worker.wait()
    groups = [worker.of("group") for worker in workers]
    assert [len(group) for group in groups] == [60] * 3, "nothing is lost"
    for group in groups:
        assert most_in_a_window(group, WINDOW) <= LIMIT, "each by itself at all times"
    together = [message for group in groups for message in group]
    assert most_in_a_window(together, WINDOW, until=killed) <= LIMIT
    assert 0 < most_in_a_window(together, WINDOW, since=healed) <= LIMIT


def test_a_process_killed_in_flight_holds_nobody_up_for_longer_than_its_lease(redis_server, start):
    doomed = start(redis_server.url, 1, 0, latency=1000.0)
    key = "{p4o:7}:w:-100"
    until(lambda: redis_server.execute("ZCARD", key) == 1)
    doomed.process.kill()
    life = redis_server.execute("PTTL", key) / 1000.0
    assert 0.0 < life <= 30.0 + WINDOW + 0.1
    other = start(redis_server.url, LIMIT - 1, 0)
    other.wait()
    assert redis_server.execute("ZCARD", key) >= 1, "what may have been sent counts meanwhile"
    with contextlib.suppress(ValueError):
        doomed.process.stdout.close()
