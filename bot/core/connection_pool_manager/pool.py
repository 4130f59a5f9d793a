"""Decides which waiter gets which connection, and what happens to the other connections (pure).

A pool only decides: it does no I/O, reads no clock and knows no event loop. Each call returns the actions to
take, and their outcome is reported back: ``opened``, ``checked``, ``was_reset``, ``closed``.

After every call the following holds:
- connections that are being opened, idle, leased, or being checked, reset or closed are together at most
  ``max_size``. One that is being closed counts until it is closed, so that the server never sees more.
- a connection is in exactly one of these states; it is leased to one holder.
- waiters are served in the order they came; a later caller never gets a connection before them.
- if a server refuses, there is one attempt at a time, with growing delays, however many callers wait.
- once a server refuses an operation that only a primary allows, the pool looks for a primary: by one new
  connection at a time, never more often than SEARCH_INTERVAL, and only while calls are refused. The existing
  connections stay in use until one is found; then they are checked before their next lease.

Source of the rules: HikariCP (maximum lifetime with jitter, idle shrink, alive bypass window), and
httpcore's pool for the shape.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from bot.core._shared.backoff import full_jitter
from bot.core._shared.upcoming import Upcoming
from bot.core.connection_pool_manager.models import PoolOptions
from bot.core.connection_pool_manager.stats import Counters

OPEN_LIMIT = 8
"""Connections opened at once: a burst must not become a storm of handshakes."""
RETRY_BASE, RETRY_CAP = 0.05, 1.0
LOGIN_RETRY_BASE, LOGIN_RETRY_CAP = 10.0, 60.0
"""A server that refuses the login is tried rarely: it may lock the account after a few attempts."""
FAILURE_MEMORY = 30.0
"""A failed attempt that is older than this does not delay the next one."""
SEARCH_INTERVAL = 0.5
"""Seconds between two attempts to find a primary while a demoted server refuses calls."""
DEMOTION_MEMORY = 60.0
"""A server that refused nothing for this many seconds is read-only on purpose, and is used for reads only."""
KEEPALIVE_SHARE = 4
"""Each tick pings at most one in four of the idle connections, so that the others can be leased."""
LIFETIME_JITTER = 0.1
"""Lifetimes are shortened by up to this share, so that connections opened together do not die together."""


class Verdict(IntEnum):
    """What a connection needs when its lease ends."""

    CLEAN = 0
    RESET = 1
    DISCARD = 2
    """Only a new connection will do."""
    BROKEN = 3
    """It does not work any more: the server cannot even be told."""
    DEMOTED = 4
    """Clean, but its server says that it is no longer the primary. The pool is told so by an argument."""


BROKEN, LIFETIME, IDLE, DISCARDED, POOL_CLOSED = "broken", "lifetime", "idle", "discarded", "pool closed"
DEMOTED, TOO_MANY = "led to a demoted server", "too many"
"""Why a connection is closed."""


class Slot:
    """One connection. Changed only by the pool, but for ``raw, site, touched, guard, view``."""

    __slots__ = (
        "call",
        "call_since",
        "expires_at",
        "guard",
        "idle_since",
        "is_overdue",
        "leased_at",
        "number",
        "opened_at",
        "proved_at",
        "raw",
        "reported",
        "site",
        "suspect",
        "touched",
        "use_count",
        "view",
    )

    def __init__(self, raw: Any, number: int) -> None:
        self.raw = raw
        self.number = number
        self.opened_at = 0.0
        self.expires_at = 0.0
        self.idle_since = 0.0
        self.proved_at = 0.0
        """When it was last known to work: used, opened or pinged."""
        self.leased_at = 0.0
        self.use_count = 0
        self.reported = False
        self.site: Any = None
        """Where the current lease was acquired."""
        self.touched = False
        """The holder used the driver's own object, so what it did is unknown."""
        self.call: Any = None
        self.call_since = 0.0
        self.is_overdue = False
        """The call that was in progress at the last look, since when, and whether that is too long."""
        self.guard: Any = None
        """The guard of the current lease, once it was used; everything taken from the lease asks it."""
        self.view: Any = None
        """What the current lease gives access to, once it was used."""
        self.suspect = False
        """It may lead to a server that is no longer the primary: check it before its next lease."""


