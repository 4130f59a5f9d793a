"""What a caller holds while it has a connection."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from bot.core.connection_pool_manager.errors import LeaseReleasedError
from bot.core.connection_pool_manager.guard import Guard

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from bot.core.connection_pool_manager.drivers.base import Driver
    from bot.core.connection_pool_manager.models import PoolSpec
    from bot.core.connection_pool_manager.pool import Slot

_HERE = __file__.rsplit("/", 1)[0].rsplit("\\", 1)[0]
_SQL_CALLS = __file__.replace("lease.py", "sql_calls.py")
_CONTEXTS = contextlib.__file__
_LOOPS = ("/asyncio/", "/uvloop/")
_AWAITED = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

Site = tuple[CodeType | int, ...]
"""Code objects, each followed by an offset in it; innermost first."""


def caller_site(depth: int) -> Site:
    """Where a connection is acquired: code objects and offsets, which are turned into text only when needed.

    ``depth`` frames above this one, and its two callers. A traceback would cost more than the whole acquire.
    Frames are not kept, because they keep local variables alive. Written without a loop: this is half the
    cost of an acquire.
    """
    try:
        a = sys._getframe(depth)
    except ValueError:  # a task of the library's own call, on a loop that has no frame
        return ()
    if a.f_code.co_filename == _SQL_CALLS:  # a call by the pool's name, which nests deeper
        a = _outside(a)
    b = a.f_back
    if b is None:
        return a.f_code, a.f_lasti
    c = b.f_back
    if c is None:
        return a.f_code, a.f_lasti, b.f_code, b.f_lasti
    return a.f_code, a.f_lasti, b.f_code, b.f_lasti, c.f_code, c.f_lasti


def _outside(frame: FrameType) -> FrameType:
    """The innermost caller of this package, or ``frame`` if there is none."""
    found: FrameType | None = frame
    while found is not None:
        name = found.f_code.co_filename
        if name != _CONTEXTS and not name.startswith(_HERE):
            return found
        found = found.f_back
    return frame


def describe_site(site: Any) -> str:
    """``file:line in function``, innermost first, without the frames of this package and of the loop."""
    shown = []
    parts = iter(site or ())
    in_task = False
    for code, offset in zip(parts, parts, strict=True):
        if code.co_flags & _AWAITED:
            in_task = True
        elif in_task and not code.co_flags & inspect.CO_GENERATOR:
            break  # a plain function below a coroutine is the loop's, or runs a loop that is written in C
        name = code.co_filename.replace("\\", "/")
        if code.co_filename.startswith(_HERE) or any(loop in name for loop in _LOOPS):
            continue
        line = code.co_firstlineno
        for start, end, number in code.co_lines():
            if start <= offset < end:
                line = number or line
        shown.append(f"{code.co_filename}:{line} in {code.co_name}")
    return " < ".join(shown) or "an unknown place"


class Owner(Protocol):
    """What a lease asks of the pool that it came from."""

    name: str
    spec: PoolSpec
    driver: Driver
    loop: AbstractEventLoop | None

    @property
    def is_inherited(self) -> bool:
        """Whether the pool belongs to the process that this one was forked from."""

    def release(self, lease: PooledConnection, healthy: bool = True) -> None:
        """End the lease, on the pool's event loop."""

    def release_here(self, lease: PooledConnection, healthy: bool) -> None:
        """As :meth:`release`, also when the pool's event loop is gone."""

    def lost(self, slot: Slot) -> None:
        """A lease was dropped without release; called by the garbage collector, on any thread."""


