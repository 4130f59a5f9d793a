"""Each oracle notices what it is there for, and allows what the documents allow."""

from __future__ import annotations

import pytest

from bot.testing.telegram_log import Call
from tests.chaos import aftermath, oracles
from tests.chaos.load import Asked
from tests.chaos.plan import Fault, Happened, History

NO_FAULT = History()


def fault(target: str, begin: float, end: float, instance: str = "") -> History:
    return History([Happened(Fault(begin, end - begin, target, "freeze", instance), begin, end)])


def asked(kind: str, sent: float, status: int = 200, instance: str = "a", **told: object) -> Asked:
    named = told.pop("asked", {"id": 1})
    assert isinstance(named, dict)
    return Asked(kind, instance, sent, named, sent + 0.01, status, {"retry": "", **told})


def write(sent: float, version: int, instance: str = "a") -> Asked:
    return asked("POST cached", sent, version=version, instance=instance)


def read(sent: float, version: int, instance: str = "b") -> Asked:
    return asked("GET cached", sent, version=version, instance=instance)


@pytest.mark.parametrize(
    ("log", "history", "found"),
    [
        ([write(1, 5), read(2.5, 5)], NO_FAULT, 0),
        ([write(1, 5), read(1.5, 4)], NO_FAULT, 0),  # the message is on its way
        ([write(1, 5), read(2.5, 4)], NO_FAULT, 1),
        ([write(1, 5), write(2, 6), read(2.5, 4)], NO_FAULT, 1),  # the oldest that it misses counts
        ([write(1, 5), read(4, 4)], fault("cache", 0, 3, "b"), 0),  # the reader has heard nothing
        ([write(1, 5), read(7, 4)], fault("cache", 0, 3, "b"), 1),  # and must have noticed
        ([write(1, 5), read(7, 4)], fault("cache", 0, 3, "a"), 0),  # the writer could not drop it
        ([write(1, 5), read(9, 4)], fault("cache", 0, 3, "a"), 1),  # but its time was over
        ([write(1, 5), read(2.5, 4)], fault("cache", 0, 3, "c"), 1),
        ([write(1, 5), read(2.5, 4)], fault("queue", 0, 3), 1),
    ],
)
def test_stale_reads(log: list[Asked], history: History, found: int) -> None:
    assert len(oracles.stale_reads(log, history)) == found


def check(sent: float, who: str = "a-1", *, degraded: bool = False, limit: str = "window") -> Asked:
    told = {"allowed": True, "degraded": degraded, "who": who}
    return asked("GET limit", sent, asked={"limit": limit}, **told)


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ([check(n * 0.1) for n in range(10)], 0),
        ([check(n * 0.1, f"{'abc'[n % 3]}-1") for n in range(11)], 1),
        ([check(n * 0.1, degraded=n % 2 == 0) for n in range(20)], 0),
        ([check(n * 0.1, degraded=True) for n in range(11)], 1),
        ([check(n * 0.1, f"{'ab'[n % 2]}-1", degraded=True) for n in range(20)], 0),
        ([check(n * 0.05, limit="bucket") for n in range(20)], 1),
        ([check(n * 0.2, limit="bucket") for n in range(50)], 0),
    ],
)
def test_limits(log: list[Asked], found: int) -> None:
    assert len(oracles.limits(log, most=10, window=2.0, rate=5.0, burst=10)) == found


def slot(kind: str, at: float, who: str, number: int = 1, *, lost: bool = False) -> dict[str, object]:
    return {"kind": kind, "at": at, "who": who, "client": "x", "number": number, "lost": lost}


def held_by_two(*, lost: bool = False) -> list[dict[str, object]]:
    return [
        slot("slot", 100, "a-1"), slot("slot", 101, "b-1"), slot("slot end", 102, "a-1", lost=lost),
        slot("slot end", 103, "b-1"),
    ]  # fmt: skip


