"""Items that are submitted again and again, a period apart (pure)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from bot.core._shared.errors import invalid
from bot.core._shared.validation import YEAR, valid_plain_name, valid_seconds
from bot.core.batch_processor.checks import check_priority
from bot.core.batch_processor.lanes import valid_lane
from bot.core.batch_processor.models import Plan
from bot.core.batch_processor.terms import seconds_of

SHORTEST_PERIOD = 1.0
"""Seconds."""

MOST_PERIODIC = 1_000
"""Names at once."""


def valid_plan(
    name: object, data: Any, every: object, priority: object, lane: object, jitter: object
) -> Plan:
    """Check the arguments of ``submit_periodic``; raises InvalidArgumentError."""
    name = valid_plain_name("name", name)
    seconds = seconds_of("every", every)
    if seconds < SHORTEST_PERIOD:
        raise invalid("every", every, f"at least {SHORTEST_PERIOD:g} second")
    check_priority(priority)
    late = valid_seconds("jitter", jitter, zero=True, most=YEAR)
    if late >= seconds:
        raise invalid("jitter", jitter, f"fewer seconds than every = {seconds:g}")
    checked_lane = None if lane is None else valid_lane(lane)
    return Plan(name, data, seconds, priority, checked_lane, late)  # type: ignore[arg-type]  # an int, by its check


def next_tick(anchor: float, every: float, now: float) -> float:
    """The first time after now on the grid of ``every`` seconds through ``anchor``.

    Counted from the anchor, so that it does not drift; what was missed is left out.
    """
    tick = anchor + (math.floor((now - anchor) / every) + 1) * every
    return tick if tick > now else tick + every  # where rounding has lost the difference


class Schedule:
    """The plans of this process by name, and when each is due next.

    A plan is due once for all periods that were missed.
    """

    __slots__ = ("_anchors", "_due", "_plans", "skipped")

    def __init__(self) -> None:
        # Changed by put, remove, take_due and clear; all have the same names.
        self._plans: dict[str, Plan] = {}
        self._anchors: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self.skipped = 0
        """Periods in which nothing was submitted: the item before was pending, or there was no room."""

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[tuple[Plan, float]]:
        """Each plan, and when it is due, by name."""
        return iter([(self._plans[name], self._due[name]) for name in sorted(self._plans)])

    def put(self, plan: Plan, now: float) -> float:
        """Add a plan, or replace that of its name, which keeps its times if the period is the same.

        Returns when it is due: the first time a period from now. Raises InvalidArgumentError if there are
        too many.
        """
        name = plan.name
        before = self._plans.get(name)
        if before is None and len(self._plans) >= MOST_PERIODIC:
            raise too_many(name)
        self._plans[name] = plan
        if before is None or before.every != plan.every:
            self._anchors[name] = now
            self._set_next(name, now)
        return self._due[name]

    def _set_next(self, name: str, now: float) -> None:
        plan = self._plans[name]
        tick = next_tick(self._anchors[name], plan.every, now)
        self._due[name] = tick + (random.uniform(0.0, plan.jitter) if plan.jitter else 0.0)

    def remove(self, name: str) -> bool:
        """Forget a plan; False if there is none."""
        self._anchors.pop(name, None)
        self._due.pop(name, None)
        return self._plans.pop(name, None) is not None

    def clear(self) -> None:
        """Forget all."""
        self._plans.clear()
        self._anchors.clear()
        self._due.clear()

    def next_due(self) -> float:
        """When the first is due; infinity if there is none."""
        return min(self._due.values(), default=math.inf)

    def take_due(self, now: float) -> list[Plan]:
        """The plans that are due, each once; the next time of each is after now."""
        names = sorted((name for name, due in self._due.items() if due <= now), key=self._due.__getitem__)
        for name in names:
            self._set_next(name, now)
        return [self._plans[name] for name in names]

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests."""
        assert set(self._plans) == set(self._anchors) == set(self._due)
        assert len(self._plans) <= MOST_PERIODIC


def too_many(name: str) -> ValueError:
    """The error for one name more than there may be."""
    return invalid("name", name, f"one of at most {MOST_PERIODIC:,} names; remove_periodic makes room")
