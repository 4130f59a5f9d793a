"""A chat's lanes: what waits to be sent to it, in order, and what is on its way (pure)."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from bot.core.outbound.chat_limits import ChatLimit, GroupLimit, PrivateLimit, TypingLimit
from bot.core.outbound.gates import Gate
from bot.core.outbound.keys import Key
from bot.core.outbound.models import Chat, Kind, Priority, is_private
from bot.core.outbound.penalties import Slowdown
from bot.core.outbound.rates import Rates
from bot.core.outbound.reservations import Reservation

_SEND, _EDIT, _TYPING, _OTHER = Kind.SEND, Kind.EDIT, Kind.TYPING, Kind.OTHER
_ANSWER = Priority.ANSWER


class Claim:
    """One caller's wish to send. The last claim of an entry is the one that is sent for all of them."""

    __slots__ = ("chat", "content", "deadline", "entry", "expires_at", "future", "message")

    def __init__(self, entry: Entry, now: float, deadline: float | None) -> None:
        # None once it is over for this caller. Changed by the scheduler.
        self.entry: Entry | None = entry
        self.chat = entry.chat
        self.message = entry.message
        self.content = entry.content
        self.deadline = deadline
        self.expires_at = math.inf if deadline is None else now + deadline
        # How its caller is woken; the service's.
        self.future: Any = None


class Entry:
    """A place in a chat's lane, and the claims that share it."""

    __slots__ = (
        "answers", "attempts", "chat", "claims", "content", "cost", "departed", "gate", "key", "kind", "lane",
        "limit", "message", "priority", "ready_since", "reservation", "starved",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        chat: Chat,
        *,
        cost: int = 1,
        priority: Priority = Priority.NOTIFY,
        key: Key | None = None,
        message: Key | None = None,
        content: bytes | None = None,
        paid: bool = False,
    ) -> None:
        self.kind = kind
        self.chat = chat
        self.cost = cost
        self.priority = priority
        self.key = key
        self.message = message
        # A digest of what its first caller's edit makes of the message; each claim has its own.
        self.content = content
        if kind is _SEND or kind is _EDIT:
            self.gate = Gate.PAID if paid else Gate.BULK
        else:
            self.gate = Gate.NONE
        self.claims: list[Claim] = []
        self.attempts = 0
        # When it left, what it counts in until it has been answered, and since when its lane had been ready.
        self.departed = self.ready_since = 0.0
        self.limit: ChatLimit | None = None
        # How it left, which is more than its own priority says: with an answer behind it, or after having
        # waited too long. Changed by the scheduler.
        self.answers = self.starved = False
        # Its place in windows that instances share. Changed by the shared budget.
        self.reservation: Reservation | None = None
        # While it waits or is in flight. Changed by the scheduler.
        self.lane: Lane | None = None

    def drop(self, claim: Claim) -> None:
        """A caller wants it no more. The first and the last of many are found at once."""
        if self.claims[-1] is claim:
            self.claims.pop()
        else:
            self.claims.remove(claim)


