"""The N+1 pattern: one query shape, executed again and again with other values within one request.

A request ("context") is, in this order: the innermost ``with optimizer.request():`` and every task
started in it; or the task that runs the query, together with the tasks that it started no longer than
``window`` seconds after its own last query (so the children of ``asyncio.gather`` count together with
the handler that made them, and the handlers that a main loop starts do not count as one).

Counted are executions on the database, by context and fingerprint: the distinct values seen within
``window`` seconds, exactly. Only hashes of values are kept, and one sample per shape, to tell which
value differs; no frame is ever kept.
"""

from __future__ import annotations

import asyncio
import re
import sys
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from cachetools import LRUCache

from bot.core.phase4_config.query_optimizer import DEFAULTS

MAX_SHAPES = 64
"""Shapes counted for each context; the one that appeared first is dropped first."""

MAX_PATTERNS = 1_000
MAX_CALL_SITES = 5


# A query is not issued by frames of these modules; below the frames of the loop there is another task.
_LIBRARY = re.compile(r"(?:bot\.core\.(?:query_optimizer|_shared)|asyncio|contextlib|functools)(?:\.|\Z)")
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
    """The single query to use instead; empty if none is known to give the same result."""
    first_seen: float = 0.0
    """Unix time in seconds, as is ``last_seen``."""
    last_seen: float = 0.0

    def sentence(self) -> str:
        """The finding in words."""
        where = f" at {', '.join(self.call_sites)}" if self.call_sites else ""
        found = f"N+1: this query ran with {self.count} different values in one request{where}."
        return f"{found} Use one query: {self.suggestion}" if self.suggestion else found


class _Tally:
    """One shape in one context."""

    __slots__ = ("count", "last", "pattern", "sample", "times")

    def __init__(self, sample: Any) -> None:
        self.times: dict[int, float] = {}  # hash of the values -> when they were last seen, oldest first
        self.last = 0.0
        self.sample = sample
        self.count = 0
        self.pattern: NPlusOnePattern | None = None


class _Scope:
    __slots__ = ("generation", "owner", "seen", "tallies")

    def __init__(self, owner: weakref.ref[Any] | None, generation: int) -> None:
        self.owner = owner
        """The task that opened it; None if it was opened by ``request``."""
        self.seen = 0.0
        self.tallies: dict[str, _Tally] = {}
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
        self, *, threshold: int = DEFAULTS.n_plus_one_threshold, window: float = DEFAULTS.n_plus_one_window
    ) -> None:
        self.threshold = threshold
        self.window = window
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

    def note(self, fingerprint: str, variant: int, sample: Any, now: float) -> _Tally | None:
        """Count one execution; returns the tally if this one made it a pattern in this context."""
        scope = self._scope.get()
        if scope is None or scope.owner is not None or scope.generation != self._generation:
            scope = self._of_task(scope, now)
        tally = scope.tallies.get(fingerprint)
        if tally is None:
            if len(scope.tallies) >= MAX_SHAPES:
                del scope.tallies[next(iter(scope.tallies))]
            tally = scope.tallies[fingerprint] = _Tally(sample)
        elif tally.pattern is not None:
            if now - tally.last <= self.window:
                tally.last = now
                tally.count += 1
                if tally.count > tally.pattern.count:
                    tally.pattern.count = tally.count
                return None
            tally = scope.tallies[fingerprint] = _Tally(sample)
        times = tally.times
        if variant in times:
            del times[variant]  # so that it joins the end
        times[variant] = now
        if len(times) < self.threshold:
            return None
        oldest = now - self.window
        for seen in list(times):
            if times[seen] >= oldest:
                break
            del times[seen]
        if len(times) < self.threshold:
            return None
        tally.count = len(times)
        tally.last = now
        tally.times = {}
        return tally

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
        self, tally: _Tally, fingerprint: str, query: str, call_site: str, at: float
    ) -> tuple[NPlusOnePattern, bool]:
        """Record a pattern that ``note`` detected; returns (the pattern, whether it is new)."""
        pattern = self.patterns.get(fingerprint)
        new = pattern is None
        if pattern is None:
            pattern = self.patterns[fingerprint] = NPlusOnePattern(fingerprint, query, first_seen=at)
            self.total += 1
        tally.pattern = pattern
        pattern.count = max(pattern.count, tally.count)
        pattern.contexts += 1
        pattern.last_seen = at
        sites = pattern.call_sites
        if call_site and call_site not in sites and len(sites) < MAX_CALL_SITES:
            sites.append(call_site)
        return pattern, new

    def dismiss(self, tally: _Tally, fingerprint: str) -> None:
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


def call_site(executor: Any = None) -> str:
    """``file:line in function`` of the innermost frame outside the library.

    Where only the frames of a task are left, it is where ``executor`` was defined.
    It looks at frames and keeps none.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in _LOOP:
            break
        if not _LIBRARY.match(module):
            code = frame.f_code
            return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        frame = frame.f_back
    origin = getattr(executor, "__wrapped__", executor)
    made = getattr(origin, "__code__", None)
    if made is None or _LIBRARY.match(getattr(origin, "__module__", "") or ""):
        return ""
    return f"{made.co_filename}:{made.co_firstlineno} in {made.co_qualname}"
