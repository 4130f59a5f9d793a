"""The N+1 pattern: one query shape, executed again and again with other values within one request.

A request ("context") is, in this order: the innermost ``with optimizer.request():`` and every task
started in it; or the task that runs the query, together with the tasks that it started no longer than
``window`` seconds after its own last query (so the children of ``asyncio.gather`` count together with
the handler that made them, and the handlers that a main loop starts do not count as one).

Counted are executions on the database, by context and fingerprint. A pattern is ``threshold`` distinct
values within ``window`` seconds, exactly; or as many in the whole context, however far apart, if together
they took ``total_time`` seconds. In the context of a task, which may live for months, the whole is a run of
queries without a pause of ``window`` seconds, and they must have taken half of its time.

Only hashes of values are kept, and a few samples per shape, to tell which value differs; no frame is ever
kept.
"""

from __future__ import annotations

import asyncio
import re
import sys
import weakref
from collections.abc import Sized
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from cachetools import LRUCache

from bot.core.phase4_config.query_optimizer import DEFAULTS

MAX_SHAPES = 64
"""Shapes counted for each context; the one that appeared first is dropped first."""

MAX_VALUES = 1_000
"""Distinct values of a shape counted for the whole of a context, unless the threshold is higher."""

MAX_SAMPLES = 5
MAX_SAMPLE = 10_000
MAX_SAMPLE_VALUES = 100
"""Samples of a shape that are kept until it is a pattern; characters and parameters of each but the first."""

MAX_PATTERNS = 1_000
MAX_CALL_SITES = 5
SHOWN_FROM = 0.1
"""Seconds from which a finding tells the time."""


# A query is not issued by frames of these modules; below the frames of the loop there is another task.
_LIBRARY = re.compile(
    r"(?:bot\.core\.(?:query_optimizer|_shared|connection_pool_manager)|asyncio|contextlib|functools"
    r"|asyncpg|aiosqlite|asyncmy|psycopg|psycopg_pool|sqlalchemy|pymongo|motor|gridfs)(?:\.|\Z)"
)
_LOOP = frozenset(("asyncio.events", "asyncio.base_events", "asyncio.runners"))


@dataclass
class NPlusOnePattern:
    """A query shape that is run once per value where one query would do."""

    fingerprint: str
    query: str
    """The shape: the text without values."""
    count: int = 0
    """The most distinct values seen in one context; counting goes on after detection."""
    contexts: int = 0
    """Requests in which it was found."""
    call_sites: list[str] = field(default_factory=list)
    """``file:line in function``, outside the library, as far as they are known; five at most."""
    suggestion: str = ""
    """The single query to use instead, or a sentence; empty if nothing is known to give the same result."""
    first_seen: float = 0.0
    """Unix time in seconds, as is ``last_seen``."""
    last_seen: float = 0.0
    seconds: float = 0.0
    """The longest time that they took together in one context."""

    def sentence(self) -> str:
        """The finding in words."""
        where = f" at {', '.join(self.call_sites)}" if self.call_sites else ""
        took = f", which took {self.seconds:.1f} s" if self.seconds >= SHOWN_FROM else ""
        return f"N+1: this query ran with {self.count} different values in one request{where}{took}."

    def fix(self) -> str:
        """What to do instead; empty if nothing is known to give the same result."""
        if not self.suggestion:
            return ""
        # A sentence begins with a small letter, a query with a keyword.
        return f"Use {'' if self.suggestion[0].islower() else 'one query: '}{self.suggestion}"


class Tally:
    """One shape in one context."""

    __slots__ = ("began", "count", "ended", "last", "pattern", "samples", "seconds", "times", "values")

    def __init__(self, sample: Any, now: float) -> None:
        self.times: dict[int, float] = {}  # hash of the values -> when they were last seen, oldest first
        self.last = 0.0
        self.samples = [_kept(sample)]
        self.count = 0
        self.pattern: NPlusOnePattern | None = None
        self.start(now)

    def start(self, now: float) -> None:
        """Count the whole of a context from here."""
        self.values: set[int] = set()
        self.seconds = 0.0
        self.began = self.ended = now

    def sample(self, sample: Any) -> None:
        """Keep it if it is one of the first, or the longest: lists of values differ in length."""
        query, params = sample
        samples = self.samples
        full = len(samples) >= MAX_SAMPLES
        if (full and len(query) <= len(samples[-1][0])) or len(query) > MAX_SAMPLE:
            return
        if isinstance(params, Sized) and len(params) > MAX_SAMPLE_VALUES:
            return
        if full:
            samples.pop()
        samples.append(_kept(sample))