class Waiter:
    """A caller that waits for a connection, until ``deadline`` at most. ``future`` belongs to the runner."""

    __slots__ = ("deadline", "future", "since", "slot")

    def __init__(self, since: float, deadline: float = math.inf) -> None:
        self.since = since
        self.deadline = deadline
        self.slot: Slot | None = None
        self.future: Any = None


class Open(NamedTuple):
    """Open a connection after ``delay`` seconds; then call ``opened`` or ``open_failed``."""

    delay: float


class Close(NamedTuple):
    """Close it, at once if the reason is BROKEN; then call ``closed``."""

    slot: Slot
    reason: str


class Check(NamedTuple):
    """Ping it, or ask it whether it leads to a primary; then call ``checked``."""

    slot: Slot
    is_for_primary: bool = False


class Reset(NamedTuple):
    """Undo what its lease may have left; then call ``was_reset``."""

    slot: Slot


class Grant(NamedTuple):
    """Wake this waiter: the connection is leased to it."""

    waiter: Waiter
    slot: Slot


class Refuse(NamedTuple):
    """Wake this waiter: the pool is closed."""

    waiter: Waiter


class Leak(NamedTuple):
    """Report that a lease has lasted suspiciously long."""

    slot: Slot
    held: float


class Returned(NamedTuple):
    """Report that a lease which was reported as a leak came back."""

    slot: Slot
    held: float


Action = Open | Close | Check | Reset | Grant | Refuse | Leak | Returned


def _idle_since(slot: Slot) -> float:
    return slot.idle_since


