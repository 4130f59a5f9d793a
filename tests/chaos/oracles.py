"""What must hold over the log of all requests, whatever broke (pure). Each returns what does not hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tests.chaos.instances import CACHE_TTL
from tests.chaos.ledger import instance_of
from tests.chaos.load import NO_ANSWER, Asked
from tests.chaos.plan import INSTANCES, MACHINE, History

AFTERMATH = 8.0
"""Seconds after a fault of a server in which an instance may not have found out that it is over: a breaker
waits up to 5 s, and a lease or a silence is noticed within 4 s."""
MESSAGE = 1.0
"""Seconds in which a message reaches other instances on a busy machine."""
SILENCE = 5.0
"""Seconds after which an instance that hears nothing uses its memory no more: 4 by the documents."""
LATE = 15.0
"""Seconds after a fault in which a request may fail for it: calls that began with it have their timeouts."""
NEEDS = {
    "GET query": ("postgresql",),
    "POST query": ("postgresql",),
    "GET cached": ("postgresql", "mysql"),
    "POST cached": ("postgresql", "mysql"),
    "POST transfer": ("postgresql",),
    "GET result": ("queue",),
    "POST replay": ("queue",),
}
"""What a request cannot be answered without. Limits, slots, submissions and messages always have an answer,
and the cache and the optimizer never need Redis."""
EARLY = 0.0025
"""Seconds that a window may be short: event loops wake early by up to 1.5 ms."""


class Violation(NamedTuple):
    """What does not hold, and the lines that show it."""

    oracle: str
    text: str
    lines: list[str]


def stale_reads(log: Sequence[Asked], history: History) -> list[Violation]:
    """A read tells no version older than one that was confirmed longer ago than the documents allow."""
    found = []
    for backend in ("query", "cached"):
        writes: dict[int, list[Asked]] = defaultdict(list)
        for one in log:
            if one.kind == f"POST {backend}" and one.status == 200:
                writes[int(one.asked["id"])].append(one)
        for one in log:
            if one.kind != f"GET {backend}" or one.status != 200:
                continue
            missed = [
                write
                for write in writes[int(one.asked["id"])]
                if write.told["version"] > one.told["version"] and write.answered < one.sent
            ]
            for write in sorted(missed, key=lambda write: write.answered)[:1]:
                age = one.sent - write.answered
                allowed = _allowed_age(write, one, history)
                if age > allowed:
                    text = f"{backend}: stale for {age:.2f} s, {allowed:g} s are allowed"
                    found.append(Violation("stale", text, [str(write), str(one)]))
    return found


def _allowed_age(write: Asked, read: Asked, history: History) -> float:
    """Seconds: none but a message's way; a silence; or the TTL, where Redis did not learn of the write."""
    writers, readers = _who(write), _who(read)
    of_writer = history.during(
        write.sent, read.answered, "cache", "instance", instances=writers, after=AFTERMATH
    )
    if of_writer:
        return CACHE_TTL + 1.0
    if history.during(write.sent, read.answered, "cache", "instance", instances=readers, after=AFTERMATH):
        return SILENCE
    return MESSAGE


def _who(one: Asked) -> Sequence[str]:
    """The instances that may have answered."""
    name = one.told.get("by", "") if one.instance == "front" else one.instance
    return [name] if name in INSTANCES else INSTANCES


def _asked_of(one: Asked) -> Sequence[str]:
    return INSTANCES if one.instance == "front" else [one.instance]


def limits(log: Sequence[Asked], most: int, window: float, rate: float, burst: int) -> list[Violation]:
    """Shared decisions keep the limit in every window; what a process decided alone keeps it there, too."""
    found = []
    passed = [one for one in log if one.kind == "GET limit" and one.status == 200 and one.told["allowed"]]
    alone: dict[str, list[Asked]] = defaultdict(list)
    for one in passed:
        if one.told["degraded"]:
            alone[one.told["who"]].append(one)
    for name, group in (
        ("shared", [one for one in passed if not one.told["degraded"]]),
        *alone.items(),
    ):
        found += _over(
            f"window, {name}", [one for one in group if one.asked["limit"] == "window"], window - EARLY, most
        )
        buckets = [one for one in group if one.asked["limit"] == "bucket"]
        for span in (0.5, 1.0, 2.0, 5.0, 20.0):
            found += _over(f"bucket, {name}", buckets, span, burst + rate * (span + EARLY))
    return found