def _kept(sample: Any) -> Any:
    """(the query, its parameters, as a copy if they ask for it)"""
    query, params = sample
    return (query, params.kept()) if hasattr(params, "kept") else sample


class _Scope:
    __slots__ = ("generation", "owner", "seen", "tallies")

    def __init__(self, owner: weakref.ref[Any] | None, generation: int) -> None:
        self.owner = owner
        """The task that opened it; None if it was opened by ``request``."""
        self.seen = 0.0
        self.tallies: dict[str, Tally] = {}
        self.generation = generation


class Request:
    """``with optimizer.request():`` delimits one request; tasks started inside belong to it."""

    __slots__ = ("_scope", "_token", "_variable")

    def __init__(self, variable: ContextVar[_Scope | None], generation: int) -> None:
        self._variable = variable
        self._scope = _Scope(None, generation)
        self._token: Any = None

    def __enter__(self) -> None:
        self._token = self._variable.set(self._scope)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._variable.reset(self._token)


class Detector:
    """Counts queries by context, and detects patterns."""

    def __init__(
        self,
        *,
        threshold: int = DEFAULTS.n_plus_one_threshold,
        window: float = DEFAULTS.n_plus_one_window,
        total_time: float = DEFAULTS.n_plus_one_total,
    ) -> None:
        self.threshold = threshold
        self.window = window
        self.total_time = total_time
        # One per detector, so that two optimizers in one task do not count for each other. A context
        # keeps its variables alive, so this is only right because detectors are few.
        self._scope: ContextVar[_Scope | None] = ContextVar("n_plus_one", default=None)
        self._generation = 0
        self.patterns: LRUCache[str, NPlusOnePattern] = LRUCache(maxsize=MAX_PATTERNS)
        self.dismissed: LRUCache[str, bool] = LRUCache(maxsize=MAX_PATTERNS)
        """Shapes whose repetition is not an N+1 pattern: they walk through a table in pages or lists."""
        self.total = 0
        """Distinct shapes found since the start or the last reset."""

    def request(self) -> Request:
        return Request(self._scope, self._generation)

    def enter(self, now: float) -> None:
        """This context begins a query whose end will be noted in a copy of it."""
        scope = self._scope.get()
        if scope is None or scope.owner is not None or scope.generation != self._generation:
            self._of_task(scope, now)

    def note(
        self, fingerprint: str, variant: int, sample: Any, now: float, seconds: float = 0.0
    ) -> Tally | None:
        """Count one execution; returns the tally if this one made it a pattern in this context.

        ``seconds`` are what one that has ended took; else :meth:`took` is told later.
        """
        scope = self._scope.get()
        if scope is None or scope.generation != self._generation:
            scope = self._of_task(scope, now)
        elif (reference := scope.owner) is not None:
            owner = reference()
            # To look for the running loop takes longer than all the rest, before Python 3.12.
            if owner is not None and asyncio.current_task(owner.get_loop()) is owner:
                scope.seen = now
            else:
                scope = self._of_task(scope, now)
        tally = scope.tallies.get(fingerprint)
        if tally is None:
            if len(scope.tallies) >= MAX_SHAPES:
                del scope.tallies[next(iter(scope.tallies))]
            tally = scope.tallies[fingerprint] = Tally(sample, now - seconds)
            tally.values.add(variant)
        elif tally.pattern is not None:
            if scope.owner is None or now - seconds - tally.last <= self.window:
                tally.last = now
                tally.count += 1
                tally.seconds += seconds
                if tally.count > tally.pattern.count:
                    tally.pattern.count = tally.count
                if tally.seconds > tally.pattern.seconds:
                    tally.pattern.seconds = tally.seconds
                return None
            tally = scope.tallies[fingerprint] = Tally(sample, now - seconds)
            tally.values.add(variant)
        else:
            # A pause ends where a query begins.
            if scope.owner is not None and now - seconds - tally.ended > self.window:
                tally.start(now - seconds)
            values = tally.values
            if variant not in values:
                tally.sample(sample)
                if len(values) < MAX_VALUES or len(values) < self.threshold:
                    values.add(variant)
        tally.seconds += seconds
        if now > tally.ended:
            tally.ended = now
        tally.last = now
        times = tally.times
        if variant in times:
            del times[variant]  # so that it joins the end
        times[variant] = now
        if len(times) >= self.threshold and self._still_seen(times, now) >= self.threshold:
            tally.count = len(times)
        elif tally.seconds >= self.total_time and self._is_much(tally, scope, now):
            tally.count = len(tally.values)
        else:
            return None
        tally.times = {}
        tally.values = set()
        return tally

    def _still_seen(self, times: dict[int, float], now: float) -> int:
        """Forget values that were last seen before the window; returns how many are left."""
        oldest = now - self.window
        for seen in list(times):
            if times[seen] >= oldest:
                break
            del times[seen]
        return len(times)

    def _is_much(self, tally: Tally, scope: _Scope, now: float) -> bool:
        if len(tally.values) < self.threshold:
            return False
        return scope.owner is None or 2 * tally.seconds >= now - tally.began

    def took(self, fingerprint: str, seconds: float) -> None:
        """The execution noted in this context took so long on the database."""
        scope = self._scope.get()
        tally = None if scope is None else scope.tallies.get(fingerprint)
        if tally is None:
            return  # a callback, or a shape that was dropped
        tally.seconds += seconds
        # A pause begins where the query ends.
        if tally.last + seconds > tally.ended:
            tally.ended = tally.last + seconds
        pattern = tally.pattern
        if pattern is not None:
            tally.last += seconds
            if tally.seconds > pattern.seconds:
                pattern.seconds = tally.seconds

    def _of_task(self, scope: _Scope | None, now: float) -> _Scope:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if scope is not None and scope.generation == self._generation and scope.owner is not None:
            if scope.owner() is task:
                scope.seen = now
                return scope
            if now - scope.seen <= self.window:
                return scope  # a child, soon after: asyncio.gather
        # Without a task it is a callback: it belongs to no request, so each time is a new one.
        scope = _Scope(weakref.ref(task if task is not None else _Nobody()), self._generation)
        scope.seen = now
        if task is not None:
            self._scope.set(scope)
        return scope

    def found(
        self, tally: Tally, fingerprint: str, query: str, call_site: str, at: float
    ) -> tuple[NPlusOnePattern, bool]:
        """Record a pattern that ``note`` detected; returns (the pattern, whether it is new)."""
        pattern = self.patterns.get(fingerprint)
        new = pattern is None
        if pattern is None:
            pattern = self.patterns[fingerprint] = NPlusOnePattern(fingerprint, query, first_seen=at)
            self.total += 1
        tally.pattern = pattern
        pattern.count = max(pattern.count, tally.count)
        pattern.seconds = max(pattern.seconds, tally.seconds)
        pattern.contexts += 1
        pattern.last_seen = at
        sites = pattern.call_sites
        if call_site and call_site not in sites and len(sites) < MAX_CALL_SITES:
            sites.append(call_site)
        return pattern, new

    def dismiss(self, tally: Tally, fingerprint: str) -> None:
        """What ``note`` detected is not a pattern, and will never be one."""
        self.dismissed[fingerprint] = True
        tally.pattern = NPlusOnePattern(fingerprint, "")

    def clear(self) -> None:
        """Forget all patterns and start all counts again."""
        self.patterns.clear()
        self.dismissed.clear()
        self.total = 0
        self._generation += 1