def one_after_the_other() -> list[dict[str, object]]:
    return [
        slot("slot", 100, "a-1"), slot("slot end", 101, "a-1"), slot("slot", 101.1, "b-1"),
        slot("slot end", 103, "b-1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "ends", "history", "found"),
    [
        (one_after_the_other(), {}, NO_FAULT, 0),
        (held_by_two(), {}, NO_FAULT, 1),
        (held_by_two(lost=True), {}, NO_FAULT, 0),
        (held_by_two(), {}, fault("queue", 90, 95), 0),
        (held_by_two(), {}, fault("queue", 80, 85), 1),
        (held_by_two(), {}, fault("cache", 90, 101), 1),
        (held_by_two(), {}, fault("instance", 99, 101, "a"), 0),
        (held_by_two(), {}, fault("instance", 99, 101, "b"), 1),
        # One that was killed holds until it died, and no longer.
        ([slot("slot", 100, "a-1"), slot("slot", 103, "b-1")], {"a-1": 102, "b-1": 110}, NO_FAULT, 0),
        ([slot("slot", 100, "a-1"), slot("slot", 103, "b-1")], {"a-1": 104, "b-1": 110}, NO_FAULT, 1),
    ],
)
def test_slots(events: list[dict[str, object]], ends: dict[str, float], history: History, found: int) -> None:
    assert len(oracles.slots(events, ends, history)) == found


def handled(*numbers: int, overlap: float = 0.0) -> list[dict[str, object]]:
    events: list[dict[str, object]] = []
    for at, number in enumerate(numbers):
        run = {"who": "ab"[at % 2] + "-1", "run": str(at), "lanes": [["l", number]]}
        events += [{"kind": "begin", "at": 100.0 + at, **run}]
        events += [{"kind": "end", "at": 100.9 + at + overlap, **run}]
    return sorted(events, key=lambda event: event["at"])  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (handled(1, 2, 3), 0),
        (handled(1, 1, 2, 2), 0),  # tried again
        (handled(1, 3, 4), 0),  # whose second was refused
        (handled(2, 1), 1),
        (handled(1, 2, overlap=0.2), 1),
    ],
)
def test_lanes(events: list[dict[str, object]], found: int) -> None:
    assert len(oracles.lanes(events, {}, NO_FAULT, before=1000.0)) == found


def submitted(key: str, refusal: str = "", *, fails: bool = False) -> Asked:
    items = [{"key": key, "data": {"fails": fails}}]
    return asked("POST batch", 1, asked={"items": items}, refusals=[refusal], taken=[not refusal])


@pytest.mark.parametrize(
    ("one", "effects", "final", "found"),
    [
        (submitted("i"), {"i"}, {"i": {"state": "done", "result": "r"}}, 0),
        (submitted("i"), {"i"}, {"i": {"state": "pending"}}, 1),
        (submitted("i"), set(), {"i": {"state": "done", "result": "r"}}, 1),
        (submitted("i"), set(), {}, 1),
        (submitted("i", fails=True), set(), {"i": {"state": "failed", "result": None}}, 0),
        (submitted("i", "unavailable"), set(), {}, 0),
        (submitted("i", "unavailable"), {"i"}, {}, 1),
        (submitted("i", "unknown"), {"i"}, {}, 0),
    ],
)
def test_outcomes(one: Asked, effects: set[str], final: dict[str, dict[str, object]], found: int) -> None:
    assert len(oracles.outcomes([one], effects, final)) == found


def test_an_outcome_does_not_change() -> None:
    looked = asked("GET result", 2, asked={"id": "i"}, state="done", result="a-1-7")
    for result, found in (("a-1-7", 0), ("b-1-3", 1)):
        final = {"i": {"state": "done", "result": result}}
        assert len(oracles.outcomes([submitted("i"), looked], {"i"}, final)) == found


@pytest.mark.parametrize(
    ("one", "history", "healed", "found"),
    [
        (asked("GET query", 10), NO_FAULT, 0, 0),
        (asked("POST slot", 10, 429), NO_FAULT, 0, 0),
        (asked("GET query", 10, 500), fault("postgresql", 9, 11), 99, 1),
        (asked("GET query", 10, 503, retry="1"), fault("postgresql", 9, 11), 99, 0),
        (asked("GET query", 10, 503), fault("postgresql", 9, 11), 99, 1),
        (asked("GET query", 10, 503, retry="1"), NO_FAULT, 99, 1),
        (asked("GET query", 10, 503, retry="1"), fault("cache", 9, 11), 99, 1),
        (asked("GET limit", 10, 503, retry="1"), fault("queue", 9, 11), 99, 1),
        (asked("GET result", 10, 503, retry="1"), fault("queue", 9, 11), 99, 0),
        (asked("GET limit", 10, 502, "front"), fault("instance", 9, 11, "c"), 99, 0),
        (asked("GET query", 10, 503, retry="1"), fault("postgresql", 1, 8), 9, 1),
        (asked("GET query", 10, 0), fault("instance", 9, 11, "a"), 99, 0),
        (asked("GET query", 10, 0), fault("instance", 9, 11, "b"), 99, 1),
        (asked("GET query", 10, 0, "front"), fault("instance", 9, 11, "b"), 99, 0),
        (asked("GET query", 10, 418), NO_FAULT, 0, 1),
        (asked("GET limit", 10, allowed=True, degraded=True), NO_FAULT, 0, 1),
        (asked("POST batch", 10, refusals=["unavailable"]), NO_FAULT, 0, 1),
        (asked("POST batch", 40, refusals=["unavailable"]), fault("queue", 9, 11), 0, 0),
        (asked("POST send", 10, errors=["", "OutboundDeadlineError: late"]), NO_FAULT, 0, 0),
        (asked("POST send", 10, errors=["TelegramError: HTTP 502"]), NO_FAULT, 0, 1),
    ],
)
def test_answers(one: Asked, history: History, healed: float, found: int) -> None:
    assert len(oracles.answers([one], history, healed)) == found


