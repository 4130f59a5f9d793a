"""Who has a slot under a ConcurrencyLimit, and who waits for one (pure: futures and loops are only held)."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from bot.core.rate_limiter.concurrency import ConcurrencyLimit, SlotStatus
from bot.core.rate_limiter.models import ClientId


class Hold:
    """A slot that is taken or waited for."""

    __slots__ = (
        "alone", "client", "flight", "future", "in_line", "is_asking", "is_called", "is_counted", "is_held",
        "key", "lease", "loop", "name", "pid", "renewed", "was_leased", "was_overtaken",
    )  # fmt: skip

    def __init__(self, flight: InFlight, client: ClientId, loop: Any, pid: int) -> None:
        self.flight = flight
        self.client = client
        self.loop = loop
        """The event loop of the caller."""
        self.pid = pid
        """The process that took it: a child that was forked has a copy, which counts for nothing."""
        # Changed only by InFlight: at most one of them is true.
        self.is_held = False
        self.in_line = False
        self.future: Any = None
        """Of the caller that waits: True if it may go on, False if it waited too long."""
        self.alone = True
        """Whether this process decides: nothing is shared, or Redis is away."""
        # What follows is of a shared slot, and changed by SharedSlots.
        self.key = self.name = b""
        self.is_asking = False
        """Whether its first call is under way."""
        self.is_called = False
        """Whether Redis gave it the slot while the call was under way."""
        self.lease = 0.0
        self.renewed = -math.inf
        """When the call was sent that the lease counts from."""
        self.was_leased = self.was_overtaken = self.is_counted = False

    def is_lost(self, now: float) -> bool:
        """Whether others may have its place: its lease has ended, or did, and the place was taken."""
        if not self.was_leased or not self.is_held:
            return False
        return self.was_overtaken or now - self.renewed > self.lease


class InFlight:
    """The slots of all clients under one limit, and who waits for one, in order.

    Nothing is kept of a client that has no slot and waits for none.
    """

    __slots__ = ("asking", "granted", "held", "limit", "lines", "lost", "refused")

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.limit = limit
        # Changed by the methods below only. A line is in order of arrival.
        self.held: dict[ClientId, int] = {}
        self.lines: dict[ClientId, OrderedDict[Hold, None]] = {}
        self.asking = 0
        """Callers that ask Redis."""
        self.granted = self.refused = self.lost = 0

    def has_room(self, client: ClientId) -> bool:
        """Whether the client has fewer slots than the limit allows."""
        return self.held.get(client, 0) < self.limit.max_in_flight

    def take(self, hold: Hold) -> bool:
        """Take a slot if there is one and nobody waits for it."""
        if hold.client in self.lines or not self.has_room(hold.client):
            return False
        self.grant(hold)
        return True

    def grant(self, hold: Hold) -> None:
        """The caller has a slot now, whether or not there is room: another has decided so."""
        if hold.is_held:
            return
        self._leave_line(hold)
        hold.is_held = True
        self.held[hold.client] = self.held.get(hold.client, 0) + 1
        self.granted += 1

    def join(self, hold: Hold) -> None:
        """Wait behind those that wait already."""
        hold.in_line = True
        line = self.lines.get(hold.client)
        if line is None:
            line = self.lines[hold.client] = OrderedDict()
        line[hold] = None

    def first_in_line(self, client: ClientId) -> Hold | None:
        """Who has waited longest for a slot of the client; None if nobody waits."""
        line = self.lines.get(client)
        return None if line is None else next(iter(line))

    def leave(self, hold: Hold) -> None:
        """Give back the slot, or the place in the line."""
        self._leave_line(hold)
        if hold.is_held:
            hold.is_held = False
            left = self.held[hold.client] - 1
            if left:
                self.held[hold.client] = left
            else:
                del self.held[hold.client]

    def _leave_line(self, hold: Hold) -> None:
        if hold.in_line:
            hold.in_line = False
            line = self.lines[hold.client]
            del line[hold]
            if not line:
                del self.lines[hold.client]

    def status(self, client: ClientId, *, degraded: bool = False) -> SlotStatus:
        """What this instance knows of a client."""
        waiting = len(self.lines.get(client, ()))
        return SlotStatus(self.held.get(client, 0), self.limit.max_in_flight, waiting, degraded)

    def figures(self) -> tuple[int, int, int, int, int]:
        """Slots in flight, callers that wait, slots granted, refused and lost."""
        waiting = sum(map(len, self.lines.values()))
        return sum(self.held.values()), waiting, self.granted, self.refused, self.lost

    @property
    def is_idle(self) -> bool:
        """Whether no client has a slot, waits for one or asks for one."""
        return not (self.held or self.lines or self.asking)

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        assert all(count > 0 for count in self.held.values()), "a client without a slot is not kept"
        for client, line in self.lines.items():
            assert line, "an empty line is not kept"
            for hold in line:
                assert hold.in_line, "who is in a line knows it"
                assert not hold.is_held, "who has a slot does not wait"
                assert (hold.client, hold.flight) == (client, self)