class PooledConnection:
    """A leased connection: every attribute that is not the lease's own is the driver's.

    For one task at a time. After its release any use of it raises LeaseReleasedError; so does any use of what
    was taken from it: cursors, pipelines, statements, bound methods. A lease that is dropped without release
    is found by the garbage collector: its connection is closed and replaced, and a leak is reported.
    """

    __slots__ = ("__weakref__", "_runner", "_slot")

    _slot: Slot | None
    _runner: Owner

    def __init__(self, slot: Slot, runner: Owner) -> None:
        set_slot(self, slot)
        set_runner(self, runner)

    @property
    def connection_id(self) -> str:
        """Pool name and the connection's number in it; the same for every lease of that connection."""
        return f"{self._runner.name}-{_slot_of(self).number}"

    @property
    def backend(self) -> str:
        return self._runner.spec.backend

    @property
    def raw_connection(self) -> Any:
        """The driver's own object. Use it at your own risk: it still works after the release.

        Since it allows anything, the connection is reset after the lease.
        """
        slot = _slot_of(self)
        slot.touched = True
        return slot.raw

    @property
    def is_healthy(self) -> bool:
        """Whether it is leased and open, as far as this process knows; no round trip."""
        slot = self._slot
        return slot is not None and self._runner.driver.is_open(slot.raw)

    @property
    def use_count(self) -> int:
        """How often this connection was leased, this time included."""
        return _slot_of(self).use_count

    @property
    def is_released(self) -> bool:
        return self._slot is None

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(f"{self!r} cannot be copied or pickled: a lease has one holder")

    __iter__ = None  # with __getitem__ alone, Python would iterate over it without end

    def __getattr__(self, name: str) -> Any:
        slot = self._slot
        if slot is None:
            raise LeaseReleasedError(f"{_named(self)}: {name!r} used after the connection was released")
        view = slot.view
        return getattr(_view_of(self, slot) if view is None else view, name)

    def __setattr__(self, name: str, value: Any) -> None:
        slot = _slot_of(self)
        slot.touched = True
        setattr(_view_of(self, slot) if slot.view is None else slot.view, name, value)

    def __getitem__(self, key: Any) -> Any:
        slot = _slot_of(self)
        return (_view_of(self, slot) if slot.view is None else slot.view)[key]

    async def __aenter__(self) -> PooledConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._slot is not None:
            if error is not None:
                note_error(self, error)
            self._runner.release(self)

    def __repr__(self) -> str:
        slot = self._slot
        if slot is None:
            return f"<PooledConnection {_named(self)}, released>"
        return f"<PooledConnection {self.connection_id} ({self.backend})>"

    def __del__(self) -> None:
        if self._slot is not None:
            self._runner.lost(self._slot)


set_slot: Callable[[PooledConnection, Slot | None], None] = PooledConnection.__dict__["_slot"].__set__
set_runner: Callable[[PooledConnection, Owner], None] = PooledConnection.__dict__["_runner"].__set__
"""Set the lease's own attributes; plain assignment goes to the driver's object."""


def _slot_of(lease: PooledConnection) -> Slot:
    slot = lease._slot
    if slot is None:
        raise LeaseReleasedError(f"{_named(lease)}: used after it was released")
    return slot


def _view_of(lease: PooledConnection, slot: Slot) -> Any:
    """What this lease gives access to, made at its first use."""
    driver = lease._runner.driver
    guard = slot.guard
    if guard is None:
        guard = slot.guard = Guard(driver, slot.raw)
    slot.view = view = driver.view(slot.raw, guard)
    return view


def guard_of(lease: PooledConnection) -> Guard:
    """The guard of a lease, made if it was not used yet. Raises LeaseReleasedError."""
    slot = _slot_of(lease)
    if slot.view is None:
        _view_of(lease, slot)
    guard: Guard = slot.guard
    return guard


def end_use(slot: Slot) -> None:
    """End everything that was taken from the connection's lease."""
    guard, slot.guard, slot.view = slot.guard, None, None
    if guard is not None:
        guard.end()


def note_error(lease: PooledConnection, error: BaseException) -> None:
    """Let the lease note what the error that ended its block says about the server."""
    slot = lease._slot
    if slot is not None and slot.guard is not None:
        slot.guard.failed(error)


def _named(lease: PooledConnection) -> str:
    return f"connection of pool {lease._runner.name!r}"
