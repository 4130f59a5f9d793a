"""Clients that are never limited (pure)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from bot.core._shared.errors import invalid
from bot.core.rate_limiter.models import ClientId, plain_client

Exempt = Collection[ClientId] | Callable[[ClientId], object]
"""Clients, or a function of a client that tells whether it is exempt."""


class Exemptions:
    """Who is never limited: clients named at the start, by code since, and those that a function tells."""

    __slots__ = ("_asked", "_named", "_set", "passed")

    def __init__(self) -> None:
        # Changed by configure, add and remove only.
        self._set: frozenset[ClientId] = frozenset()
        self._asked: Callable[[ClientId], object] | None = None
        self._named: set[ClientId] = set()
        self.passed = 0
        """Checks that were not limited."""

    def __bool__(self) -> bool:
        return bool(self._set or self._named or self._asked is not None)

    @staticmethod
    def checked(exempt: object) -> Exempt:
        """What ``configure`` takes. Raises TypeError or ValueError for anything else."""
        if callable(exempt):
            return exempt
        if isinstance(exempt, str | bytes) or not isinstance(exempt, Collection):
            raise invalid("exempt_clients", exempt, "ids of clients, or a function of an id")
        return frozenset(map(plain_client, exempt))

    def configure(self, exempt: Exempt) -> None:
        """Replace those of the start; those that were added since stay."""
        self._asked = exempt if callable(exempt) else None
        self._set = frozenset() if callable(exempt) else frozenset(exempt)

    def add(self, client: ClientId) -> bool:
        """The client is exempt from now on; False if it was already."""
        if client in self._set or client in self._named:
            return False
        self._named.add(client)
        return True

    def remove(self, client: ClientId) -> bool:
        """The client is limited from now on, unless a function says otherwise; False if it was."""
        found = client in self._set or client in self._named
        self._set -= {client}
        self._named.discard(client)
        return found

    def covers(self, client: ClientId) -> bool:
        """Whether the client is exempt."""
        if client in self._set or client in self._named:
            return True
        return self._asked is not None and bool(self._asked(client))