class _Nobody:
    __slots__ = ("__weakref__",)


def _waiting_frames() -> list[FrameType]:
    """The innermost frames of the greenlets that wait for this one: SQLAlchemy awaits in greenlets."""
    module = sys.modules.get("greenlet")
    found = []
    parent = None if module is None else module.getcurrent().parent
    while parent is not None:
        if parent.gr_frame is not None:
            found.append(parent.gr_frame)
        parent = parent.parent
    return found


def _task_frame() -> FrameType | None:
    """The outermost frame of the running task. A loop written in C has no frames of its own below it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no running loop
        return None
    frame: FrameType | None = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    return frame


def call_site(executor: Any = None) -> str:
    """``file:line in function`` of the innermost frame outside the library.

    Where only the frames of a task are left, it is where ``executor`` was defined.
    It looks at frames and keeps none.
    """
    frame: FrameType | None = sys._getframe(1)
    greenlets = _waiting_frames()
    outermost = _task_frame()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in _LOOP:
            break
        if not _LIBRARY.match(module):
            code = frame.f_code
            return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        if frame is outermost:
            break
        frame = frame.f_back
        if frame is None:
            frame = greenlets.pop(0) if greenlets else None
    origin = getattr(executor, "__wrapped__", executor)
    made = getattr(origin, "__code__", None)
    if made is None or _LIBRARY.match(getattr(origin, "__module__", "") or ""):
        return ""
    return f"{made.co_filename}:{made.co_firstlineno} in {made.co_qualname}"