def _over(what: str, group: Iterable[Asked], span: float, most: float) -> list[Violation]:
    """Windows of ``span`` seconds into which more than ``most`` requests fall, from question to answer."""
    ordered = sorted(group, key=lambda one: one.answered)
    for first in sorted(ordered, key=lambda one: one.sent):
        within = [one for one in ordered if one.sent >= first.sent and one.answered <= first.sent + span]
        if len(within) > most:
            text = f"{what}: {len(within)} within {span:g} s, {most:g} are allowed"
            return [Violation("limits", text, [str(one) for one in within])]
    return []


class Held(NamedTuple):
    """A slot or a lane in the hands of a process."""

    what: str
    who: str
    begin: float
    end: float
    lost: bool


def slots(events: Sequence[dict[str, Any]], ends: dict[str, float], history: History) -> list[Violation]:
    """Two never hold the one slot of a client, but while Redis is away, or one is known to be lost."""
    held = _held(events, ends, "slot", "slot end", lambda event: [(event["client"], event["number"])])
    return [
        Violation("slots", f"{one.what}: held by {one.who} and {two.who}", [str(one), str(two)])
        for one, two in _overlaps(held)
        if not one.lost
        and not two.lost
        and not history.during(one.begin, two.begin, "queue", after=AFTERMATH)
        and not history.during(one.begin, two.begin, "instance", instances=[instance_of(one.who)])
    ]


def _held(
    events: Sequence[dict[str, Any]], ends: dict[str, float], begin: str, end: str, names: Any
) -> list[Held]:
    """Pairs of events; one without an end lasts as long as its process."""
    running: dict[tuple[str, Any, Any], float] = {}
    held = []
    for event in events:
        for name, number in names(event) if event["kind"] in (begin, end) else ():
            key = (event["who"], name, number)
            if event["kind"] == begin:
                running[key] = event["at"]
            elif key in running:
                held.append(Held(name, event["who"], running.pop(key), event["at"], event.get("lost", False)))
    held += [
        Held(name, who, at, ends.get(who, float("inf")), lost=False) for (who, name, _), at in running.items()
    ]
    return held


def _overlaps(held: list[Held]) -> list[tuple[Held, Held]]:
    found = []
    groups: dict[str, list[Held]] = defaultdict(list)
    for one in sorted(held, key=lambda one: one.begin):
        found += [(before, one) for before in groups[one.what] if before.end > one.begin]
        groups[one.what] = [before for before in groups[one.what] if before.end > one.begin] + [one]
    return found


def lanes(
    events: Sequence[dict[str, Any]], ends: dict[str, float], history: History, before: float
) -> list[Violation]:
    """Of a lane one item at a time, in the order of submission; ``before`` dead letters were replayed."""
    handled = [event for event in events if event["kind"] in ("begin", "end") and event["at"] < before]
    held = _held(handled, ends, "begin", "end", lambda e: [(name, (e["run"], n)) for name, n in e["lanes"]])
    found = [
        Violation("lanes", f"{one.what}: {one.who} and {two.who} at a time", [str(one), str(two)])
        for one, two in _overlaps(held)
        if not history.during(one.begin, two.begin, "instance", instances=[instance_of(one.who)])
    ]
    last: dict[str, tuple[int, dict[str, Any]]] = {}
    for event in handled:
        for name, number in event["lanes"] if event["kind"] == "begin" else ():
            newest, shown = last.get(name, (-1, {}))
            if number < newest:
                frozen = history.during(
                    shown["at"] - 15, event["at"], "instance", instances=[instance_of(event["who"])]
                )
                if not frozen:
                    text = f"{name}: {number} begins after {newest}"
                    found.append(Violation("lanes", text, [str(shown), str(event)]))
            else:
                last[name] = (number, event)
    return found