class Lane:
    """The requests of one kind to one chat, first in, first out."""

    __slots__ = ("_waiting", "chat", "counts", "in_flight", "kind", "limit", "not_before")

    def __init__(self, chat: ChatState, kind: Kind, limit: ChatLimit | None) -> None:
        self.chat = chat
        self.kind = kind
        # What its requests count in; None: nothing, so they need not keep their order. Changed by its chat.
        self.limit = limit
        # Made for the first that waits, as most need not.
        self._waiting: OrderedDict[Entry, None] | None = None
        self.counts: list[int] = []
        """How many of each priority wait; empty: none ever did. Changed by the methods below only."""
        # Changed by the scheduler.
        self.in_flight = 0
        # What other instances have sent fills the chat's windows until then.
        self.not_before = -math.inf

    @property
    def waiting(self) -> list[Entry]:
        """Those that wait, the next one first."""
        return list(self._waiting or ())

    @property
    def is_empty(self) -> bool:
        """Whether none waits."""
        return not self._waiting

    @property
    def has_turn(self) -> bool:
        """Whether the next may leave as far as order goes, which one in flight holds up."""
        return not self.in_flight or self.limit is None

    @property
    def head(self) -> Entry:
        """The next one. There must be one."""
        assert self._waiting
        return next(iter(self._waiting))

    @property
    def priority(self) -> int:
        """The best of those that wait: an answer behind a broadcast lends it its own."""
        counts = self.counts
        return 0 if counts[0] else 1 if counts[1] else 2 if counts[2] else 3

    def __contains__(self, entry: Entry) -> bool:
        return self._waiting is not None and entry in self._waiting

    def wait(self, cost: int, rates: Rates, now: float) -> float:
        """Seconds for which its chat takes no request of ``cost``; inf: not before an answer has come."""
        until = self.chat.held_until
        if self.not_before > until:
            until = self.not_before
        held = until - now if until > now else 0.0
        if self.limit is None:
            return held
        wait = self.limit.wait(cost, rates, now)
        return wait if wait > held else held

    def add(self, entry: Entry, *, first: bool = False) -> None:
        """It waits from now on, behind all others or before them."""
        if self._waiting is None:
            self._waiting, self.counts = OrderedDict(), [0, 0, 0, 0]
        entry.lane = self
        self._waiting[entry] = None
        self.counts[entry.priority] += 1
        if first:
            self._waiting.move_to_end(entry, last=False)

    def put_first(self, entry: Entry) -> None:
        """One that waits is the next."""
        assert self._waiting is not None
        self._waiting.move_to_end(entry, last=False)

    def remove(self, entry: Entry) -> None:
        """It leaves, or nobody wants it any more."""
        assert self._waiting is not None
        del self._waiting[entry]
        self.counts[entry.priority] -= 1

    def set_priority(self, entry: Entry, priority: Priority) -> None:
        """One that waits has another priority."""
        self.counts[entry.priority] -= 1
        entry.priority = priority
        self.counts[priority] += 1

    def check_invariants(self) -> None:
        assert self._waiting or self.in_flight
        assert self.limit is None or self.in_flight <= 1
        counts = [0, 0, 0, 0]
        for entry in self.waiting:
            assert entry.claims
            assert entry.lane is self
            assert all(claim.entry is entry for claim in entry.claims)
            counts[entry.priority] += 1
        assert counts == (self.counts or [0, 0, 0, 0])


class ChatState:
    """One chat: what is known of it, and its lanes. It is forgotten once it makes no difference."""

    __slots__ = ("_edits", "_messages", "_typing", "held_until", "id", "lanes", "slowdown")

    def __init__(self, chat: Chat) -> None:
        self.id = chat
        self.held_until = -math.inf
        self.slowdown = Slowdown()
        # Each made when the first request counts in it.
        self._messages: ChatLimit | None = None
        """Messages and, unless those have limits of their own, edits."""
        self._edits: ChatLimit | None = None
        self._typing: ChatLimit | None = None
        self.lanes: dict[Kind, Lane] = {}
        """Those in which something waits or is in flight."""

    def lane(self, kind: Kind, rates: Rates) -> Lane:
        """The lane for a kind of requests."""
        lane = self.lanes.get(kind)
        if lane is None:
            lane = self.lanes[kind] = Lane(self, kind, self._limit_of(kind, rates))
        return lane

    def drop_if_unused(self, lane: Lane) -> None:
        """Forget a lane in which nothing waits or is in flight."""
        if lane.is_empty and not lane.in_flight and self.lanes.get(lane.kind) is lane:
            del self.lanes[lane.kind]

    def adopt(self, rates: Rates) -> None:
        """Settings have changed: edits may count elsewhere. What is in flight stays where it counts."""
        for lane in self.lanes.values():
            lane.limit = self._limit_of(lane.kind, rates)

    def abandon(self, now: float) -> None:
        """Nobody waits and nothing is in flight any more. What counts goes on counting."""
        self.lanes = {}
        for limit in self._limits():
            limit.abandon(now)

    def idle_at(self, rates: Rates) -> float:
        """When it is as if it had never been written to; inf: not before something ends."""
        if self.lanes:
            return math.inf
        at = max(self.held_until, self.slowdown.recovered_at())
        for limit in self._limits():
            at = max(at, limit.idle_at(rates))
        return at

    def _limits(self) -> list[ChatLimit]:
        return [limit for limit in (self._messages, self._edits, self._typing) if limit is not None]

    def _limit_of(self, kind: Kind, rates: Rates) -> ChatLimit | None:
        if kind is _OTHER or self.id is None:
            return None
        if kind is _TYPING:
            if self._typing is None:
                self._typing = TypingLimit()
            return self._typing
        if kind is _EDIT and not rates.shared_edits:
            if self._edits is None:
                self._edits = self._new_limit()
            return self._edits
        if self._messages is None:
            self._messages = self._new_limit()
        return self._messages

    def _new_limit(self) -> ChatLimit:
        return PrivateLimit(self.slowdown) if is_private(self.id) else GroupLimit(self.slowdown)

    def check_invariants(self) -> None:
        for limit in self._limits():
            limit.check_invariants()
        for kind, lane in self.lanes.items():
            assert lane.kind is kind
            assert lane.chat is self
            lane.check_invariants()
