"""Look-ups that missed: a caller must have made one before its own result is cached.

A caller is a task, with what it awaits: a look-up counts for the task that made it, for tasks started
after it from there (they inherit it), and for the tasks that were waiting for that one at the time
(``asyncio.wait_for``, ``gather``, ``create_task`` and ``await``). Two tasks side by side are two callers.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Hashable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

MAX_QUERIES = 1_000
"""Queries with open look-ups of one caller; the oldest is forgotten first."""

MAX_OF_ONE = 32
"""Unanswered look-ups of one query by one caller; more are not counted."""

MAX_ANCESTORS = 8
"""How many generations of tasks a task inherits look-ups from."""

MAX_WAITERS = 16
"""Futures followed to find the tasks that wait for a task."""


class Lookup:
    """One look-up that missed."""

    __slots__ = ("begun", "callers", "missed_at", "number")

    def __init__(self, begun: int, missed_at: float) -> None:
        self.begun = begun
        """The cache's write number at the time."""
        self.missed_at = missed_at
        """Monotonic seconds."""
        self.number = 0
        """Its place among those of the caller that made it: tells what a task started later has inherited."""
        self.callers: list[_Caller] = []


class _Caller:
    """The open look-ups of one task, by the hash of what was looked up (a text may be long).

    Two queries with the same hash would share their look-ups. That does no harm: a result is still kept only
    if the tables that it reads were not written since.
    """

    __slots__ = ("number", "open", "parent")

    def __init__(self, parent: _Inherited | None) -> None:
        self.open: dict[int, list[Lookup]] = {}
        self.number = 0
        self.parent = parent

    def add(self, query: int, lookup: Lookup) -> None:
        found = self.open.get(query)
        if found is None:
            if len(self.open) >= MAX_QUERIES:
                self.forget(next(iter(self.open)), None)
            found = self.open[query] = []
        elif len(found) >= MAX_OF_ONE:
            return
        found.append(lookup)
        lookup.callers.append(self)

    def visible(self, query: int, until: int | None) -> list[Lookup]:
        found = self.open.get(query) or []
        if until is None:
            return list(found)
        return [lookup for lookup in found if lookup.number <= until and lookup.callers[0] is self]

    def forget(self, query: int, until: int | None) -> None:
        for lookup in self.visible(query, until):
            self.remove(query, lookup)
            lookup.callers.remove(self)

    def remove(self, query: int, lookup: Lookup) -> None:
        found = self.open[query]
        found.remove(lookup)
        if not found:
            del self.open[query]


class _Inherited(NamedTuple):
    """What a task that starts now inherits: the look-ups of ``caller`` up to this number."""

    caller: _Caller
    until: int


class Found(NamedTuple):
    """The look-ups of the caller that may have led to a result; the oldest first."""

    lookups: list[Lookup]
    query: int
    caller: _Caller
    until: int | None

    @property
    def begun(self) -> int:
        """The result was read after this write number, whichever of the look-ups it came from."""
        if len(self.lookups) == 1:
            return self.lookups[0].begun
        return min(lookup.begun for lookup in self.lookups)

    @property
    def missed_at(self) -> float:
        if len(self.lookups) == 1:
            return self.lookups[0].missed_at
        return max(lookup.missed_at for lookup in self.lookups)

    def answered(self) -> None:
        """One of them has its result: one look-up is good for one result."""
        lookup = self.lookups[0]
        for caller in lookup.callers:
            caller.remove(self.query, lookup)
        lookup.callers.clear()

    def refused(self) -> None:
        """It is unknown which of them the result came from, so none of them counts any more."""
        self.caller.forget(self.query, self.until)


class Lookups:
    """Open look-ups by caller. They are freed with the caller's task, so nothing has to be swept."""

    def __init__(self) -> None:
        self._of_task: WeakKeyDictionary[asyncio.Task[Any], _Caller] = WeakKeyDictionary()
        # A context keeps its variables alive. One for each optimizer is fine, since there are few optimizers.
        self._inherited: ContextVar[_Inherited | None] = ContextVar("look_ups", default=None)
        self._epoch = 0

    def open(self, key: Hashable, begun: int, now: float) -> None:
        """The caller looked ``key`` up and found nothing."""
        query = hash((self._epoch, key))
        task = _current_task()
        caller = self._own(task) or self._begin(task)
        if not caller.number and caller.parent is None:
            caller.parent = self._parent()  # the tasks that it awaits may have added it
        lookup = Lookup(begun, now)
        caller.number += 1
        lookup.number = caller.number
        caller.add(query, lookup)
        self._inherited.set(_Inherited(caller, caller.number))
        if task is not None:
            for waiting in tasks_waiting_for(task):
                other = self._of_task.get(waiting)
                if other is None:
                    other = self._of_task[waiting] = _Caller(None)
                if other is not caller:
                    other.add(query, lookup)

    def _own(self, task: asyncio.Task[Any] | None) -> _Caller | None:
        if task is not None:
            return self._of_task.get(task)
        inherited = self._inherited.get()
        return None if inherited is None else inherited.caller

    def _begin(self, task: asyncio.Task[Any] | None) -> _Caller:
        caller = _Caller(self._parent())
        if task is not None:
            self._of_task[task] = caller
        return caller

    def _parent(self) -> _Inherited | None:
        """What this context has from another task; None if nothing is in it, or too many are above."""
        parent = above = self._inherited.get()
        for _ in range(MAX_ANCESTORS):
            if above is None:
                return parent if parent is not None and parent.caller.open else None
            above = above.caller.parent
        return None

    def find(self, key: Hashable) -> Found | None:
        """The caller's open look-ups of ``key``; if it made none, those that it inherited."""
        query = hash((self._epoch, key))
        own = self._own(_current_task())
        if own is not None and (lookups := own.visible(query, None)):
            return Found(lookups, query, own, None)
        inherited = self._inherited.get()
        while inherited is not None:
            caller, until = inherited
            if caller is not own and (lookups := caller.visible(query, until)):
                return Found(lookups, query, caller, until)
            inherited = caller.parent
        return None

    def clear(self) -> None:
        """Forget every look-up made until now."""
        self._epoch += 1
        self._of_task.clear()


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop
        return None


def tasks_waiting_for(task: asyncio.Task[Any]) -> Iterator[asyncio.Task[Any]]:
    """The tasks that await ``task``, directly or through what asyncio puts between.

    asyncio tells it in the callbacks of futures only; what they are of is none of its promises, so whoever
    is not recognised is left out, and its results are not kept.
    """
    queue: list[Any] = [task]
    seen = 0
    while queue and seen < MAX_WAITERS:
        future = queue.pop()
        seen += 1
        for callback, _ in getattr(future, "_callbacks", None) or ():
            owner = getattr(callback, "__self__", None)
            owner = getattr(owner, "_parent_task", owner)  # of a TaskGroup
            if isinstance(owner, asyncio.Task):
                yield owner
                queue.append(owner)
            elif isinstance(callback, functools.partial):  # wait_for, before Python 3.12
                queue += filter(asyncio.isfuture, callback.args)
            else:  # gather, shield, wait: a function within the function that waits
                for cell in getattr(callback, "__closure__", None) or ():
                    try:
                        content = cell.cell_contents
                    except ValueError:
                        continue
                    if asyncio.isfuture(content):
                        queue.append(content)
