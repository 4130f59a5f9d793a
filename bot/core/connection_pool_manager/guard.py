"""Ends with a lease everything that was taken from it, wherever it is kept.

A lease hands out a *view* of its connection: an object of the driver's kind that shares the connection's
state and asks the lease's guard before each call. Cursors, pipelines, collections and bound methods come from
the view, so they ask it too. So does a coroutine that was created before the release and is awaited after it.
The view is made at the first use of a lease; a lease that is only acquired and released has none.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from bot.core.connection_pool_manager.errors import LeaseReleasedError, QueryTimeoutError

if TYPE_CHECKING:
    from bot.core.connection_pool_manager.models import PoolSpec


class GuardedDriver(Protocol):
    """What a guard asks of the driver whose connection it guards."""

    spec: PoolSpec
    report_timeout: Callable[[Guard], None]

    def is_timeout(self, error: BaseException) -> bool:
        """Whether a call ended with this error because the driver's own time limit was over."""

    def is_demotion(self, error: BaseException, raw: Any) -> bool:
        """Whether the error says that the server does not accept writes, or no longer does."""

    def end_cursors(self, cursors: list[Any], guard: Guard) -> None:
        """Make ``guard.cursors`` unusable."""


class Guard:
    """One lease, as the objects taken from it see it. ``ended`` is set by the release, and never unset."""

    # Class attributes as defaults instead of slots: each lease that is used makes a guard, and most
    # attributes are never set.
    ended = False
    demotion: str | None = None
    """What the server said when it refused what only a primary allows; None: it did not refuse."""
    timed_out: QueryTimeoutError | None = None
    """Why the connection was closed, or the statement ended, under a call that took too long."""
    calls = 0
    running = 0
    """How many calls of the view have begun, and how many are in progress."""
    transaction: Any = None
    """The innermost block of ``transaction()`` that is open on the lease; changed by its begin and end."""
    cursors: list[Any] | None = None
    """What the driver must end itself, where its objects cannot ask the guard."""

    def __init__(self, driver: GuardedDriver, raw: Any) -> None:
        self.driver = driver
        self.raw = raw

    @property
    def pool(self) -> str:
        return self.driver.spec.name

    def check(self, name: str = "something taken from its lease") -> None:
        """Raise LeaseReleasedError if the lease has ended."""
        if self.ended:
            raise self.error(name)

    def error(self, name: str) -> LeaseReleasedError:
        return LeaseReleasedError(
            f"connection of pool {self.pool!r}: {name} used after the connection was released"
        )

    def failed(self, error: BaseException) -> None:
        """Note what an error of a call says about the server."""
        if not self.ended and self.timed_out is None and self.driver.is_timeout(error):
            self.driver.report_timeout(self)
        if not self.ended and self.demotion is None and self.driver.is_demotion(error, self.raw):
            self.demotion = f"{type(error).__name__}: {error}"

    def outcome(self, error: BaseException) -> BaseException:
        """What to raise for a call that ended with ``error``: that, or the reason why it was ended."""
        self.failed(error)
        timed_out, self.timed_out = self.timed_out, None
        return error if timed_out is None else timed_out

    def end(self) -> None:
        """End the lease."""
        self.ended = True
        if self.cursors is not None:
            self.driver.end_cursors(self.cursors, self)
            self.cursors = None
        self.raw = None


def guarded_methods(
    original: type, connection: str | None, names: Iterable[str]
) -> dict[str, Callable[..., Any]]:
    """Methods for a class of views: each asks the guard, makes the call, and lets the guard note an error.

    ``connection`` is the view's attribute that holds the connection; None: the view is one itself, and
    its base class is called.
    """
    made: dict[str, Callable[..., Any]] = {}
    for name in names:
        method = getattr(original, name)
        if not inspect.isroutine(method):
            continue
        made[name] = _guarded(name, method, connection)
    return made


def _guarded(name: str, method: Any, connection: str | None) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            guard = self.phase4_guard
            if guard.ended:
                raise guard.error(repr(name))
            guard.calls += 1
            guard.running += 1
            try:
                return await method(
                    self if connection is None else getattr(self, connection), *args, **kwargs
                )
            except Exception as error:
                told = guard.outcome(error)
                if told is error:
                    raise
                raise told from error
            finally:
                guard.running -= 1

        return call_async

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard = self.phase4_guard
        if guard.ended:
            raise guard.error(repr(name))
        return method(self if connection is None else getattr(self, connection), *args, **kwargs)

    return call
