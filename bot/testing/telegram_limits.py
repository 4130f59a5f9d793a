"""Telegram's flood limits as its server is known to apply them, for tests (pure).

Written apart from :mod:`bot.core.outbound` on purpose: it judges what that sends, and must not share its
faults.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal, NamedTuple

from msgspec import Struct

from bot.core._shared.errors import invalid

Window = tuple[int, float]
"""At most so many within any so many seconds."""

Kind = Literal["message", "edit", "action", "other"]
"""What a request is for the limits; "other" has none."""

_ROUNDING = 1e-9


class ServerLimits(Struct, frozen=True, kw_only=True):
    """What the server allows one bot. Telegram publishes few of these figures and changes them.

    Windows are (requests, seconds). ``group``: messages in a group or channel, over all topics. ``chat`` and
    ``chat_burst``: messages to a private chat at that rate, after a burst. ``bulk``: messages to all
    chats together; ``paid``: the same for paid broadcasts. ``edits``: whether edits count with the
    messages of their chat ("shared") or have the same limits for themselves ("separate"). ``actions``: chat
    actions in a chat, all windows at once. ``partial_albums``: an album that does not fit is sent in part
    and answered with 400; False: it is refused whole, with 429.

    A refused chat is refused until the time it was told. The first ``penalty_free`` requests
    that come before are told the rest of it; each later one makes the wait ``penalty_growth`` times as long,
    ``penalty_most`` seconds at most. Requests within ``penalty_grace`` s of a refusal that began a wait or
    made it longer do neither: they may have been on their way. More than ``active`` requests at once are
    refused for ``active_wait`` s.
    Raises ValueError for what is out of bounds.
    """

    group: Window = (20, 60.0)
    chat: Window = (1, 1.0)
    chat_burst: int = 5
    bulk: Window = (30, 1.0)
    paid: Window = (1000, 1.0)
    edits: Literal["shared", "separate"] = "shared"
    actions: tuple[Window, ...] = ((20, 5.0), (40, 30.0))
    partial_albums: bool = True
    penalty_free: int = 3
    penalty_growth: float = 2.0
    penalty_most: float = 21_600.0
    penalty_grace: float = 1.0
    active: int = 1_000
    active_wait: int = 60

    def __post_init__(self) -> None:
        for name in ("group", "chat", "bulk", "paid"):
            _check_window(name, getattr(self, name))
        if not isinstance(self.actions, tuple):
            raise invalid("actions", self.actions, "a tuple of windows (requests, seconds)")
        for window in self.actions:
            _check_window("actions", window)
        if self.edits not in ("shared", "separate"):
            raise invalid("edits", self.edits, '"shared" or "separate"')
        for name, least in (("chat_burst", 1), ("penalty_free", 0), ("active", 1), ("active_wait", 1)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= 1_000_000:
                raise invalid(name, value, f"a whole number from {least} to 1,000,000")
        for name in ("penalty_growth", "penalty_most"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 1 <= value <= 1e9:
                raise invalid(name, value, "a number from 1 to 1e9")
        if type(self.penalty_grace) not in (int, float) or not 0 <= self.penalty_grace <= 1e9:
            raise invalid("penalty_grace", self.penalty_grace, "seconds from 0 to 1e9")


def _check_window(name: str, value: object) -> None:
    allowed = "(requests from 1 to 1,000,000, seconds above 0 and at most 86,400)"
    if not isinstance(value, tuple) or len(value) != 2:
        raise invalid(name, value, allowed)
    count, seconds = value
    if type(count) is not int or not 1 <= count <= 1_000_000:
        raise invalid(name, value, allowed)
    if type(seconds) not in (int, float) or not 0 < seconds <= 86_400:
        raise invalid(name, value, allowed)


class Verdict(NamedTuple):
    """What becomes of a request."""

    admitted: int
    """Messages of it that are sent: all, none, or the first ones of an album."""
    retry_after: int = 0
    """Whole seconds, rounded up, until the rest may come; 0: all were admitted."""
    in_penalty: bool = False
    """It came before the time that an earlier refusal had told."""


class _SlidingWindow:
    """At most ``limit`` within any ``seconds``: the moments at which the last ones came."""

    __slots__ = ("limit", "seconds", "stamps", "used")

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.stamps: deque[tuple[float, int]] = deque()
        self.used = 0

    def room(self, now: float) -> int:
        while self.stamps and self.stamps[0][0] + self.seconds <= now + _ROUNDING:
            self.used -= self.stamps.popleft()[1]
        return self.limit - self.used

    def wait(self, cost: int, now: float) -> float:
        """Seconds until ``cost`` has room, or the whole limit if it costs more than that."""
        lacking = min(cost, self.limit) - self.room(now)
        for at, taken in self.stamps:
            if lacking <= 0:
                break
            lacking -= taken
            if lacking <= 0:
                return at + self.seconds - now
        return 0.0

    def take(self, cost: int, now: float) -> None:
        cost = min(cost, self.limit)
        self.stamps.append((now, cost))
        self.used += cost


class _Burst:
    """A burst, then an even rate: tokens that are refilled."""

    __slots__ = ("interval", "limit", "refilled_at")

    def __init__(self, limit: int, interval: float) -> None:
        self.limit = limit
        self.interval = interval
        self.refilled_at = -math.inf

    def room(self, now: float) -> int:
        owed = max(0.0, self.refilled_at - now) / self.interval
        return max(0, math.floor(self.limit - owed + _ROUNDING))

    def wait(self, cost: int, now: float) -> float:
        owed = max(0.0, self.refilled_at - now)
        wait = owed - (self.limit - min(cost, self.limit)) * self.interval
        return wait if wait > _ROUNDING else 0.0

    def take(self, cost: int, now: float) -> None:
        cost = min(cost, self.limit)
        self.refilled_at = max(self.refilled_at, now) + cost * self.interval


class _Scope:
    """What is limited together, with the penalty for exceeding it."""

    __slots__ = ("came_early", "length", "rates", "since", "until")

    def __init__(self, *rates: _SlidingWindow | _Burst) -> None:
        self.rates = rates
        self.until = -math.inf
        self.since = -math.inf
        self.length = 0.0
        self.came_early = 0

    def room(self, now: float) -> int:
        return min(rate.room(now) for rate in self.rates)

    def wait(self, cost: int, now: float) -> float:
        return max(rate.wait(cost, now) for rate in self.rates)

    def take(self, cost: int, now: float) -> None:
        for rate in self.rates:
            rate.take(cost, now)

    def penalize(self, seconds: float, now: float) -> None:
        self.until = max(self.until, now + seconds)
        self.since = now
        self.length = self.until - now
        self.came_early = 0

    def sent_into_penalty(self, limits: ServerLimits, now: float) -> None:
        if now < self.since + limits.penalty_grace - _ROUNDING:
            return
        self.came_early += 1
        if self.came_early > limits.penalty_free:
            self.since = now
            self.length = max(self.length, min(self.length * limits.penalty_growth, limits.penalty_most))
            self.until = max(self.until, now + self.length)

    def idle(self, now: float) -> bool:
        return self.until <= now and all(rate.room(now) == rate.limit for rate in self.rates)


class TelegramLimits:
    """The limits of one bot. Each method is told the time in seconds, which never goes back."""

    def __init__(self, limits: ServerLimits | None = None) -> None:
        self.limits = limits or ServerLimits()
        self.active = 0
        # One scope for the messages of a chat, one for its actions, one for its edits if they are separate.
        self._scopes: dict[tuple[str, int], _Scope] = {}
        self._sweep_at = 1_024
        self._bulk = _Scope(_SlidingWindow(*self.limits.bulk))
        self._paid = _Scope(_SlidingWindow(*self.limits.paid))

    def admit(
        self, chat: int, kind: Kind, now: float, *, cost: int = 1, paid: bool = False, album: bool = False
    ) -> Verdict:
        """Decide about a request of ``cost`` messages to ``chat``, and count what is admitted.

        What costs more than a limit is admitted when nothing else counts there, and fills it.
        """
        if kind == "other":
            return Verdict(cost)
        counted, held_by = self._scopes_of(chat, kind, paid, now)
        early = [scope for scope in (*counted, *held_by) if now < scope.until - _ROUNDING]
        if early:
            for scope in early:
                scope.sent_into_penalty(self.limits, now)
            rests = [scope.until - now for scope in early]
            return Verdict(0, _whole(max(*rests, *(scope.wait(cost, now) for scope in counted))), True)
        waits = [scope.wait(cost, now) for scope in counted]
        if max(waits) <= 0.0:
            for scope in counted:
                scope.take(cost, now)
            return Verdict(cost)
        admitted = 0
        if album and self.limits.partial_albums:
            admitted = min(cost, *(scope.room(now) for scope in counted))
            if admitted:
                for scope in counted:
                    scope.take(admitted, now)
                waits = [scope.wait(cost - admitted, now) for scope in counted]
        for scope, wait in zip(counted, waits, strict=True):
            if wait > 0.0:
                scope.penalize(wait, now)
        return Verdict(admitted, _whole(max(waits)))

    def penalize(self, chat: int | None, seconds: float, now: float) -> None:
        """Refuse messages to ``chat``, or to all if it is None, for ``seconds``."""
        scope = self._bulk if chat is None else self._scope("message", chat, now)
        scope.penalize(seconds, now)
        if chat is None:
            self._paid.penalize(seconds, now)

    def begin(self) -> int:
        """A request came in: 0, or the seconds for which it is refused, as too many are active."""
        self.active += 1
        return self.limits.active_wait if self.active > self.limits.active else 0

    def end(self) -> None:
        """A request that began was answered, or its client has gone."""
        self.active -= 1

    def _scopes_of(
        self, chat: int, kind: Kind, paid: bool, now: float
    ) -> tuple[tuple[_Scope, ...], tuple[_Scope, ...]]:
        """The scopes in which it counts, and those whose penalties hold it though it does not count."""
        messages = self._scope("message", chat, now)
        if kind == "action":
            return (self._scope("action", chat, now),), (messages,)
        everywhere = self._paid if paid else self._bulk
        if kind == "edit" and self.limits.edits == "separate":
            return (self._scope("edit", chat, now), everywhere), ()
        return (messages, everywhere), ()

    def _scope(self, kind: str, chat: int, now: float) -> _Scope:
        scope = self._scopes.get((kind, chat))
        if scope is None:
            if len(self._scopes) >= self._sweep_at:
                self._scopes = {key: scope for key, scope in self._scopes.items() if not scope.idle(now)}
                self._sweep_at = max(1_024, 2 * len(self._scopes))
            scope = self._scopes[kind, chat] = self._new_scope(kind, chat)
        return scope

    def _new_scope(self, kind: str, chat: int) -> _Scope:
        limits = self.limits
        if kind == "action":
            if limits.actions:
                return _Scope(*(_SlidingWindow(*window) for window in limits.actions))
            return _Scope(_SlidingWindow(1_000_000, 1.0))
        if chat < 0:
            return _Scope(_SlidingWindow(*limits.group))
        count, seconds = limits.chat
        return _Scope(_Burst(limits.chat_burst, seconds / count))

    def check_invariants(self) -> None:
        """For tests."""
        assert self.active >= 0
        for scope in (self._bulk, self._paid, *self._scopes.values()):
            assert scope.since == -math.inf or scope.until <= scope.since + scope.length + 1e-6
            for rate in scope.rates:
                if isinstance(rate, _SlidingWindow):
                    assert rate.used == sum(cost for _, cost in rate.stamps)
                    assert 0 <= rate.used <= rate.limit
                    times = [at for at, _ in rate.stamps]
                    assert times == sorted(times)


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds - _ROUNDING))