def call(time: float, text: str, code: int = 200) -> Call:
    return Call(
        time=time, bot=1, method="sendMessage", chat=5, kind="message", cost=1, done=int(code == 200),
        parameters={"text": text}, code=code, description="", retry_after=0, in_penalty=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("calls", "history", "found"),
    [
        ([call(1, "a-1 1"), call(2, "a-1 2"), call(3, "b-1 1")], NO_FAULT, 0),
        ([call(1, "a-1 2"), call(2, "a-1 1")], NO_FAULT, 1),
        ([call(1, "a-1 1"), call(2, "a-1 1")], NO_FAULT, 1),  # twice
        ([call(1, "a-1 1", 429), call(2, "a-1 1")], NO_FAULT, 1),
        ([call(1, "a-1 1", 429), call(2, "a-1 1")], fault("queue", 0, 1), 0),
    ],
)
def test_messages(calls: list[Call], history: History, found: int) -> None:
    assert len(aftermath.messages(calls, history)) == found


def test_accounts() -> None:
    transfers = {"t1": (0, 1), "t2": (1, 2)}
    good = {0: -1, 1: 0, 2: 1}
    assert not aftermath.accounts(good, transfers, ["t1"])
    assert len(aftermath.accounts({**good, 1: 1}, transfers, [])) == 1
    assert len(aftermath.accounts(good, transfers, ["t3"])) == 1


def test_flat() -> None:
    before = {"c-1": {"fds": 20.0, "rss_mb": 100.0}}
    assert not aftermath.flat(before, {"c-1": {"fds": 30.0, "rss_mb": 110.0}})
    found = aftermath.flat(before, {"c-1": {"fds": 60.0, "rss_mb": 190.0}})
    assert [one.text for one in found] == [
        "c-1: rss_mb 100 before, 190 after",
        "c-1: fds 20 before, 60 after",
    ]


def test_surprises(tmp_path) -> None:
    lines = [
        "2026-01-01 00:00:00,000 INFO bot all is well",
        "2026-01-01 00:00:00,000 WARNING bot Redis is away",
        "2026-01-01 00:00:00,000 ERROR bot.core.connection_pool_manager.reports Pool 'mysql': cannot connect",
    ]
    (tmp_path / "a-1.log").write_text("\n".join(lines))
    assert not aftermath.surprises(tmp_path)
    (tmp_path / "b-1.log").write_text("2026-01-01 00:00:00,000 ERROR asyncio Task was destroyed\n")
    (tmp_path / "c-1.log").write_text("Traceback (most recent call last):\n")
    assert [found.text for found in aftermath.surprises(tmp_path)] == [
        "b-1.log: 2026-01-01 00:00:00,000 ERROR asyncio Task was destroyed",
        "c-1.log: Traceback (most recent call last):",
    ]


def test_endings() -> None:
    clean = [{"kind": "stopped", "who": "a-1", "clean": True}, {"kind": "left", "who": "a-1", "tasks": []}]
    assert not aftermath.endings(clean, {"a-1": 0}, {"lanes": []})
    dirty = [
        {"kind": "stopped", "who": "a-1", "clean": False},
        {"kind": "left", "who": "a-1", "tasks": ["<Task>"]},
        {"kind": "two holders", "who": "a-1"},
    ]
    assert len(aftermath.endings(dirty, {"a-1": -9}, {"lanes": [b"key"]})) == 5
