"""How the test server knows the Bot API's methods: each checks its arguments and plans the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bot.testing.telegram_bodies import Arguments
from bot.testing.telegram_bots import BotAccount
from bot.testing.telegram_limits import Kind
from bot.testing.telegram_world import ApiError, World


class Planned(NamedTuple):
    """A valid request: what it counts as, and what it does once the limits let it."""

    commit: Callable[[int], Any]
    """Does it, for so many of its messages: the result."""
    kind: Kind = "other"
    chat: int | None = None
    cost: int = 1
    album: bool = False


class Context(NamedTuple):
    """A request: the bot that makes it, and what it asks."""

    world: World
    bot: BotAccount
    method: str
    given: Arguments


Method = Callable[[Context], Planned]
METHODS: dict[str, tuple[str, Method]] = {}
"""By name in lower case: the name as the API spells it, and what it does."""


def method(*names: str) -> Callable[[Method], Method]:
    """Register a function for the methods of these names."""

    def register(function: Method) -> Method:
        for name in names:
            METHODS[name.lower()] = (name, function)
        return function

    return register


def answer(result: Any) -> Planned:
    """Nothing is limited or done; the result is known."""
    return Planned(lambda _: result)


def plan(context: Context) -> Planned:
    """What the method would do. Raises ApiError."""
    found = METHODS.get(context.method.lower())
    if found is None:
        raise ApiError(404, "Not Found: method not found")
    return found[1](context)
