"""What goes into the rate limiter and what comes out of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal, NoReturn

from bot.core._shared.errors import invalid, shown
from bot.core._shared.validation import YEAR, valid_seconds
from bot.core.phase4_config.rate_limiter import (
    MAX_BURST,
    MAX_RATE,
    MAX_WINDOW_REQUESTS,
    MIN_BACKOFF,
    MIN_RATE,
    MIN_WINDOW,
)

ClientId = int | str | None
"""The id of a client. None is an unknown client: all such requests share one bucket, without backoff."""

EARLY = 0.0015
"""Seconds before the told time from which a request passes: uvloop counts in milliseconds, and wakes
up to one and a half before a sleep has ended."""


def plain_client(client: object) -> ClientId:
    """The client as an int, a str or None of exactly that type, so that only equal ids are one client.

    Members of enums, and other ints and strs by inheritance, are their value. Raises TypeError for
    anything else: True and 1.0 would be client 1.
    """
    if client is None or type(client) is int or type(client) is str:
        return client
    if isinstance(client, str):
        return str.__str__(client)
    if isinstance(client, int) and not isinstance(client, bool):
        return int.__int__(client)
    raise TypeError(f"client_id = {shown(client)}: expected an int, a str, or None (an unknown client)")


class Backoff:
    """How long clients wait that retry too early, again and again. Immutable.

    The nth step makes a client wait ``base * 2**(n-1)`` seconds, at most ``max``. Requests within ``grace``
    seconds after a first refusal cause no step, because they may have been sent before it. Raises
    ValueError unless all are numbers from 0 to a year, base and max above 0, and base at most max.
    """

    __slots__ = ("base", "grace", "max")

    base: float
    max: float
    grace: float

    def __init__(self, base: float = 2.0, max: float = 3600.0, grace: float = 1.0) -> None:
        object.__setattr__(self, "base", valid_seconds("base", base, most=YEAR))
        object.__setattr__(self, "max", valid_seconds("max", max, most=YEAR))
        object.__setattr__(self, "grace", valid_seconds("grace", grace, zero=True, most=YEAR))
        if self.base < MIN_BACKOFF:
            raise invalid("base", base, f"a number of seconds >= {MIN_BACKOFF:.6f}")
        if self.base > self.max:
            raise invalid("base", base, f"at most max = {self.max:g}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a Backoff cannot be changed; create a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: a Backoff cannot be changed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backoff) and self._figures() == other._figures()

    def __hash__(self) -> int:
        return hash(self._figures())

    def __reduce__(self) -> tuple[Any, ...]:
        return Backoff, self._figures()

    def __repr__(self) -> str:
        return f"Backoff(base={self.base:g}, max={self.max:g}, grace={self.grace:g})"

    def _figures(self) -> tuple[float, float, float]:
        return self.base, self.max, self.grace


BackoffChoice = Backoff | Literal["default"] | None


class RateLimitConfig:
    """One limit: ``burst_size`` requests at once, refilled at ``requests_per_second``. Immutable.

    Two configs of the same values are one limit, whenever and wherever they are made: a handler may
    build its config on each call and still share the client's tokens with the call before. Give
    limits of equal values a ``name`` each to keep their tokens apart.

    ``backoff`` is "default" (the limiter's figures), None (no backoff: early requests are only refused), or
    this limit's own :class:`Backoff`.

    Raises ValueError, with field and value, for a rate or a burst that is not a positive finite number
    (rate above 0, at most 1e12, as for bytes; burst a whole number from 1 to 1,000,000,000).
    """

    # Interned, so that identity is equality and the limiter's look-up hashes a pointer.
    __slots__ = ("__weakref__", "backoff", "burst_size", "name", "requests_per_second")

    requests_per_second: float
    burst_size: int
    name: str
    backoff: BackoffChoice

    def __new__(
        cls,
        requests_per_second: float = 10.0,
        burst_size: int = 50,
        name: str = "",
        backoff: BackoffChoice = "default",
    ) -> RateLimitConfig:
        rate = _valid_rate(requests_per_second)
        burst = _valid_burst(burst_size)
        _check_name_and_backoff(name, backoff)
        known = _interned.get((rate, burst, name, backoff))
        if known is not None:
            return known
        config = super().__new__(cls)
        object.__setattr__(config, "requests_per_second", rate)
        object.__setattr__(config, "burst_size", burst)
        object.__setattr__(config, "name", name)
        object.__setattr__(config, "backoff", backoff)
        return _interned.setdefault((rate, burst, name, backoff), config)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a RateLimitConfig cannot be changed; create a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: a RateLimitConfig cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return RateLimitConfig, (self.requests_per_second, self.burst_size, self.name, self.backoff)

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        backoff = "" if self.backoff == "default" else f", backoff={self.backoff!r}"
        return f"RateLimitConfig({self.figures}{name}{backoff})"

    @property
    def figures(self) -> str:
        """Rate and burst, exactly."""
        rate = self.requests_per_second
        return f"requests_per_second={exact(rate)}, burst_size={self.burst_size}"


_interned: weakref.WeakValueDictionary[tuple[float, int, str, BackoffChoice], RateLimitConfig] = (
    weakref.WeakValueDictionary()
)


class WindowLimit:
    """At most ``max_requests`` in *any* window of ``window`` seconds, exactly. Immutable.

    A client may make all of them at once; each one frees its place ``window`` seconds after it was made.
    Limits of equal values are one limit, as with RateLimitConfig; ``name`` keeps them apart. ``backoff`` is
    that of RateLimitConfig.

    Exactness has a price: the time of each request that counts is kept, 8 bytes each and at most 16 times
    ``max_requests`` bytes for a client.

    Raises ValueError, with field and value, for ``max_requests`` that is not a whole number from 1 to
    100,000, and for a ``window`` that is not a number of seconds from 0.001 to a year.
    """

    # Interned, as RateLimitConfig.
    __slots__ = ("__weakref__", "backoff", "max_requests", "name", "window")

    max_requests: int
    window: float
    name: str
    backoff: BackoffChoice

    def __new__(
        cls, max_requests: int, window: float, name: str = "", backoff: BackoffChoice = "default"
    ) -> WindowLimit:
        most = _whole("max_requests", max_requests, MAX_WINDOW_REQUESTS)
        seconds = valid_seconds("window", window, most=YEAR)
        if seconds < MIN_WINDOW:
            raise invalid("window", window, f"a number of seconds >= {MIN_WINDOW:g} and <= {YEAR:,}")
        _check_name_and_backoff(name, backoff)
        key = (most, seconds, name, backoff)
        known = _interned_windows.get(key)
        if known is not None:
            return known
        limit = super().__new__(cls)
        object.__setattr__(limit, "max_requests", most)
        object.__setattr__(limit, "window", seconds)
        object.__setattr__(limit, "name", name)
        object.__setattr__(limit, "backoff", backoff)
        return _interned_windows.setdefault(key, limit)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a WindowLimit cannot be changed; create a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: a WindowLimit cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return WindowLimit, (self.max_requests, self.window, self.name, self.backoff)

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        backoff = "" if self.backoff == "default" else f", backoff={self.backoff!r}"
        return f"WindowLimit({self.figures}{name}{backoff})"

    @property
    def figures(self) -> str:
        """Number and window, exactly."""
        return f"max_requests={self.max_requests}, window={exact(self.window)}"


_interned_windows: weakref.WeakValueDictionary[tuple[int, float, str, BackoffChoice], WindowLimit] = (
    weakref.WeakValueDictionary()
)

Limit = RateLimitConfig | WindowLimit
"""One limit of requests."""

Limits = Limit | tuple[Limit, ...]
"""One limit, or several that hold together."""

LimitChoice = Limit | tuple[Limit, ...] | str
"""Limits, the name of a tier, or a text such as "10/second;100/hour"."""


def exact(number: float) -> str:
    """A number so that no two are written alike."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def _valid_rate(value: object) -> float:
    allowed = f"a finite number >= {MIN_RATE:.9f} and <= {MAX_RATE:,}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid("requests_per_second", value, allowed)
    if not MIN_RATE <= value <= MAX_RATE:
        raise invalid("requests_per_second", value, allowed)
    return float(value)


def _valid_burst(value: object) -> int:
    return _whole("burst_size", value, MAX_BURST)


def _whole(name: str, value: object, most: int) -> int:
    """A whole number from 1 to ``most``, which may be written as a float."""
    allowed = f"a whole number from 1 to {most:,}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, value, allowed)
    if not 1 <= value <= most or value != int(value):
        raise invalid(name, value, allowed)
    return int(value)


def _check_name_and_backoff(name: object, backoff: object) -> None:
    if not isinstance(name, str):
        raise invalid("name", name, "a string")
    if backoff is not None and not isinstance(backoff, Backoff) and backoff != "default":
        raise invalid("backoff", backoff, 'a Backoff, None or "default"')


class RateLimitStatus(tuple[Any, ...]):
    """The outcome of one check: whether it passed, and what the client may do next.

    Figures are computed when they are read, so that a check does not pay for unused ones.
    """

    # (buckets, slack, tokens, now): slack is the seconds the check passed by, negative the seconds
    # it missed by; and True after these if it is degraded. A tuple, because no Python object is built
    # faster.
    __slots__ = ()

    @property
    def allowed(self) -> bool:
        """Whether the request may go ahead."""
        return bool(self[1] >= 0.0)

    @property
    def retry_after(self) -> float:
        """Seconds after which the same request succeeds; 0.0 if it was allowed. Exact."""
        return -self[1] if self[1] < 0.0 else 0.0

    @property
    def remaining_tokens(self) -> float:
        """Tokens left after this check, with their fraction."""
        buckets, slack, tokens = self[:3]
        if slack < 0.0:
            slack += tokens * buckets.interval  # a refused check took nothing
        return float(min(max(0.0, slack / buckets.interval), buckets.config.burst_size))

    @property
    def remaining(self) -> int:
        """Whole requests the client could make at once now."""
        # The tolerance of the check itself, so that 0.9999999999 of a token is not none.
        return int(self.remaining_tokens + 1e-6)

    @property
    def limit(self) -> int:
        """The burst size: requests that the client can make at once when its bucket is full."""
        return int(self[0].config.burst_size)

    @property
    def degraded(self) -> bool:
        """Whether this instance checked a shared limit on its own: Redis was unreachable."""
        return len(self) == 5

    @property
    def config(self) -> Limit:
        """The limit that was checked; of several the one that refused, or that has the fewest tokens left."""
        found: Limit = self[0].config
        return found

    @property
    def limited_by(self) -> Limit | None:
        """The limit that refused, and of several the one to wait for longest; None if it was allowed."""
        return None if self.allowed else self.config

    @property
    def reset_at(self) -> float:
        """Unix time in seconds at which the client has all its tokens again."""
        buckets, slack, tokens, now = self[:4]
        if slack < 0.0:
            slack += tokens * buckets.interval
        clock = buckets.clock
        full_in = now + max(0.0, buckets.tolerance - slack) - clock.monotonic()
        return float(clock.time() + max(0.0, full_in))

    def __repr__(self) -> str:
        return (
            f"RateLimitStatus(allowed={self.allowed}, remaining={self.remaining}, limit={self.limit}, "
            f"retry_after={self.retry_after:.6f})"
        )


class WindowStatus(RateLimitStatus):
    """The outcome of one check of a WindowLimit."""

    # (windows, slack, tokens, now, tokens left, when none counts any more): slack is 0.0 or, negative,
    # the seconds to wait; and True after these if it is degraded.
    __slots__ = ()

    @property
    def remaining_tokens(self) -> float:
        """Tokens left after this check: a whole number."""
        return float(self[4])

    @property
    def remaining(self) -> int:
        """Requests the client could make at once now, if no backoff holds it."""
        return int(self[4])

    @property
    def limit(self) -> int:
        """Requests that the client can make in a window."""
        return int(self[0].config.max_requests)

    @property
    def degraded(self) -> bool:
        """Whether this instance checked a shared limit on its own: Redis was unreachable."""
        return len(self) == 7

    @property
    def reset_at(self) -> float:
        """Unix time in seconds at which no request of before counts any more."""
        clock = self[0].clock
        return float(clock.time() + max(0.0, self[5] - clock.monotonic()))


KeyFunction = Callable[..., ClientId]
"""Finds the client in the arguments of a call; None if there is none."""