def outcomes(log: Sequence[Asked], done: set[str], final: dict[str, dict[str, Any]]) -> list[Violation]:
    """Every item that was taken has ended, once, and left its effect; none that was refused has one."""
    taken: dict[str, Asked] = {}
    refused: dict[str, Asked] = {}
    fails, unsure = set(), set()
    for one in log:
        if one.kind != "POST batch":
            continue
        for number, item in enumerate(one.asked["items"]):
            key = item["key"]
            if item["data"].get("fails"):
                fails.add(key)
            refusal = one.told["refusals"][number] if one.status == 200 else "unknown"
            if not refusal:
                taken[key] = one
            elif refusal == "unknown":
                unsure.add(key)
            else:
                refused[key] = one
    found = []
    for key, one in taken.items():
        state = final.get(key, {}).get("state")
        if state != ("failed" if key in fails else "done"):
            found.append(Violation("outcomes", f"{key} was taken and is {state}", [str(one)]))
        elif state == "done" and key not in done:
            found.append(Violation("outcomes", f"{key} is done without its effect", [str(one)]))
    found += [
        Violation("outcomes", f"{key} was refused and handled", [str(refused[key])])
        for key in sorted((refused.keys() & done) - taken.keys() - unsure)
    ]
    return found + _changed_outcomes(log, final)


def _changed_outcomes(log: Sequence[Asked], final: dict[str, dict[str, Any]]) -> list[Violation]:
    found = []
    for one in log:
        if one.kind == "GET result" and one.status == 200 and one.told["state"] in ("done", "failed"):
            last = final.get(one.asked["id"])
            if last and (one.told["state"], one.told["result"]) != (last["state"], last["result"]):
                found.append(
                    Violation("outcomes", f"{one.asked['id']} ended twice", [str(one), f"at the end {last}"])
                )
    return found


def answers(log: Sequence[Asked], history: History, healed: float) -> list[Violation]:
    """No answer but those that the documents promise, and no failure once all has healed."""
    found = []
    for one in log:
        if one.status == 500 or one.status not in (NO_ANSWER, 200, 429, 502, 503):
            found.append(Violation("answers", f"{one.kind}: {one.status}", [str(one)]))
        elif one.status == 503 and not one.told["retry"]:
            found.append(Violation("answers", f"{one.kind}: 503 without Retry-After", [str(one)]))
        elif one.status == NO_ANSWER and not history.during(
            one.sent, one.answered, "instance", instances=_asked_of(one), after=AFTERMATH
        ):
            found.append(Violation("answers", f"{one.kind}: no answer", [str(one)]))
        elif one.status not in (200, 429) and not _has_cause(one, history):
            found.append(Violation("answers", f"{one.kind}: {one.status} without a fault", [str(one)]))
        elif (
            one.status not in (200, 429)
            and one.sent > healed
            and not history.during(one.sent, one.answered, MACHINE, after=AFTERMATH)
        ):
            found.append(Violation("answers", f"{one.kind}: {one.status} after all had healed", [str(one)]))
        elif (less := _less_than_whole(one)) and not history.during(one.sent, one.answered, after=30.0):
            found.append(Violation("answers", f"{one.kind}: {less} without a fault", [str(one)]))
    return found


def _has_cause(one: Asked, history: History) -> bool:
    """Whether what the request needs was broken, or an instance that the front may have asked."""
    needed = NEEDS.get(one.kind, ())
    return bool(
        history.during(one.sent, one.answered, "instance", instances=_asked_of(one), after=LATE)
        or (needed and history.during(one.sent, one.answered, *needed, after=LATE))
    )


def _less_than_whole(one: Asked) -> str:
    """What an answer says to be missing; "" if nothing is. A message may wait for longer than it has time."""
    if one.told.get("degraded"):
        return "degraded"
    missing = [error for error in one.told.get("errors", ()) if "OutboundDeadlineError" not in error]
    return ", ".join([*filter(None, one.told.get("refusals", ())), *filter(None, missing)])