class Pool:
    """The connections and the waiters of one pool. Not for concurrent threads; no call awaits."""

    def __init__(
        self,
        options: PoolOptions,
        *,
        is_open: Callable[[Any], bool] = lambda raw: True,
        rng: random.Random | None = None,
    ) -> None:
        self.options = options
        self._is_open = is_open  # called before a connection is leased; must not block or raise
        self.counters = Counters()
        self._rng = rng or random.Random()
        self._validate_after = options.validate_after
        # A connection is in exactly one of these, or among `opening`.
        self.idle: list[Slot] = []  # by idle_since: the last one was used last and is leased first
        self.leased: set[Slot] = set()
        self.proving: set[Slot] = set()  # being checked or reset: soon idle
        self.closing: set[Slot] = set()
        self.opening = 0
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._deadlines = Upcoming(self._waiting, self._waits)  # of the waiters
        self.is_closed = False
        self.failures = 0  # failed attempts to open one, in a row
        self.failed_at = -math.inf
        self.login_refused = False  # why the last one failed
        self.last_error: BaseException | None = None
        # The server refuses what only a primary allows: since when, and when it last did.
        self.demoted_since: float | None = None
        self.refused_at = -math.inf
        self.searched_at = -math.inf
        self.is_searching = False  # the next connection is opened to find a primary
        self.has_other_hosts = False
        """Whether a new connection is never to a demoted server, so that none of those there serves on."""
        self.shrinks_from = 0  # connections when max_size was lowered, until there are no more than that
        self.is_strict = False  # closed or shrinking: every release takes the slow path

    @property
    def total(self) -> int:
        """Connections that exist or are being opened."""
        return len(self.idle) + len(self.leased) + len(self.proving) + len(self.closing) + self.opening

    @property
    def _surplus(self) -> int:
        """How many more there are, apart from those that are being closed, than there may be."""
        return self.total - len(self.closing) - self.options.max_size

    def is_serving(self, now: float) -> bool:
        """Whether callers get connections: new ones can be opened, or the existing ones work.

        A server may refuse more connections than it allows while it serves those it has.
        """
        if self.is_closed or self.demoted_since is not None:
            return False
        if not self.failures:
            return True
        since = self.failed_at - RETRY_CAP
        return any(
            slot.proved_at > since and self._is_open(slot.raw)
            for group in (self.idle, self.leased)
            for slot in group
        )

    # Acquiring.

    def take(self, now: float) -> Slot | None:
        """Lease the connection used last, if it needs no check; None: :meth:`request` one."""
        idle = self.idle
        if idle and not self.waiters:
            slot = idle[-1]
            if (
                now < slot.expires_at
                and now - slot.proved_at <= self._validate_after
                and self._is_open(slot.raw)
            ):
                idle.pop()
                slot.leased_at = now
                slot.use_count += 1
                leased = self.leased
                leased.add(slot)
                counters = self.counters
                counters.acquired += 1
                if len(leased) > counters.peak_active:
                    counters.peak_active = len(leased)
                return slot
        return None

    def take_at_once(self, now: float) -> Slot | None:
        """Lease an idle connection although it may need a ping; None, and counted as failed: there is none.

        For a caller that does not wait. What is out of date, lost or suspected to be demoted is left to the
        other rules.
        """
        if not self.waiters and not self.is_closed:
            for place in range(len(self.idle) - 1, -1, -1):
                slot = self.idle[place]
                if now < slot.expires_at and not slot.suspect and self._is_open(slot.raw):
                    del self.idle[place]
                    slot.leased_at = now
                    slot.use_count += 1
                    self.leased.add(slot)
                    self.counters.acquired += 1
                    self.counters.peak_active = max(self.counters.peak_active, len(self.leased))
                    return slot
        self.counters.timed_out += 1
        return None

    def request(self, waiter: Waiter, now: float) -> list[Action]:
        """Queue ``waiter``, behind all waiters that are already queued."""
        if self.is_closed:
            return [Refuse(waiter)]
        self.waiters[waiter] = None
        if waiter.deadline <= self._deadlines.horizon:
            self._deadlines.add(waiter.deadline, waiter, len(self.waiters))
        if len(self.leased) >= self.options.max_size:
            return []  # the fast path: all are leased, so it can only wait
        return self._serve(now)

    def withdraw(self, waiter: Waiter, now: float, *, cancelled: bool = False) -> list[Action]:
        """Undo a request, whether or not it has been granted meanwhile; not ``cancelled``: it timed out."""
        if cancelled:
            self.counters.cancelled += 1
        else:
            self.counters.timed_out += 1
        slot = waiter.slot
        if slot is not None:
            waiter.slot = None
            return self.release(slot, now, Verdict.CLEAN)
        self.waiters.pop(waiter, None)
        return []

    # Giving back.

    def put(self, slot: Slot, now: float) -> bool:
        """The fast path of a clean release. False if nothing was done: use :meth:`release`."""
        if self.waiters or now >= slot.expires_at or slot.reported or self.is_strict:
            return False
        self.leased.remove(slot)
        slot.idle_since = slot.proved_at = now
        self.idle.append(slot)
        self.counters.released += 1
        return True

    def hand_over(self, slot: Slot, now: float) -> Waiter | None:
        """The fast path of a clean release while callers wait: lease the connection to the first waiter.

        None if nothing was done: use :meth:`release`.
        """
        if not self.waiters or now >= slot.expires_at or slot.reported or self.is_strict:
            return None
        waiter, _ = self.waiters.popitem(last=False)
        waiter.slot = slot
        slot.leased_at = slot.proved_at = now
        slot.use_count += 1
        counters = self.counters
        counters.released += 1
        counters.acquired += 1
        counters.waits.record(now - waiter.since)
        return waiter

    def release(self, slot: Slot, now: float, verdict: Verdict, *, demoted: bool = False) -> list[Action]:
        """End the lease of ``slot``; ``demoted``: its server refused what only a primary allows.

        KeyError if it is not leased.
        """
        self.leased.remove(slot)
        self.counters.released += 1
        slot.idle_since = slot.proved_at = now
        actions: list[Action] = []
        if slot.reported:
            actions.append(Returned(slot, now - slot.leased_at))
        slot.reported = slot.touched = False
        if self.is_closed:
            self._retire(slot, POOL_CLOSED, actions)
        elif demoted and verdict is not Verdict.BROKEN and self._search(slot, now):
            self._retire(slot, DEMOTED, actions)
        elif verdict is Verdict.BROKEN:
            self._retire(slot, BROKEN, actions)
        elif verdict is Verdict.DISCARD:
            self._retire(slot, DISCARDED, actions)
        elif now >= slot.expires_at:
            self._retire(slot, LIFETIME, actions)
        elif self._surplus >= 0:  # without this one
            self._retire(slot, TOO_MANY, actions)
        elif verdict is Verdict.RESET:
            self.proving.add(slot)
            self.counters.resets += 1
            actions.append(Reset(slot))
        elif slot.suspect:
            self.proving.add(slot)
            actions.append(Check(slot, is_for_primary=True))
        else:
            self.idle.append(slot)
        return actions + self._serve(now)

    def _search(self, slot: Slot, now: float) -> bool:
        """Note a refusal of a demoted server; whether this connection is given up to look for the primary."""
        self.refused_at = now
        self.counters.refused_as_demoted += 1
        if slot.suspect:
            return True  # a primary is known, and this is not it
        if self.demoted_since is None:
            self.demoted_since = now
        if self.has_other_hosts:
            self.is_searching = True
            self._suspect_all()
            return True
        if now - self.searched_at < SEARCH_INTERVAL:
            return False
        self.searched_at = now
        self.is_searching = True
        return True

    def _found_primary(self, now: float, *, is_sure: bool, actions: list[Action]) -> None:
        """A new connection leads to a server that accepts writes: the older ones may not."""
        self.demoted_since = None
        if not is_sure:
            for slot in self.idle:
                self._retire(slot, DEMOTED, actions)
            self.idle.clear()
            for slot in self.leased:
                slot.expires_at = -math.inf
        self._suspect_all()

    def _suspect_all(self) -> None:
        """Have each connection asked for its server's role before its next lease."""
        for slot in self.idle:
            slot.suspect = True
            slot.proved_at = -math.inf
        for slot in self.proving:
            slot.suspect = True
        for slot in self.leased:
            slot.suspect = slot.touched = True  # touched: its release takes the slow path

    def overdue(self, now: float) -> list[Waiter]:
        """Waiters whose deadline has passed: :meth:`withdraw` them."""
        return self._deadlines.take_due(now)

    def next_deadline(self) -> float:
        """When the next waiter is overdue; infinity if none waits."""
        return self._deadlines.next_at()

    def _waiting(self) -> list[tuple[float, Waiter]]:
        return [(waiter.deadline, waiter) for waiter in self.waiters]

    def _waits(self, waiter: Waiter, _: float) -> bool:
        return waiter in self.waiters

    # Outcomes of actions.

    def opened(self, slot: Slot, now: float, *, is_primary: bool | None = None) -> list[Action]:
        """A connection was opened.

        ``is_primary``, asked while ``demoted_since`` is set: whether it leads to a server that accepts
        writes. None: the driver cannot tell, so only a write will show.
        """
        self.opening -= 1
        self.failures = 0
        self.last_error = None
        self.login_refused = False
        self.is_searching = False
        self.counters.opened += 1
        slot.opened_at = slot.idle_since = slot.proved_at = now
        slot.expires_at = now + self.options.max_lifetime * (1 - self._rng.uniform(0, LIFETIME_JITTER))
        actions: list[Action] = []
        if self.demoted_since is not None and is_primary is not False:
            self._found_primary(now, is_sure=is_primary is True, actions=actions)
        if self.is_closed:
            self._retire(slot, POOL_CLOSED, actions)
        elif self.total >= self.options.max_size:
            self._retire(slot, TOO_MANY, actions)
        else:
            self._shelve(slot)
        return actions + self._serve(now)

    def open_failed(
        self, error: BaseException | None, now: float, *, login_refused: bool = False
    ) -> list[Action]:
        """A connection could not be opened; None: the attempt was given up."""
        self.opening -= 1
        if error is not None:
            self.failures += 1
            self.failed_at = now
            self.login_refused = login_refused
            self.last_error = error
            self.counters.open_failures += 1
        self._note_shrunk()
        return self._serve(now)

    def checked(self, slot: Slot, ok: bool, now: float, *, is_for_primary: bool = False) -> list[Action]:
        """A ping, or the question whether the server is the primary, has ended."""
        self.counters.checks += 1
        actions: list[Action] = []
        if ok and is_for_primary:
            slot.suspect = False
        if not ok:
            # Connections that were idle for as long as this one are most likely dead too (the server was
            # restarted, or a firewall dropped them). To check them one by one would take a timeout each.
            # One that may lead to a demoted server says nothing about those that lead to the primary.
            dead = [
                other
                for other in self.idle
                if other.proved_at <= slot.proved_at and (other.suspect or not slot.suspect)
            ]
            for other in dead:
                self.idle.remove(other)
                self._retire(other, BROKEN, actions)
        return actions + self._proved(slot, ok, now)

    def was_reset(self, slot: Slot, ok: bool, now: float) -> list[Action]:
        """A reset has ended."""
        return self._proved(slot, ok, now)

    def _proved(self, slot: Slot, ok: bool, now: float) -> list[Action]:
        self.proving.remove(slot)
        actions: list[Action] = []
        if self.is_closed or not ok:
            reason = POOL_CLOSED if self.is_closed else DEMOTED if slot.suspect else BROKEN
            self._retire(slot, reason, actions)
        elif self._surplus >= 0:  # without this one
            self._retire(slot, TOO_MANY, actions)
        elif slot.suspect:
            self.proving.add(slot)
            actions.append(Check(slot, is_for_primary=True))
        else:
            slot.proved_at = now
            self._shelve(slot)
        return actions + self._serve(now)

    def closed(self, slot: Slot, now: float) -> list[Action]:
        """A connection is closed: there is room for another."""
        self.closing.remove(slot)
        self.counters.closed += 1
        self._note_shrunk()
        return self._serve(now)

    def _note_shrunk(self) -> None:
        """There is one connection less: once ``max_size`` is reached, shrinking is over."""
        if self.total <= self.options.max_size:
            self.shrinks_from = 0
            self.is_strict = self.is_closed

    # Housekeeping.

    def tick(self, now: float) -> list[Action]:
        """What the passing of time requires: lifetimes, idle shrink, keepalive, leaks, refill."""
        actions: list[Action] = []
        options = self.options
        if self.is_closed:
            return actions
        if self.failures and not self.opening and now - self.failed_at > FAILURE_MEMORY:
            self.failures, self.last_error, self.login_refused = 0, None, False
        if self.demoted_since is not None and now - self.refused_at > DEMOTION_MEMORY:
            self.demoted_since = None
            self.is_searching = False
        spare = self.total - len(self.closing) - options.min_size
        pings = max(1, len(self.idle) // KEEPALIVE_SHARE)
        for slot in list(self.idle):
            if now >= slot.expires_at:
                self.idle.remove(slot)
                self._retire(slot, LIFETIME, actions)
                spare -= 1
            elif not self._is_open(slot.raw):
                self.idle.remove(slot)
                self._retire(slot, BROKEN, actions)
                spare -= 1
            elif spare > 0 and now - slot.idle_since >= options.idle_timeout:
                self.idle.remove(slot)
                self._retire(slot, IDLE, actions)
                spare -= 1
            elif pings and now - slot.proved_at >= options.keepalive_interval:
                pings -= 1
                self.idle.remove(slot)
                self.proving.add(slot)
                actions.append(Check(slot, slot.suspect))
        if options.leak_threshold:
            for slot in self.leased:
                held = now - slot.leased_at
                if held >= options.leak_threshold and not slot.reported:
                    slot.reported = True
                    self.counters.leaked += 1
                    actions.append(Leak(slot, held))
        return actions + self._serve(now)

    def probe(self, since: float) -> list[Action]:
        """Ping an idle connection that was not seen to work since then; one at a time."""
        if self.proving:
            return []
        for slot in self.idle:
            if slot.proved_at <= since:
                self.idle.remove(slot)
                self.proving.add(slot)
                return [Check(slot, slot.suspect)]
        return []

    def reconfigure(self, options: PoolOptions, now: float) -> list[Action]:
        """Change sizes and times. Surplus connections are closed once they are idle."""
        self.options = options
        self._validate_after = options.validate_after
        actions: list[Action] = []
        for slot in (*self.idle, *self.leased, *self.proving):
            slot.expires_at = min(slot.expires_at, slot.opened_at + options.max_lifetime)
        if self.is_closed:
            return actions
        self.shrinks_from = self.total
        surplus = self._surplus
        while surplus > 0 and self.idle:
            self._retire(self.idle.pop(0), TOO_MANY, actions)
            surplus -= 1
        self.is_strict = surplus > 0
        return actions + self._serve(now)

    def close(self, now: float) -> list[Action]:
        """Refuse waiters and close what is idle; what is leased is closed when it comes back."""
        self.is_closed = self.is_strict = True
        actions: list[Action] = [Refuse(waiter) for waiter in self.waiters]
        self.waiters.clear()
        for slot in self.idle:
            self._retire(slot, POOL_CLOSED, actions)
        self.idle.clear()
        return actions

    # The one place that decides which waiter gets which connection.

    def _serve(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.is_closed:
            return actions
        idle, waiters = self.idle, self.waiters
        while waiters and idle:
            slot = idle[-1]
            if now >= slot.expires_at:
                idle.pop()
                self._retire(slot, LIFETIME, actions)
            elif not self._is_open(slot.raw):
                idle.pop()
                self._retire(slot, BROKEN, actions)
            elif now - slot.proved_at <= self._validate_after:
                idle.pop()
                self._grant(slot, now, actions)
            elif len(self.proving) < len(waiters):
                idle.pop()
                self.proving.add(slot)
                actions.append(Check(slot, slot.suspect))
            else:
                break
        existing = len(idle) + len(self.leased) + len(self.proving)
        wanted = max(len(waiters) - len(self.proving), self.options.min_size - existing, self.is_searching)
        wanted -= self.opening
        room = self.options.max_size - self.total
        allowed = (1 if self.failures else OPEN_LIMIT) - self.opening
        for _ in range(min(wanted, room, allowed)):
            self.opening += 1
            self.counters.peak_connections = max(self.counters.peak_connections, self.total)
            actions.append(Open(self._delay()))
        return actions

    def _delay(self) -> float:
        """Seconds before the next attempt to open a connection."""
        if not self.failures:
            return 0.0
        if self.login_refused:
            spread = 1.2
            shortest = min(LOGIN_RETRY_CAP / spread, LOGIN_RETRY_BASE * 2 ** min(self.failures - 1, 8))
            return self._rng.uniform(shortest, shortest * spread)
        return full_jitter(self.failures, RETRY_BASE, RETRY_CAP, self._rng)

    def _grant(self, slot: Slot, now: float, actions: list[Action]) -> None:
        waiter, _ = self.waiters.popitem(last=False)
        waiter.slot = slot
        slot.leased_at = now
        slot.use_count += 1
        self.leased.add(slot)
        counters = self.counters
        counters.acquired += 1
        counters.peak_active = max(counters.peak_active, len(self.leased))
        counters.waits.record(max(0.0, now - waiter.since))
        actions.append(Grant(waiter, slot))

    def _shelve(self, slot: Slot) -> None:
        if not self.idle or self.idle[-1].idle_since <= slot.idle_since:
            self.idle.append(slot)
        else:
            insort(self.idle, slot, key=_idle_since)

    def _retire(self, slot: Slot, reason: str, actions: list[Action]) -> None:
        self.closing.add(slot)
        actions.append(Close(slot, reason))

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts of the pool disagree. For tests."""
        groups = [set(self.idle), self.leased, self.proving, self.closing]
        assert len(self.idle) == len(groups[0]), "an idle connection is listed once"
        assert len(set().union(*groups)) == sum(map(len, groups)), "a connection is in one state"
        assert 0 <= self.opening <= OPEN_LIMIT
        assert self.total <= max(self.options.max_size, self.shrinks_from)
        stamps = [slot.idle_since for slot in self.idle]
        assert stamps == sorted(stamps)
        assert all(waiter.slot is None for waiter in self.waiters)
        if self.is_closed:
            assert not self.waiters
            assert not self.idle
        elif self.waiters:
            coming = self.opening + len(self.proving) + len(self.closing)
            assert coming or len(self.leased) >= self.options.max_size, "no connection for a waiter"
        assert self.counters.acquired == self.counters.released + len(self.leased)
