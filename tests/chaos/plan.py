"""Which faults happen when: drawn from a seed, known to the oracles (pure)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

INSTANCES = ("a", "b", "c")

NETWORK = ("cut", "delay", "drip", "refuse", "hole to", "hole from", "half open")
"""What a proxy does: to one instance, or to all."""

_SERVERS = {
    "cache": (*NETWORK, "kill", "freeze", "fill", "demote", "evict", "flush"),
    "queue": (*NETWORK, "kill", "freeze", "fill", "demote"),
    "postgresql": (*NETWORK, "kill", "freeze", "terminate", "connections", "read only"),
    "mysql": (*NETWORK, "kill", "freeze", "terminate", "connections", "read only"),
}
_INSTANCE = ("kill", "freeze", "stop")
_TELEGRAM = ("error", "hold", "delay")

MOMENTARY = frozenset({"cut", "terminate", "flush"})
"""Faults that have no length."""

MACHINE = "machine"
"""Target of what no plan has: the machine was too busy to run a process for a while."""

NEVER_KILLED = "c"
"""Its memory, descriptors and tasks are watched from the start to the end."""


@dataclass(frozen=True)
class Fault:
    """One fault. ``at``: seconds from the start of the load; ``instance``: whose link, or "" for all."""

    at: float
    seconds: float
    target: str
    kind: str
    instance: str = ""

    def __str__(self) -> str:
        whom = f" of {self.instance}" if self.instance else ""
        return f"{self.at:6.1f} s  {self.target}{whom}: {self.kind}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Happened:
    """A fault as it was: on the machine's monotonic clock."""

    fault: Fault
    begin: float
    end: float


def kinds(targets: Iterable[str]) -> list[tuple[str, str]]:
    """Every (target, kind) for these servers, with instances and Telegram."""
    found = [(target, kind) for target in targets for kind in _SERVERS[target]]
    found += [("instance", kind) for kind in _INSTANCE]
    return found + [("telegram", kind) for kind in _TELEGRAM]


def draw(seed: int, targets: Sequence[str], begin: float, end: float, rest: float = 3.0) -> list[Fault]:
    """Faults from ``begin`` to ``end`` (all have ended then), about ``rest`` seconds between two.

    Two rows of them, so that two may happen at a time, but never two of the same target. Every kind comes
    before one comes again.
    """
    chance = random.Random(seed)
    deck = _deck(chance, kinds(targets))
    faults: list[Fault] = []
    free = dict.fromkeys([*targets, "instance", "telegram"], begin)
    rows = [begin, begin + rest]
    while min(rows) < end:
        row = rows.index(min(rows))
        target, kind = next(deck)
        at = max(rows[row], free[target]) + chance.uniform(0.2, 2.0) * rest
        seconds = (
            0.0 if kind in MOMENTARY else chance.choice((0.5, 1.5, 3.0, 6.0, 9.0)) * chance.uniform(0.7, 1)
        )
        rows[row] = at + seconds
        if at + seconds > end:
            continue
        free[target] = at + seconds + rest
        faults.append(Fault(at, seconds, target, kind, _whom(chance, target, kind)))
    return sorted(faults, key=lambda fault: fault.at)


def _deck(chance: random.Random, cards: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    while True:
        chance.shuffle(cards)
        yield from list(cards)


def _whom(chance: random.Random, target: str, kind: str) -> str:
    if target == "instance":
        whom = INSTANCES if kind == "freeze" else [name for name in INSTANCES if name != NEVER_KILLED]
        return chance.choice(list(whom))
    return chance.choice(("", "", *INSTANCES)) if kind in NETWORK and target != "telegram" else ""


@dataclass
class History:
    """The faults that happened, and the questions that oracles ask of them."""

    happened: list[Happened] = field(default_factory=list)

    def during(
        self, begin: float, end: float, *targets: str, instances: Sequence[str] = (), after: float = 0.0
    ) -> list[Happened]:
        """Faults of ``targets`` that overlap the time, ``after`` seconds of aftermath included.

        ``instances``: only what concerns one of them; a fault of all instances concerns each.
        """
        return [
            one
            for one in self.happened
            if one.begin <= end
            and one.end + after >= begin
            and (not targets or one.fault.target in (*targets, MACHINE))
            and (not instances or not one.fault.instance or one.fault.instance in instances)
        ]

    def add_stall(self, begin: float, end: float, instance: str = "") -> None:
        """A process stood still by itself; "" is the one that all requests pass through."""
        self.happened.append(Happened(Fault(begin, end - begin, MACHINE, "stall", instance), begin, end))

    @property
    def over(self) -> float:
        """When the last one ended."""
        ends = [one.end for one in self.happened if one.fault.target != MACHINE]
        return max(ends, default=0.0)
