"""What a sweep takes place in: services that run, and the calls that are cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

Step = Callable[[Any], Awaitable[object]]
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


@dataclass(frozen=True)
class Servers:
    """The real servers, and a folder for files."""

    redis: str
    postgresql: str
    mongodb: str
    folder: Path


@dataclass(frozen=True)
class Scenario:
    """One call, of which each suspension is cancelled in turn."""

    name: str
    covers: tuple[str, ...]
    """The public awaitables that it calls, as :mod:`.public` names them."""
    call: Callable[[Any], Coroutine[Any, Any, Any]]
    before: Step | None
    """Run to its end before each call."""
    after: Step | None
    """Run to its end after each call; raises AssertionError for what is not accounted for."""
    errors: tuple[type[Exception], ...]
    """What a cancelled call may raise instead of CancelledError."""
    swallowed: bool
    """Whether a library that it calls may swallow the cancellation."""


def scenario(
    *covers: str,
    before: Step | None = None,
    after: Step | None = None,
    errors: tuple[type[Exception], ...] = (),
    swallowed: bool = False,
) -> Callable[[F], F]:
    """Make a method of a world a scenario."""

    def mark(function: F) -> F:
        made = Scenario(function.__name__, covers, function, before, after, errors, swallowed)
        function.__dict__["scenario"] = made
        return function

    return mark


class World:
    """Services that run while calls are cancelled. ``held`` tells what they hold when nothing is called."""

    name: ClassVar[str]
    expected: ClassVar[tuple[str, ...]] = ()
    """Words of errors in the log that are meant to be there."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def held(self) -> list[str]:
        """What is taken, waited for or pending, in words."""
        return []

    @classmethod
    def scenarios(cls) -> list[Scenario]:
        found = (getattr(cls, name) for name in dir(cls))
        marked = [
            value.__dict__["scenario"] for value in found if "scenario" in getattr(value, "__dict__", {})
        ]
        return sorted(marked, key=lambda each: each.call.__code__.co_firstlineno)
