"""The priority and deadline of what a piece of code sends, for requests that name none (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_seconds
from bot.core.outbound.models import Priority

_DEFAULT = (Priority.NOTIFY, None)

current: ContextVar[tuple[Priority, float | None]] = ContextVar("phase4_outbound_sending", default=_DEFAULT)
"""Priority, and seconds from each call within which it must leave."""


@contextmanager
def sending(priority: Priority, deadline: float | None = None) -> Iterator[None]:
    """Set priority and deadline of all requests in this block, and in tasks that are started in it.

    ``deadline`` is seconds from each call. A request's own values win. Raises ValueError for an invalid
    value.
    """
    if priority not in (0, 1, 2, 3):
        raise invalid("priority", priority, "a Priority")
    if deadline is not None:
        valid_seconds("deadline", deadline, zero=True)
    token = current.set((Priority(priority), deadline))
    try:
        yield
    finally:
        current.reset(token)


class Cover:
    """A request that has its turn already, while it is being sent."""

    __slots__ = ("active", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.active = True


covered: ContextVar[Cover | None] = ContextVar("phase4_outbound_covered", default=None)
"""What is sent within has its turn: it must not queue behind itself."""
