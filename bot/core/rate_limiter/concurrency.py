"""Limits of what is in progress at one time (pure)."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any, NamedTuple, NoReturn

from bot.core._shared.errors import invalid, shown
from bot.core._shared.validation import valid_count

MAX_IN_FLIGHT = 100_000
"""The most that a ConcurrencyLimit can allow."""

RETRY_AFTER = 1.0
"""Seconds that whoever is refused a slot is told to wait: nobody knows when one is given back."""


class ConcurrencyLimit:
    """At most ``max_in_flight`` things of one client in progress at a time, such as downloads. Immutable.

    Two limits of the same values are one limit, wherever they are made. Give limits of equal values a
    ``name`` each to keep their slots apart. Raises ValueError unless ``max_in_flight`` is a whole number
    from 1 to 100,000 and ``name`` a string.
    """

    # Interned, so that identity is equality, as for RateLimitConfig.
    __slots__ = ("__weakref__", "limit_id", "max_in_flight", "name")

    max_in_flight: int
    name: str
    limit_id: bytes
    """What instances that share the limit call it: 16 hexadecimal digits."""

    def __new__(cls, max_in_flight: int, name: str = "") -> ConcurrencyLimit:
        most = int(valid_count("max_in_flight", max_in_flight, 1, MAX_IN_FLIGHT))
        if not isinstance(name, str):
            raise invalid("name", name, "a string")
        name = str.__str__(name)
        known = _interned.get((most, name))
        if known is not None:
            return known
        limit = super().__new__(cls)
        identity = repr((most, name)).encode("utf-8", "surrogatepass")
        object.__setattr__(limit, "max_in_flight", most)
        object.__setattr__(limit, "name", name)
        object.__setattr__(limit, "limit_id", hashlib.blake2b(identity, digest_size=8).hexdigest().encode())
        return _interned.setdefault((most, name), limit)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a ConcurrencyLimit cannot be changed; create a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: a ConcurrencyLimit cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return ConcurrencyLimit, (self.max_in_flight, self.name)

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"ConcurrencyLimit(max_in_flight={self.max_in_flight}{name})"

    @property
    def label(self) -> str:
        """How statistics and errors call it."""
        return self.name or f"{self.max_in_flight} in flight"


_interned: weakref.WeakValueDictionary[tuple[int, str], ConcurrencyLimit] = weakref.WeakValueDictionary()


def valid_concurrency(limit: object) -> ConcurrencyLimit:
    """The limit; TypeError for anything else."""
    if isinstance(limit, ConcurrencyLimit):
        return limit
    raise TypeError(
        f"limit = {shown(limit)}: expected a ConcurrencyLimit (is_allowed and acquire take limits of a rate)"
    )


class SlotStatus(NamedTuple):
    """How many slots of a client are taken."""

    in_flight: int
    """Slots taken: of all instances if limits are shared."""
    max_in_flight: int
    """Slots that the limit allows."""
    waiting: int
    """Callers that wait for a slot."""
    degraded: bool = False
    """Whether only this instance is counted, because Redis is unreachable."""
